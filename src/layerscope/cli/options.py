"""The options of commands: those of settings, made from the configs, and the command line's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from layerscope.cli.app import check_choice, listed, most
from layerscope.config import Config, Option, To

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print every table and note, not only the answer.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")]
Model = Annotated[
    str, typer.Argument(help="Hub id, local folder, GGUF file or sentence-transformers folder.")
]
Images = Annotated[
    str | None,
    typer.Option(
        help="Images instead of texts: a folder (png, jpg, webp), a .parquet file or a datasets id."
    ),
]
Threads = Annotated[int | None, typer.Option(help="CPU threads  [default: torch's]")]
Png = Annotated[Path | None, typer.Option(help="Also draw it to a .png file.")]
Svg = Annotated[Path | None, typer.Option(help="Also draw it to a .svg file.")]

Given = dict[str, Any]
"""The values of settings by name, as a public function takes them."""


def with_settings(*configs: type[Config]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every setting of some configs; its parameter `settings` gets them.

    `cli.help` puts them into groups.
    """
    fields = {name: field for config in configs for name, field in config.model_fields.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "settings"
        ]
        parameters += [_parameter(name, field) for name, field in fields.items()]

        @wraps(command)
        def call(**given: Any) -> None:
            settings = {
                name: _value(name, field, given.pop(name)) for name, field in fields.items()
            }
            command(**given, settings=settings)

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {each.name: each.annotation for each in parameters}
        return call

    return decorate


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    annotation = field.rebuild_annotation()
    option, kind = _option(annotation), _kind(annotation)
    flag = option.name or f"--{name.replace('_', '-')}"
    typed: Any
    if kind is bool and not option.words:
        both = field.default and "/" not in flag
        flag += f"/--no-{flag.removeprefix('--')}" if both else ""
        typed, default = bool, field.default
    else:
        typed = kind if kind in (int, float) else str
        default = _typed(field.default, option)
    asked: dict[str, Any] = {}
    if option.zero_is_all:
        asked = {"parser": partial(most, flag), "metavar": "COUNT|all"}
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[
            typed if default is not None else typed | None,
            typer.Option(
                flag,
                help=" ".join((field.description or "").split()),
                **asked,
            ),
        ],
    )


def _typed(default: Any, option: Option) -> Any:
    """Return a default as it would be typed; None where nothing is typed for it."""
    if option.zero_is_all:
        return "all" if default is None else default
    if option.words and default is not None:
        return option.words[default]
    if isinstance(default, tuple):
        return option.separator.join(str(_typed(each, option)) for each in default) or None
    return default.value if isinstance(default, Enum) else default


def _value(name: str, field: FieldInfo, given: Any) -> Any:
    """Return what a setting's config takes for the text or number that an option was given."""
    annotation = field.rebuild_annotation()
    option = _option(annotation)
    if option.zero_is_all:
        return given or None
    if given is None:
        return field.default
    if option.words:
        check_choice(name.replace("_", " "), given, option.words)
        return bool(option.words.index(given))
    if isinstance(given, str) and not option.whole and _kind(annotation) is tuple:
        return listed(given, option.separator)
    return given


def _parts(annotation: Any) -> Iterator[Any]:
    """Walk through a type: what is annotated, the facts beside it, and the types in it."""
    yield annotation
    arguments = get_args(annotation)
    for part in arguments:
        yield from _parts(part.kind if isinstance(part, To) else part)


def _option(annotation: Any) -> Option:
    return next((part for part in _parts(annotation) if isinstance(part, Option)), Option())


def _kind(annotation: Any) -> type:
    """Return bool, int, float, tuple or str: what a setting holds, None left aside."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        turned = next((part for part in arguments if isinstance(part, To)), None)
        return _kind(turned.kind if turned else arguments[0])
    if origin in (Union, UnionType):
        return _kind(next(part for part in arguments if part is not NoneType))
    if origin is tuple:
        return tuple
    return annotation if annotation in (bool, int, float) else str
