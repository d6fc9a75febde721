"""A file in YAML with the line of every key, so that a mistake is shown where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from layerscope.config import Config, shown
from layerscope.data.files import close_names, lines_of, open_file
from layerscope.errors import InputError, unknown_name

C = TypeVar("C", bound=Config)
Place = tuple[str | int, ...]
"""Where something stands: keys, and numbers of items, from the outside in."""


@dataclass(frozen=True)
class Source:
    """Keys and values, where they come from, and checks that say where a mistake is.

    Attributes:
        name: of the file.
        folder: where it lies.
        given: the keys and values.
        lines: place -> line; empty for a dict of Python.
    """

    name: str
    folder: Path
    given: Mapping[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)

    def mistake(self, place: Place, said: object) -> InputError:
        """Return an error with the line of a place, or its keys where there are no lines."""
        inner = (place[:end] for end in range(len(place), 0, -1))
        line = next((self.lines[each] for each in inner if each in self.lines), None)
        keys = "".join(f", {part}" for part in place if isinstance(part, str))
        return InputError(f"{self.name}{keys if line is None else f', line {line}'}: {said}")

    def mapping(self, given: Any, place: Place) -> dict[str, Any]:
        """Return keys with values; none where nothing is given.

        Raises:
            InputError: something else is given.
        """
        if given is not None and not isinstance(given, Mapping):
            raise self.mistake(place, f"expected keys with values, got {shown(given)}.")
        return {str(key): value for key, value in (given or {}).items()}

    def known(self, key: str, names: Iterable[str], place: Place) -> None:
        """Raise an InputError for a key that nobody knows."""
        if key not in (listed := list(names)):
            raise self.mistake((*place, key), unknown_name("key", key, listed))

    def checked(self, kind: type[Config], key: str, value: Any, place: Place) -> Any:
        """Return one value as a config records it.

        Raises:
            InputError: the config refuses it.
        """
        try:
            return kind(**{key: value}).as_dict()[key]
        except InputError as error:
            raise self.mistake(place, error) from None

    def config(self, kind: type[C], given: Any, place: Place = ()) -> C:
        """Return a config of the keys and values at a place.

        Raises:
            InputError: a key that nobody knows, or a value that the config refuses.
        """
        values = self.mapping(given, place)
        for key, value in values.items():
            self.known(key, kind.model_fields, place)
            self.checked(kind, key, value, (*place, key))
        return kind(**values)


def read_source(given: str | Path | Mapping[str, Any], name: str) -> Source:
    """Read a YAML file, or take its keys and values as a dict.

    Args:
        given: the path, or the dict.
        name: what a dict is called in messages.

    Raises:
        InputError: no file there, no YAML, a key that stands twice, or no keys.
    """
    if isinstance(given, Mapping):
        return Source(name, Path.cwd(), given)
    path = Path(given).expanduser()
    if path.is_dir():
        raise InputError(f"expected a file in YAML, {str(path)!r} is a folder.")
    if not path.exists():
        raise InputError(f"there is no file {str(path)!r}; {close_names(path)}")
    with open_file(path) as stream:
        text = "\n".join(lines_of(stream, path.name))
    lines: dict[Place, int] = {}
    try:
        _note_lines(yaml.compose(text, Loader=yaml.SafeLoader), (), lines, path.name)
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path.name}{where}: this is no YAML ({problem}).") from None
    if not isinstance(found, Mapping):
        raise InputError(f"expected keys with values in {path.name}, got {shown(found)}.")
    return Source(path.name, path.parent.absolute(), found, lines)


def _note_lines(node: Any, place: Place, lines: dict[Place, int], name: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner, line = (*place, str(key.value)), key.start_mark.line + 1
            if inner in lines:
                raise InputError(
                    f"{name}, line {line}: the key {key.value!r} stands in line {lines[inner]} already."
                )
            lines[inner] = line
            _note_lines(value, inner, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[(*place, number)] = value.start_mark.line + 1
            _note_lines(value, (*place, number), lines, name)
