"""`study` and `merge`: a grid of plans, run cell by cell; and the `Study` that they return."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Unpack

import pandas as pd

from layerscope.api.keywords import StudySettings
from layerscope.api.plans import ShowProgress, command, part, shown_progress
from layerscope.api.plotting import Runs
from layerscope.config import AnyPath, Exactly, Flag, Kind, Several, To, checked
from layerscope.data.files import LOCK_FILE, locked, refuse_busy, write_atomically
from layerscope.errors import LayerscopeError
from layerscope.results.runs import STEP, finished_cells, write_table
from layerscope.results.table import COLUMNS, TABLE_FILE
from layerscope.settings import EngineConfig, PlotConfig
from layerscope.states.extract import Progress
from layerscope.studies.cells import Cell, Outcome, Worker
from layerscope.studies.executors.cluster import run_ray
from layerscope.studies.executors.local import run_local
from layerscope.studies.grid import Declared, read_declared
from layerscope.studies.reports import REPORTS
from layerscope.studies.store import Failure, StudyFolder, merge_folders

FIGURE_FILE: Final = "figure.svg"
_ENGINES: Final = {"local": run_local, "ray": run_ray}


@dataclass(frozen=True, eq=False, repr=False)
class Study(Runs):
    """What came of a study: its finished cells as runs, and what failed.

    Attributes:
        folder: where it is saved.
        cells: how many cells it has.
        failures: the cells that failed, and why.
        note: why there is no figure or table that the study asks for, "" if there is.
        tables: those that the study asks for, by name.
    """

    folder: Path = Path()
    cells: int = 0
    failures: tuple[Failure, ...] = ()
    note: str = ""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def summary(self) -> str:
        """Return how many cells are finished, and how many failed."""
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"{len(self.runs)} of {self.cells} cells are finished{failed}, in {self.folder}"

    def table(self) -> pd.DataFrame:
        """Return all rows of all finished cells; the column `run` is the cell's key."""
        if not self.runs:
            return pd.DataFrame(columns=["run", *COLUMNS]).astype(COLUMNS)
        return super().table()


@dataclass(frozen=True)
class ModelEstimate:
    """What the cells of one model would take, from one of them.

    Attributes:
        model: its name.
        cells: how many are to run.
        loads: how often the model, or a revision of it, is loaded.
        seconds: of all of them in one worker, loading included; None if unknown.
        memory_bytes: of one of them.
        disk_bytes: of one of them while it runs.
        reason: why nothing could be estimated, "" if it could.
    """

    model: str
    cells: int
    loads: int
    seconds: float | None = None
    memory_bytes: int = 0
    disk_bytes: int = 0
    reason: str = ""


@dataclass(frozen=True)
class StudyEstimates:
    """What a study would take.

    Attributes:
        cells: all of them, or those of the shard.
        finished: which are stored already.
        workers: how many run at once.
        models: what each model would take.
    """

    cells: int
    finished: int
    workers: int
    models: tuple[ModelEstimate, ...]

    @property
    def seconds(self) -> float:
        """Time with all workers at work."""
        return sum(each.seconds or 0.0 for each in self.models) / self.workers

    @property
    def memory_bytes(self) -> int:
        """Memory of the workers together, each with the largest model."""
        return self.workers * max((each.memory_bytes for each in self.models), default=0)

    @property
    def disk_bytes(self) -> int:
        """Disk of the workers together while they run; what stays is far smaller."""
        return self.workers * max((each.disk_bytes for each in self.models), default=0)


@dataclass(frozen=True)
class StudyPlan:
    """A study that only its cells can still refuse.

    Attributes:
        declared: the grid.
        place: where it lies.
        config: where cells run.
        overwrite: whether finished cells are run again.
        show_progress: whether, or the function that shows it.
    """

    declared: Declared
    place: StudyFolder
    config: EngineConfig
    overwrite: bool = False
    show_progress: bool | Progress = True

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of the grid, or of the shard."""
        cells = self.declared.cells
        if self.config.shard is None:
            return cells
        number, count = map(int, self.config.shard.split("/"))
        return cells[len(cells) * (number - 1) // count : len(cells) * number // count]

    def _waiting(self) -> list[Cell]:
        root = self.declared.root
        return [
            cell for cell in self.cells if self.overwrite or not self.place.is_finished(cell, root)
        ]

    def estimate(self) -> StudyEstimates:
        """Return what the cells that are not finished would take, from one cell of each model."""
        waiting = self._waiting()
        by_model: dict[str, list[Cell]] = {}
        for cell in waiting:
            name = STEP.sub("", cell.labels.get("model", cell.model))  # checkpoints cost the same
            by_model.setdefault(name or cell.command, []).append(cell)
        with shown_progress(self.show_progress) as progress:
            found = []
            for number, (model, cells) in enumerate(by_model.items()):
                progress("estimating", number, len(by_model))
                found.append(_estimated(model, cells, self.declared.root))
            progress("estimating", len(by_model), len(by_model))
        workers = max(1, min(self.config.workers, len(waiting)))
        return StudyEstimates(
            len(self.cells), len(self.cells) - len(waiting), workers, tuple(found)
        )

    def run(self) -> Study:
        """Run the cells that are not finished, and store each as soon as it is there."""
        shard = "" if self.config.shard is None else f".{self.config.shard.replace('/', '-of-')}"
        lock = self.place.path / f"{LOCK_FILE}{shard}"
        with locked(lock, lambda: refuse_busy(self.place.path)):
            self.place.open(self.declared.record(), self.declared.cells)
            with shown_progress(self.show_progress) as progress:
                waiting = self._waiting()
                done, total = len(self.cells) - len(waiting), len(self.cells)
                progress("cells", done, total)
                by_key = {cell.key: cell for cell in waiting}
                for outcome in self._outcomes(waiting):
                    self.place.keep(by_key[outcome.key], outcome, self.declared.root)
                    done += 1
                    progress("cells", done, total)
            return _finished(self.place)

    def _outcomes(self, cells: Sequence[Cell]) -> Iterator[Outcome]:
        if cells:
            engine = _ENGINES[self.config.engine]
            yield from engine(cells, self.declared.root, self.config, self.declared.resources)


def _estimated(model: str, cells: Sequence[Cell], root: Path) -> ModelEstimate:
    cell, loads = cells[0], len({each.loads for each in cells})
    try:
        plan, load = cell.plan(root), 0.0
        if cell.kind.takes_model:
            started = time.perf_counter()
            plan = replace(plan, model=Worker(str(root)).backbone(cell)[0])  # type: ignore[type-var]
            load = time.perf_counter() - started
        one = plan.estimate()
    except LayerscopeError as error:
        return ModelEstimate(model, len(cells), loads, reason=str(error))
    seconds = one.pass_seconds + getattr(one, "score_seconds", 0.0)
    return ModelEstimate(
        model,
        len(cells),
        loads,
        load * loads + seconds * len(cells),
        one.memory_bytes,
        one.disk_bytes,
    )


def _finished(place: StudyFolder) -> Study:
    """Return what a folder holds, with its tables and figure written anew."""
    found = load_study(place.path)
    if not found.runs:
        return found
    write_table(place.path / TABLE_FILE, found.runs)
    notes, tables = [], {}
    for name in place.record().get("tables", ()):
        try:
            tables[name] = REPORTS[name].make(found)
        except LayerscopeError as error:  # too few cells are finished, or they hold other measures
            notes.append(f"No table {name}: {error}")
            continue
        content = tables[name].to_csv(index=False).encode()
        write_atomically(place.path / f"{name}.csv", content)
    try:
        if found.config.draw != "none":
            found.save_plot(place.path / FIGURE_FILE)
    except LayerscopeError as error:  # no matplotlib, or nothing that a figure could show
        notes.append(f"No figure: {error}")
    return replace(found, note=" ".join(notes), tables=tables)


StudyLike = Annotated[str | Path | Mapping[str, Any], Kind("a YAML file, or its keys as a dict")]


@command(EngineConfig)
def study(
    study: StudyLike,
    config: Exactly[EngineConfig] | None = None,
    *,
    out: AnyPath | None = None,
    overwrite: Flag = False,
    show_progress: ShowProgress = True,
    **settings: Unpack[StudySettings],
) -> StudyPlan:
    """Run a declared grid of plans; what is finished is kept and not run again.

    Args:
        study: the study's file, or the same keys as a dict.
        config: the settings as one object; single settings below change it.
        out: folder for the study; by default runs/NAME.
        overwrite: whether finished cells are run again.
        show_progress: as of `scan`.
        settings: any field of `EngineConfig`.

    Raises:
        InputError: the study cannot be read, or its folder is not ours; the message says what to do.
        RunError: the engine or the disk failed; finished cells are kept.
    """
    chosen, declared = part(EngineConfig, settings, config), read_declared(study)
    place = StudyFolder(Path(out) if out is not None else Path("runs", _plain(declared.name)))
    place.claim()
    return StudyPlan(declared, place, chosen, overwrite, show_progress)


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "study"


@checked
def merge(
    folders: Annotated[AnyPath | Sequence[AnyPath], To(Several[AnyPath])], out: AnyPath
) -> Study:
    """Put the shards of one study together in one folder.

    Args:
        folders: of the shards.
        out: folder for the whole, which may be one of a study already.

    Raises:
        InputError: a folder holds no study, or another one.
    """
    given: Any = folders
    place = StudyFolder(Path(out))
    merge_folders([Path(each) for each in given], place)
    return _finished(place)


@checked
def load_study(folder: AnyPath) -> Study:
    """Read a study from its folder, finished or not.

    Raises:
        InputError: the folder holds none.
    """
    place = StudyFolder(Path(folder))
    cells, plot = place.cells(), PlotConfig(**place.record()["plot"])
    return Study(
        tuple(finished_cells(place.path)), plot, place.path, len(cells), place.failures(cells)
    )
