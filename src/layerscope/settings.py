"""The settings of a scan: one frozen record, checked once, written into every run's record."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final, TypeVar

from layerscope.errors import InputError, unknown_name
from layerscope.metrics import catalogue
from layerscope.metrics.inputs import Convention

_Choice = TypeVar("_Choice", bound=StrEnum)
_LEAST: Final = {
    "views": 0, "span_words": 1, "draws": 1, "max_length": 1, "batch_tokens": 1, "resamples": 1,
    "seed": 0,
}  # fmt: skip


class Pooling(StrEnum):
    """How the token states of a text become one vector."""

    MEAN = "mean"
    LAST = "last"
    FIRST = "first"
    WEIGHTED_MEAN = "weighted_mean"
    MAX = "max"


class FirstToken(StrEnum):
    """What to do with position 0, where many decoders park a huge norm (an attention sink)."""

    AUTO = "auto"
    KEEP = "keep"
    DROP = "drop"


class Augmentation(StrEnum):
    """A kind of views of a text; the view measures are made for each kind."""

    DEFAULT = "default"
    AUTHORS = "authors"
    CROPS = "crops"
    HALVES = "halves"
    CLOZE = "cloze"


class NonFinite(StrEnum):
    """What to do with a text whose states hold NaN or infinity."""

    RAISE = "raise"
    DROP = "drop"


@dataclass(frozen=True)
class ScanSettings:
    """Everything that decides the numbers of a scan, besides model and texts.

    Attributes:
        metrics: names from the catalogue; None for all.
        conventions: which preprocessings to compute.
        layers: which layers; None for all.
        stages: sub-block stages to read besides `block`, which is always among them: what is
            preferred and drawn are the blocks' outputs.
        views: misspelled copies of each text; 0 leaves out views of every kind and their measures.
        augmentation: kinds of views: misspelled copies ("default", or "authors" for the strength of
            the published figures), two "crops" of a text, its "halves", or "cloze", a span and the
            rest.
        span_words: length of a crop or of the span of a cloze.
        draws: pairs of crops, or of span and rest, taken from each text.
        alpha: order of the matrix-based entropies.
        pooling: how a text's token states become one vector.
        special_tokens: whether tokens that the tokenizer adds count.
        first_token: whether position 0 counts; `auto` leaves it out where it is an attention sink.
        max_length: most tokens a text may have (fewer if the model takes fewer).
        batch_tokens: padded tokens in one forward pass; decides memory and speed, not results.
        non_finite: what to do with a text whose states are not finite.
        seed: of the augmentations, the permutations and the bootstrap.
        resamples: of the bootstrap.
    """

    metrics: tuple[str, ...] | None = None
    conventions: tuple[Convention, ...] = (Convention.PAPER, Convention.NORMALIZED)
    layers: tuple[int, ...] | None = None
    stages: tuple[str, ...] = ("block",)
    views: int = 2
    augmentation: tuple[Augmentation, ...] = (Augmentation.DEFAULT, Augmentation.CROPS)
    span_words: int = 20
    draws: int = 1
    alpha: float = 1.0
    pooling: Pooling = Pooling.MEAN
    special_tokens: bool = False
    first_token: FirstToken = FirstToken.AUTO
    max_length: int = 512
    batch_tokens: int = 4096
    non_finite: NonFinite = NonFinite.RAISE
    seed: int = 0
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name, kind in (
            ("pooling", Pooling),
            ("first_token", FirstToken),
            ("non_finite", NonFinite),
        ):
            object.__setattr__(self, name, choice(name, getattr(self, name), kind))
        chosen = parse_conventions(self.conventions)
        object.__setattr__(self, "conventions", chosen)
        kinds = (choice("augmentation", kind, Augmentation) for kind in self.augmentation)
        object.__setattr__(self, "augmentation", tuple(dict.fromkeys(kinds)))
        self._refuse_out_of_range()
        self._refuse_nothing_to_measure()
        object.__setattr__(self, "stages", tuple(dict.fromkeys(("block", *self.stages))))

    def _refuse_out_of_range(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"expected {name} of at least {least}, got {getattr(self, name)}.")
        if not isinstance(self.special_tokens, bool):  # the word "exclude" would count as true
            raise InputError(f"expected special_tokens True or False, got {self.special_tokens!r}.")
        if self.views == 1:
            raise InputError("expected 0 views, or at least 2 to compare with each other, got 1.")
        if not self.alpha >= 0:
            raise InputError(f"expected an entropy order alpha of at least 0, got {self.alpha}.")

    def _refuse_nothing_to_measure(self) -> None:
        """Look at the measures here, before a model is loaded in vain."""
        for name in ("metrics", "conventions", "layers", "stages", "augmentation"):
            if getattr(self, name) == ():
                raise InputError(f"expected at least one of {name}, got none.")
        chosen = catalogue.select(self.metrics)
        if self.metrics is None or any(
            not measure.conventions or set(measure.conventions) & set(self.conventions)
            for measure in chosen
        ):
            return
        names = ", ".join(measure.name for measure in chosen)
        raise InputError(
            f"nothing is left to measure: {names} in the convention {', '.join(self.conventions)} "
            "does not exist; see layerscope metrics."
        )

    def with_first_token(self, choice: FirstToken) -> ScanSettings:
        """Return the settings with `auto` decided."""
        return replace(self, first_token=choice)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for `run.json`."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def choice(name: str, value: str, kind: type[_Choice]) -> _Choice:
    """Return the member of a closed set of choices that a plain string names.

    Raises:
        InputError: it names none.
    """
    if value not in list(kind):
        raise unknown_name(name.replace("_", " "), value, list(kind))
    return kind(value)


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if value == math.inf:  # JSON has no word for it
        return "inf"
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def parse_layers(text: str) -> tuple[int, ...]:
    """Read a list of layers such as `0,4-6`.

    >>> parse_layers("0,4-6")
    (0, 4, 5, 6)

    Raises:
        InputError: not such a list.
    """
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise InputError(f"expected layers like 0,4-6, got {part.strip()!r} in {text!r}.")
        layers.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(dict.fromkeys(layers))


def parse_conventions(names: Iterable[str]) -> tuple[Convention, ...]:
    """Read names of conventions; `all` stands for every one.

    >>> [convention.value for convention in parse_conventions(["paper"])]
    ['paper']

    Raises:
        InputError: a name nobody knows.
    """
    chosen: list[Convention] = []
    for name in names:
        if name == "all":
            return tuple(Convention)
        if name not in list(Convention):
            raise unknown_name("convention", name, [*Convention, "all"])
        chosen.append(Convention(name))
    return tuple(dict.fromkeys(chosen))
