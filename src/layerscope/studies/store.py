"""The folder of a study: finished cells as runs, stored whole or not at all, and why others failed."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from layerscope.data.files import (
    LOCK_FILE,
    explained_write_error,
    newest,
    refuse_unwritable,
    write_atomically,
    write_json,
)
from layerscope.errors import InputError
from layerscope.results.runs import CELLS, STUDY_FILE, is_study, read_study
from layerscope.results.table import RECORD_FILE
from layerscope.studies.cells import Cell, Outcome, located

FAILED: Final = "failed"
FACTS_FILE: Final = "cell.json"
_CHANGED: Final = "sources_changed"


@dataclass(frozen=True)
class Failure:
    """A cell that failed.

    Attributes:
        cell: what it is of, in words.
        reason: why.
    """

    cell: str
    reason: str


@dataclass(frozen=True)
class StudyFolder:
    """Where a study lies: `study.json`, a folder in `cells` for each finished one, `failed`.

    Attributes:
        path: the folder.
    """

    path: Path

    def claim(self) -> None:
        """Refuse, before any work, a folder that is not a study's.

        Raises:
            InputError: it is a file, holds other things, or cannot be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"expected a folder for the study, {str(self.path)!r} is a file.")
        others = self.path.exists() and any(
            not each.name.startswith(LOCK_FILE) for each in self.path.iterdir()
        )
        if others and not is_study(self.path):
            raise InputError(
                f"{str(self.path)!r} holds other files than a study; choose a new or empty --out folder."
            )
        refuse_unwritable(self.path)

    def open(self, record: dict[str, Any], cells: Sequence[Cell]) -> None:
        """Write what the study is, and drop what a killed process left half written."""
        listed = [{"key": cell.key, **asdict(cell)} for cell in cells]
        write_json(self.path / STUDY_FILE, {**record, "schema_version": 1, CELLS: listed})
        for left in (self.path / CELLS).glob(".*"):
            shutil.rmtree(left, ignore_errors=True)

    def record(self) -> dict[str, Any]:
        """Return what `study.json` holds.

        Raises:
            InputError: the folder holds no study, or it cannot be read.
        """
        return read_study(self.path)

    def cells(self) -> tuple[Cell, ...]:
        """Return the cells of the study, finished or not."""
        names = [each.name for each in fields(Cell)]
        listed = self.record()[CELLS]
        return tuple(Cell(**{name: values[name] for name in names}) for values in listed)

    def is_finished(self, cell: Cell, root: Path) -> bool:
        """Whether a cell is stored, and no file that it reads was changed since it ran."""
        if not (self.path / CELLS / cell.key / RECORD_FILE).is_file():
            return False
        return _changed(cell, root) <= float(self.facts(cell).get(_CHANGED, 0))

    def keep(self, cell: Cell, outcome: Outcome, root: Path) -> None:
        """Store a finished cell, or the reason why it failed.

        Args:
            cell: the cell.
            outcome: what came of it.
            root: the folder from which its paths start.

        Raises:
            RunError: the disk is full.
            InputError: the folder cannot be written to.
        """
        failed = self.path / FAILED / f"{cell.key}.json"
        if outcome.reason:
            facts = dict(outcome.facts)
            write_json(failed, {"cell": asdict(cell), "reason": outcome.reason, "facts": facts})
            return
        target = self.path / CELLS / cell.key
        partial = target.with_name(f".{cell.key}.{secrets.token_hex(4)}")
        try:
            facts = {**outcome.facts, _CHANGED: _changed(cell, root)}
            write_json(partial / FACTS_FILE, {"cell": asdict(cell), "facts": facts})
            for name, content in outcome.files.items():
                write_atomically(partial / name, content)
            shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
            failed.unlink(missing_ok=True)
        except OSError as error:
            raise explained_write_error(error, target) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def facts(self, cell: Cell) -> dict[str, Any]:
        """Return how a finished cell was made: seconds, process, whether its model was loaded for it."""
        found = json.loads((self.path / CELLS / cell.key / FACTS_FILE).read_text(encoding="utf-8"))
        return dict(found["facts"])

    def failures(self, cells: Iterable[Cell]) -> tuple[Failure, ...]:
        """Return which of some cells failed the last time, and why."""
        found = []
        for cell in cells:
            with suppress(FileNotFoundError):
                text = (self.path / FAILED / f"{cell.key}.json").read_text(encoding="utf-8")
                found.append(Failure(str(cell), str(json.loads(text)["reason"])))
        return tuple(found)


def _changed(cell: Cell, root: Path) -> float:
    """Return when the local files that a cell reads were last changed, 0 where there are none."""
    paths = (Path(located(name, root)) for name in (cell.model, cell.data, cell.images) if name)
    return max(map(newest, paths), default=0.0)


def merge_folders(folders: Sequence[Path], target: StudyFolder) -> None:
    """Copy the finished cells of several folders of one study, and the failures of the rest.

    Raises:
        InputError: a folder holds no study, or another one than the first.
    """
    first = StudyFolder(folders[0])
    record, cells = first.record(), first.cells()
    for folder in folders[1:]:
        if StudyFolder(folder).cells() != cells:
            raise InputError(
                f"expected folders of one study, {str(folder)!r} has other cells than "
                f"{str(folders[0])!r}; run all shards from the same file."
            )
    target.claim()
    target.open(record, cells)
    for cell in cells:
        _copy(cell, folders, target)


def _copy(cell: Cell, folders: Sequence[Path], target: StudyFolder) -> None:
    place = target.path / CELLS / cell.key
    for folder in folders:
        source = folder / CELLS / cell.key
        if (source / RECORD_FILE).is_file() and not place.exists():
            partial = place.with_name(f".{cell.key}.{secrets.token_hex(4)}")
            shutil.copytree(source, partial)  # keeps the times of the files
            partial.replace(place)
    failed = [folder / FAILED / f"{cell.key}.json" for folder in folders]
    for source in (each for each in failed if each.is_file()):
        if not place.exists():
            write_atomically(target.path / FAILED / source.name, source.read_bytes())
