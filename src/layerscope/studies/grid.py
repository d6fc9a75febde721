"""What a study's file declares, checked: a grid of cells, what they need, how their figure is drawn."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

from annotated_types import Ge
from pydantic import AfterValidator

from layerscope.config import Config, Count, Number, Perturbation, Text, shown
from layerscope.errors import InputError, unknown_name
from layerscope.results.runs import in_order
from layerscope.settings import PlotConfig
from layerscope.studies.cells import BY_NAME, IMAGES, Cell
from layerscope.studies.file import Place, Source, read_source
from layerscope.studies.reports import REPORTS

# The axes besides models and data, and the setting of which each lists values.
AXES: Final = {
    "revisions": "revision", "perturbations": "perturbation", "seeds": "seed", "stages": "stages",
}  # fmt: skip
_ENTRIES: Final = {"models": "model", "data": "data"}


def _known_command(name: str) -> str:
    if name not in BY_NAME:
        raise unknown_name("command", name, BY_NAME)
    return name


class Resources(Config):
    """What a cell needs of the machine that runs it."""

    cpus: Count | None = None
    """CPU cores; by default those of the machine, divided by the workers."""
    gpus: Annotated[Number, Ge(0)] = 0.0
    """GPUs; on Ray a part of one is possible."""
    memory_gb: Annotated[Number, Ge(0)] | None = None
    """Memory in GB, by which Ray places cells."""


class GridKeys(Config):
    """What declares a grid of cells."""

    command: Annotated[Text, AfterValidator(_known_command)] = "scan"
    """The command that every cell runs."""
    models: Any = None
    """Names or folders; or mappings with `model`, a label, revisions and settings of its own."""
    revisions: Any = None
    """Branches, tags or commits of every model."""
    data: Any = None
    """Texts as for a scan, or tasks; or mappings with `data` or `images`, a label and own settings."""
    perturbations: Any = None
    """Changes of the tokens: none, `repeat p=0.5`, or mappings with kind and p or tokens."""
    stages: Any = None
    """Stages besides block; one pass reads them all, so they are rows of each cell."""
    seeds: Any = None
    """Seeds."""
    settings: Any = None
    """Settings of the command that hold for every cell."""


class StudyKeys(GridKeys):
    """What stands in a study's file."""

    name: Text | None = None
    """Title of the study."""
    parts: Any = None
    """Several grids: keys of one each, which replace those of the whole file."""
    resources: Any = None
    """What a cell needs (`Resources`)."""
    plot: Any = None
    """How the figure is drawn (`PlotConfig`)."""
    tables: Any = None
    """Tables made of the finished cells (`reports.REPORTS`)."""


@dataclass(frozen=True)
class Declared:
    """A study, checked.

    Attributes:
        name: its title.
        root: the folder from which its paths start.
        given: what was written.
        cells: the grid, model by model.
        resources: what a cell needs.
        plot: how its figure is drawn.
        tables: the tables that are made of the finished cells.
    """

    name: str
    root: Path
    given: dict[str, Any]
    cells: tuple[Cell, ...]
    resources: Resources
    plot: PlotConfig
    tables: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return what `study.json` holds besides the cells."""
        return {
            "name": self.name,
            "study": self.given,
            "plot": self.plot.as_dict(),
            "tables": list(self.tables),
        }


def read_declared(given: str | Path | Mapping[str, Any]) -> Declared:
    """Read a study from its file, or from the same keys as a dict.

    Raises:
        InputError: it cannot be read, a key that nobody knows, a value that a setting cannot have, no
            cell, or a cell that comes twice; with the line where there are lines.
    """
    source = read_source(given, "the study")
    keys = source.config(StudyKeys, source.given)
    named = "study" if isinstance(given, Mapping) else Path(given).stem
    return Declared(
        keys.name or named,
        source.folder,
        json.loads(json.dumps(source.given, default=str)),
        _cells(source, keys),
        source.config(Resources, keys.resources, ("resources",)),
        source.config(PlotConfig, keys.plot, ("plot",)),
        _tables(source, keys.tables),
    )


def _tables(source: Source, given: Any) -> tuple[str, ...]:
    found = _several(given)
    for number, name in enumerate(found):
        if name not in REPORTS:
            place = ("tables", number) if isinstance(given, list | tuple) else ("tables",)
            raise source.mistake(place, unknown_name("table", str(name), REPORTS))
    return tuple(found)


def _cells(source: Source, keys: StudyKeys) -> tuple[Cell, ...]:
    """Return the cells of every part, or of the one grid.

    Raises:
        InputError: a key that no grid has, a cell that comes twice, or none at all.
    """
    found: dict[str, Cell] = {}
    whole = {name: getattr(keys, name) for name in GridKeys.model_fields}
    parts: list[tuple[Place, Any]] = [
        (("parts", number), each) for number, each in enumerate(_several(keys.parts))
    ]
    for start, given in parts or [((), {})]:
        own = source.config(GridKeys, given, start)
        replaced = dict.fromkeys(source.mapping(given, start), start)
        chosen = whole | {name: getattr(own, name) for name in replaced}
        for place, cell in _Grid(source, GridKeys(**chosen), replaced).cells():
            if cell.key in found:
                raise source.mistake(start or place, f"the cell {cell} comes twice; leave one out.")
            found[cell.key] = cell
    if not found:
        raise source.mistake((), "the grid has no cells; list models and data.")
    return tuple(found.values())


@dataclass(frozen=True)
class _Entry:
    """A model or data of the grid: where it stands, its name, its label, what holds for it alone."""

    place: Place
    name: str = ""
    label: str = ""
    revisions: Sequence[Any] = ()
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Grid:
    """One cell for each choice of a value of every axis."""

    source: Source
    keys: GridKeys
    own: Mapping[str, Place]  # where a part has keys of its own

    def cells(self) -> Iterator[tuple[Place, Cell]]:
        """Yield each cell with the place of its model or data.

        Raises:
            InputError: settings that nobody knows or that cannot go together.
        """
        checked: set[str] = set()
        for place, cell in self._all():
            settings = json.dumps(cell.settings, sort_keys=True)
            if settings not in checked:
                self._check(cell, place)
            checked.add(settings)
            yield place, cell

    def _at(self, key: str) -> Place:
        return (*self.own.get(key, ()), key)

    def _check(self, cell: Cell, place: Place) -> None:
        """Refuse settings that cannot go together, before anything runs."""
        try:
            cell.kind.check(cell.values)
        except InputError as error:
            raise self.source.mistake(
                self._at("settings") if self.keys.settings else place, error
            ) from None

    def _all(self) -> Iterator[tuple[Place, Cell]]:
        common = self._settings(self.keys.settings, self._at("settings"))
        axes = {axis: self._axis(axis, getattr(self.keys, axis), self._at(axis)) for axis in AXES}
        for axis, setting in AXES.items():
            if axes[axis] and setting in common:
                said = f"{setting} stands in the settings and as {axis}; leave one out."
                raise self.source.mistake((*self._at("settings"), setting), said)
        data = self._entries("data")
        for model in self._entries("models"):
            choices = itertools.product(
                model.revisions or axes["revisions"] or [None],
                data,
                axes["perturbations"] or [None],
                axes["seeds"] or [None],
            )
            for revision, text, perturbation, seed in choices:
                values = {"revision": revision, "perturbation": perturbation, "seed": seed}
                drawn = {name: value for name, value in values.items() if value is not None}
                if axes["stages"]:
                    drawn["stages"] = axes["stages"]
                own = {**(text.settings or {}), **(model.settings or {})}
                place = model.place if isinstance(model.place[-1], int) else text.place
                for name in drawn.keys() & own.keys():
                    said = f"{name} stands there and as an axis of the grid; leave one out."
                    raise self.source.mistake(place, said)
                labels = {"model": model.label or model.name, "data": text.label}
                named = {name: value for name, value in labels.items() if value}
                settings = {**common, **own, **drawn}
                yield place, Cell(self.keys.command, model.name, text.name, settings, named)

    def _entries(self, axis: str) -> list[_Entry]:
        kind, given, at = BY_NAME[self.keys.command], getattr(self.keys, axis), self._at(axis)
        if not (kind.reads_model if axis == "models" else kind.reads_data):
            if given is not None:
                said = f"{kind.name} reads no {axis}; leave them out."
                raise self.source.mistake(at, said)
            return [_Entry(at)]
        listed = isinstance(given, list | tuple)
        entries = [
            self._entry(axis, each, (*at, number) if listed else at)
            for number, each in enumerate(_several(given))
        ]
        return [each for entry in entries for each in self._expanded(entry)]

    def _expanded(self, entry: _Entry) -> list[_Entry]:
        """Return an entry for each file or folder that a name with a star stands for."""
        if "*" not in entry.name:
            return [entry]
        pattern = Path(entry.name).expanduser()
        root = Path(pattern.anchor) if pattern.anchor else self.source.folder
        there = root.glob(str(pattern.relative_to(pattern.anchor)))
        found = [str(path if pattern.anchor else path.relative_to(root)) for path in there]
        if not found:
            raise self.source.mistake(
                entry.place, f"nothing in {str(root)!r} matches {entry.name!r}; check the path."
            )
        label = "" if len(found) > 1 else entry.label
        return [replace(entry, name=name, label=label) for name in sorted(found, key=in_order)]

    def _entry(self, axis: str, given: Any, place: Place) -> _Entry:
        word, sees = _ENTRIES[axis], axis == "data" and BY_NAME[self.keys.command].reads_images
        values = dict(given) if isinstance(given, Mapping) else {word: given}
        name, label = values.pop(word, None), values.pop("label", "")
        images = values.pop(IMAGES, None) if sees else None
        [named, *more] = [each for each in (name, images) if each is not None] or [None]
        if not isinstance(named, str) or not named or more or not isinstance(label, str):
            words = f"{word} or {IMAGES}" if sees else word
            said = (
                f"expected a name, or a mapping with {words} and perhaps label, got {shown(given)}."
            )
            raise self.source.mistake(place, said)
        revisions = values.pop("revisions", None) if axis == "models" else None
        others = (word, "label", *(["revisions"] if axis == "models" else [IMAGES] if sees else []))
        settings = self._settings(values, place, others) | ({IMAGES: images} if images else {})
        return _Entry(
            place, name or "", label, self._axis("revisions", revisions, (*place, "revisions")),
            settings,
        )  # fmt: skip

    def _settings(self, given: Any, place: Place, others: Sequence[str] = ()) -> dict[str, Any]:
        """Return settings of the command as their configs record them."""
        kind, found = BY_NAME[self.keys.command], {}
        for key, value in self.source.mapping(given, place).items():
            self.source.known(key, (*others, *kind.settings), place)
            config = kind.config_of(key)
            found[key] = (
                str(value)
                if config is None
                else self.source.checked(config, key, value, (*place, key))
            )
        return found

    def _axis(self, axis: str, given: Any, place: Place) -> list[Any]:
        """Return the values of an axis, checked as values of its setting."""
        setting = AXES[axis]
        config = BY_NAME[self.keys.command].config_of(setting)
        found: list[Any] = []
        for number, value in enumerate(_several(given)):
            if config is None:
                said = f"{self.keys.command} has no {axis}; leave them out."
                raise self.source.mistake(place, said)
            for each in (
                self._swept(value, (*place, number)) if axis == "perturbations" else [value]
            ):
                text = str(each) if axis == "revisions" else each  # a step may be a plain number
                found.append(self.source.checked(config, setting, text, (*place, number)))
        if axis == "stages":  # each is recorded with block
            return list(dict.fromkeys(stage for stages in found for stage in stages))
        return found

    def _swept(self, given: Any, place: Place) -> list[Any]:
        """Return the perturbations of one entry: one for each p, or each number of tokens."""
        if given in ("none", {"kind": "none"}):
            return [None]
        if not isinstance(given, Mapping):
            return [given]
        keys = [key for key in ("p", "tokens") if isinstance(given.get(key), list | tuple)]
        for key in given:
            self.source.known(key, Perturbation.model_fields, place)
        return [{**given, key: value} for key in keys for value in given[key]] or [dict(given)]


def _several(given: Any) -> list[Any]:
    """Return a list of what may be one value, several or none."""
    if isinstance(given, list | tuple):
        return list(given)
    return [] if given is None else [given]
