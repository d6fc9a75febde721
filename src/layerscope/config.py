"""The base of every config, the types and choices of settings, and the check of arguments.

A setting is defined once: its type, its bounds and a docstring. NumPy scalars become plain Python
values, lists and arrays become tuples, a single value becomes a tuple of one. Any other value that does
not fit raises an `InputError` that names the setting, what was expected and what came.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from enum import Enum, StrEnum
from numbers import Integral
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    ParamSpec,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError, create_model
from pydantic_core import core_schema

from layerscope.errors import InputError, unknown_name

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

_SHOWN: Final = 60  # characters of a wrong value
_BOUNDS: Final = ("greater_than", "greater_than_equal", "less_than_equal")
_NAMES: Final[dict[Any, str]] = {
    int: "a whole number", float: "a number", bool: "True or False", str: "a string",
    Path: "a path", NoneType: "None",
}  # fmt: skip


class Config(BaseModel):
    """Frozen settings, checked on creation; positional and keyword arguments as for a dataclass.

    Raises:
        InputError: an unknown setting, or an invalid value.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )

    def __init__(self, /, *given: Any, **named: Any) -> None:
        names = tuple(type(self).model_fields)
        positional = dict(zip(names, given, strict=False))
        if len(given) > len(names):
            raise InputError(f"expected at most {len(names)} settings, got {len(given)}.")
        if twice := positional.keys() & named.keys():
            raise InputError(f"expected {min(twice)} once, got it twice.")
        try:
            super().__init__(**positional, **named)
        except ValidationError as error:
            raise _mistake(type(self), error) from None

    def changed(self, **values: Any) -> Self:
        """Return a copy with some values replaced and checked."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**kept | values)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for `run.json`."""
        return {name: _recorded(getattr(self, name)) for name in type(self).model_fields}


def _recorded(value: Any) -> Any:
    if isinstance(value, Config):
        return value.as_dict()
    if isinstance(value, StrEnum):
        return value.value
    if value == math.inf:  # JSON has no infinity
        return "inf"
    return [_recorded(item) for item in value] if isinstance(value, tuple) else value


# --- the types of settings -------------------------------------------------------------------------


def scalar(value: Any) -> Any:
    """Return a Python value for a NumPy scalar or an array or tensor without axes."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _whole(value: Any) -> Any:
    value = scalar(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _listed(value: Any) -> Any:
    """Turn a list, a range, a set, an array or a single value into a tuple."""
    value = scalar(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    several = isinstance(value, Sequence | Set | Iterator) and not isinstance(value, str | bytes)
    return tuple(value) if several else (value,)


def _without_axes(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


@dataclass(frozen=True)
class Words:
    """Description of the expected value in error messages, where the type does not say it."""

    text: str


@dataclass(frozen=True)
class Accepts:
    """The Python type that callers may pass, where it is wider than the stored type."""

    type: str


@dataclass(frozen=True)
class Option:
    """How a setting appears on the command line.

    Attributes:
        name: of the option, if it differs from the setting's name; of a flag, also --yes/--no.
        words: the option's values for False and for True.
        whole: whether the setting itself parses the whole text, commas included.
        separator: between several values in one text.
        zero_is_all: whether all, or 0, means None, which sets no limit.
    """

    name: str = ""
    words: tuple[str, str] | None = None
    whole: bool = False
    separator: str = ","
    zero_is_all: bool = False


@dataclass(frozen=True)
class Kind(Words):
    """A value that is an instance of the annotated classes; its content is not checked."""

    def __get_pydantic_core_schema__(self, source: Any, _handler: Any) -> Any:
        """Check the class only: the objects are the caller's own."""
        classes = get_args(source) if get_origin(source) in (Union, UnionType) else (source,)
        return core_schema.is_instance_schema(tuple(get_origin(each) or each for each in classes))


@dataclass(frozen=True)
class To:
    """The type that an argument is converted to, where callers may pass other types as well."""

    kind: Any

    def __get_pydantic_core_schema__(self, _source: Any, handler: Any) -> Any:
        """Validate the argument as that type."""
        return handler.generate_schema(self.kind)


Whole = Annotated[int, BeforeValidator(_whole), Strict()]
Count = Annotated[Whole, Ge(1)]
Natural = Annotated[Whole, Ge(0)]
Number = Annotated[float, BeforeValidator(scalar), Strict()]
Flag = Annotated[bool, BeforeValidator(scalar), Strict()]
Text = Annotated[str, Strict()]
Listed = Annotated[tuple[T, ...], BeforeValidator(_listed)]
Several = Annotated[tuple[T, ...], BeforeValidator(_listed), MinLen(1)]
Pair = Annotated[tuple[T, T], BeforeValidator(_without_axes)]
Exactly = Annotated[T, Kind("")]
"""An object of a config's class, not a dict of its settings."""
AnyPath = Annotated[str | Path, Kind("a path")]
Strings = Annotated[str | Iterable[str], To(Listed[Text])]


# --- the arguments of a function --------------------------------------------------------------------


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check a function's arguments against its annotations before it runs.

    Arguments without an annotation and those of `**settings` are passed on unchecked.
    """
    signature = inspect.signature(function)

    @functools.cache
    def arguments() -> type[Config]:
        return create_model("Arguments", __base__=Config, **_fields(function, signature))

    @functools.wraps(function)
    def call(*given: P.args, **named: P.kwargs) -> R:
        bound = signature.bind(*given, **named)
        known = bound.arguments.keys() & arguments().model_fields.keys()
        found = arguments()(**{name: bound.arguments[name] for name in known})
        bound.arguments |= {name: getattr(found, name) for name in known}
        return function(*bound.args, **bound.kwargs)

    return call


def _fields(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            several: Any = Listed
            fields[name] = (several[hints[name]], ())
        elif name in hints and parameter.kind is not parameter.VAR_KEYWORD:
            fields[name] = (hints[name], None)
    return fields


# --- error messages: what was expected, what came -------------------------------------------


def _mistake(kind: type[Config], error: ValidationError) -> InputError:
    first, *others = error.errors(include_url=False)
    name, value = str(first["loc"][0]), first["input"]
    if first["type"] == "extra_forbidden":
        return unknown_name("setting", name, kind.model_fields)
    if first["type"] == "missing":
        return InputError(f"expected {name}, got none.")
    if first["type"] == "too_short" and not isinstance(value, str):
        return InputError(f"expected at least one of {name}, got none.")
    annotation = kind.model_fields[name].rebuild_annotation()
    ways = any(other["loc"][0] == name and other["input"] is value for other in others)
    if first["type"] in ("enum", "literal_error") and isinstance(value, str) and not ways:
        word = name.replace("_", " ").removesuffix("s")
        return unknown_name(word, value, _choices(annotation))
    if first["type"] in _BOUNDS and not ways:
        return InputError(f"expected {name} {_bounds(annotation)}, got {shown(value)}.")
    return InputError(f"expected {name} to be {expected(annotation)}, got {shown(value)}.")


def expected(annotation: Any) -> str:
    """Describe in words the values of a type.

    >>> expected(Natural | None), expected(Several[Text])
    ('a whole number of at least 0 or None', 'a string or several')
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _expected_of(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(expected(each) for each in arguments))
    if origin is tuple:
        return f"{expected(arguments[0])} or several"
    if choices := _choices(annotation):
        return f"one of {', '.join(map(str, choices))}"
    return _NAMES.get(annotation) or f"a {getattr(annotation, '__name__', annotation)}"


def _expected_of(annotation: Any, facts: Sequence[Any]) -> str:
    for fact in facts:
        if isinstance(fact, Words) and fact.text:
            return fact.text
        if isinstance(fact, To):
            return expected(fact.kind)
    return f"{expected(annotation)} {_limits(facts)}".strip()


def _limits(facts: Sequence[Any]) -> str:
    found = []
    for fact in facts:
        match fact:
            case Ge():
                found.append(f"of at least {fact.ge}")
            case Gt():
                found.append(f"above {fact.gt}")
            case Le():
                found.append(f"at most {fact.le}")
    return " and ".join(found)


def _bounds(annotation: Any) -> str:
    """Return the bounds of a number, at any depth of its type."""
    arguments = get_args(annotation)
    own = _limits(arguments[1:]) if get_origin(annotation) is Annotated else ""
    parts = [each.kind if isinstance(each, To) else each for each in arguments]
    return own or next(filter(None, map(_bounds, parts)), "")


def _choices(annotation: Any) -> list[Any]:
    """Return the members of a closed set of choices, at any depth of a type."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return list(annotation)
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [found for part in get_args(annotation) for found in _choices(part)]


def shown(value: Any) -> str:
    """Return a value as a message shows it: short and on one line.

    >>> shown(2.5), shown("x" * 99)[-5:], shown(int)
    ('2.5', 'xx...', 'a type')
    """
    value = scalar(value)
    plain = value is None or isinstance(
        value, bool | int | float | complex | str | bytes | Path | list | tuple | dict | set | range
    )
    text = repr(value) if plain else ""
    if not text or "\n" in text:
        return f"{'an' if type(value).__name__[0] in 'AEIOaeio' else 'a'} {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class Pooling(StrEnum):
    """How the token states of a text become one vector."""

    MEAN = "mean"
    LAST = "last"
    FIRST = "first"
    WEIGHTED_MEAN = "weighted_mean"
    MAX = "max"


class FirstToken(StrEnum):
    """What to do with position 0, where many decoders have a huge norm (an attention sink)."""

    AUTO = "auto"
    KEEP = "keep"
    DROP = "drop"


class Augmentation(StrEnum):
    """A kind of views of a text; the view measures are computed for each kind."""

    DEFAULT = "default"
    AUTHORS = "authors"
    CROPS = "crops"
    HALVES = "halves"
    CLOZE = "cloze"


class NonFinite(StrEnum):
    """What to do with a text whose states hold NaN or infinity."""

    RAISE = "raise"
    DROP = "drop"


class Perturbation(Config):
    """How the token ids of a text are changed before the model reads them (LbL, appendix F)."""

    kind: Literal["repeat", "random", "length"]
    """repeat: each token becomes, with probability p, a token drawn from the same text; random: one
    drawn from the vocabulary; length: the whole text becomes tokens drawn from the vocabulary."""
    p: Annotated[Number, Ge(0), Le(1)] | None = None
    """Probability that a token is replaced, for repeat and random."""
    tokens: Count | None = None
    """Number of drawn tokens, for length."""
    special: Flag = False
    """Whether special tokens may be replaced and drawn too."""

    @property
    def label(self) -> str:
        """What the table's perturbation column says; an InputError for settings of another kind."""
        needed, other = ("tokens", "p") if self.kind == "length" else ("p", "tokens")
        if getattr(self, needed) is None or getattr(self, other) is not None:
            raise InputError(f"the perturbation {self.kind} needs {needed} and takes no {other}.")
        amount = f"{self.tokens} tokens" if self.kind == "length" else f"p={self.p:g}"
        return f"{self.kind} {amount}{', special tokens too' if self.special else ''}"

    @classmethod
    def parse(cls, text: str) -> Perturbation:
        """Read a label.

        >>> Perturbation.parse("repeat p=0.50").label, Perturbation.parse("length 64 tokens").tokens
        ('repeat p=0.5', 64)

        Raises:
            InputError: it is none, or a probability outside 0..1.
        """
        form = r"(\w+) (?:p=([-+]?\d*\.?\d+(?:e-?\d+)?)|(\d+) tokens?)(, special tokens too)?"
        if not (found := re.fullmatch(form, text.strip())):
            raise InputError(f"expected {_PERTURBED}, got {shown(text)}.")
        given: dict[str, Any] = {"kind": found[1], "special": bool(found[4])}
        given |= {"p": float(found[2])} if found[2] else {"tokens": int(found[3])}
        return cls(**given)


def _label(given: Any) -> Any:
    if isinstance(given, dict):
        return Perturbation(**given).label
    return Perturbation.parse(given).label if isinstance(given, str) else given


def parse_layers(text: str) -> tuple[int, ...]:
    """Read a list of layers such as `0,4-6,-1`; negative ones are counted from the last.

    >>> parse_layers("0,4-6,-1")
    (0, 4, 5, 6, -1)

    Raises:
        InputError: the text is no list of layers.
    """
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] and not 0 <= int(match[1]) <= int(match[2])):
            raise InputError(f"expected layers like 0,4-6, got {part.strip()!r} in {text!r}.")
        layers.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(dict.fromkeys(layers))


def _layer_numbers(given: Any) -> Any:
    return parse_layers(given) if isinstance(given, str) else given


Layers = Annotated[
    Several[Whole],
    BeforeValidator(_layer_numbers),
    Accepts("str | int | Iterable[int]"),
    Words("numbers like 3, [0, 4] or '0,4-6'"),
    Option(whole=True),
]

_PERTURBED = "a perturbation like 'repeat p=0.5', 'random p=0.5' or 'length 64 tokens'"
Perturbed = Annotated[
    Text | None,
    BeforeValidator(_label),
    Accepts("str | dict[str, Any] | None"),
    Words(f"{_PERTURBED} or None"),
]
