"""A cell of a study: plain values in, a run out; and what runs it, with one model loaded at a time."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from layerscope.api.plans import Plan, part
from layerscope.data.texts import SAMPLE
from layerscope.errors import LayerscopeError
from layerscope.models.backbone import Backbone
from layerscope.results.table import save_run
from layerscope.settings import ModelOptions
from layerscope.studies.kinds import KINDS, Kind

# A change of what cells compute from the same values must change their keys.
_VERSION: Final = 1
_LONGEST: Final = 300  # characters of another library's message
IMAGES: Final = "images"  # the setting that names them, in place of data
BY_NAME: Final = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Cell:
    """One plan of a study as plain values.

    Attributes:
        command: which command runs.
        model: name or folder, as the study has it; "" where there is none.
        data: name, file or task, as the study has it; "" where there is none.
        settings: of the command and of loading the model, and which images are its data.
        labels: what the table's columns model and data say; they decide no number.
    """

    command: str
    model: str
    data: str
    settings: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What runs it."""
        return BY_NAME[self.command]

    @property
    def values(self) -> dict[str, Any]:
        """The settings as a command takes them: JSON has no infinity."""
        return {
            name: math.inf if value == "inf" else value for name, value in self.settings.items()
        }

    @property
    def images(self) -> str:
        """The name of the images that are its data; "" where texts or tasks are."""
        return str(self.settings.get(IMAGES, ""))

    @property
    def key(self) -> str:
        """16 hexadecimal digits of a hash of the values that decide its numbers."""
        values = {name: value for name, value in asdict(self).items() if name != "labels"}
        text = json.dumps({"version": _VERSION, **values}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def loads(self) -> str:
        """What model it needs, loaded how: cells with the same text share it."""
        options = part(ModelOptions, self.settings).as_dict()
        return json.dumps([self.model, options, self.kind.head, bool(self.images)], sort_keys=True)

    def __str__(self) -> str:
        """Return what it is of, in words."""
        shown = ("revision", "perturbation", "seed")
        more = [
            f"{name} {self.settings[name]}" for name in shown if self.settings.get(name) is not None
        ]
        named = (self.model, self.data, self.images)
        return ", ".join(part for part in (*named, *more) if part)

    def plan(self, root: Path) -> Plan[Any, Any]:
        """Return the plan; names of files and folders are looked up from the study's folder first."""
        paths = {
            name: located(self.settings[name], root)
            for name in (*self.kind.paths, IMAGES)
            if name in self.settings
        }
        model, data = located(self.model, root), located(self.data, root)
        return self.kind.plan(model, data, self.values | paths)


def located(name: str, root: Path) -> str:
    """Return the path of what lies in the study's folder under a name, else the name itself."""
    path = root / Path(name).expanduser()
    return str(path) if name not in ("", SAMPLE) and path.exists() else name


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes:
        key: of the cell.
        files: name -> content of the files of its run; empty if it failed.
        reason: why it failed, "" if it did not.
        facts: seconds, whether the model was loaded for it, and the worker's process.
    """

    key: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Worker:
    """Runs cells one after the other and keeps the model of the last one.

    Args:
        root: the study's folder.
        threads: of torch; None leaves them.
    """

    def __init__(self, root: str, threads: int | None = None) -> None:
        self._root = Path(root)
        self._loaded: tuple[str, Backbone] | None = None
        if threads is not None:
            import torch

            torch.set_num_threads(threads)

    def ready(self) -> bool:
        """Answer once the worker runs."""
        return True

    def run(self, values: dict[str, Any]) -> Outcome:
        """Run one cell, given as its values; an error becomes the reason why it failed."""
        cell, started = Cell(**values), time.perf_counter()
        facts: dict[str, Any] = {"process": os.getpid(), "loaded": False}
        try:
            plan = cell.plan(self._root)
            if cell.kind.takes_model:
                backbone, facts["loaded"] = self.backbone(cell)
                plan = replace(plan, model=backbone)  # type: ignore[type-var]
            files = _files_of(plan.run())
        except LayerscopeError as error:
            return Outcome(cell.key, reason=str(error), facts=facts)
        except Exception as error:  # of any library: the other cells go on
            said = " ".join(str(error).split())[:_LONGEST]
            facts["traceback"] = traceback.format_exc()
            return Outcome(cell.key, reason=f"{type(error).__name__}: {said}", facts=facts)
        facts["seconds"] = round(time.perf_counter() - started, 3)
        return Outcome(cell.key, files, facts=facts)

    def backbone(self, cell: Cell) -> tuple[Backbone, bool]:
        """Return the model of a cell and whether it had to be loaded; another one is let go first."""
        from layerscope.models import loading

        if self._loaded is not None and self._loaded[0] == cell.loads:
            return self._loaded[1], False
        self._loaded = None
        options = part(ModelOptions, cell.settings)
        path, images = located(cell.model, self._root), bool(cell.images)
        backbone = loading.load(path, options, head=cell.kind.head, images=images)
        self._loaded = (cell.loads, backbone)
        return backbone, True


def _files_of(result: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save_run(result.run, Path(folder))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
