"""Every setting of a scan: its type, its default, its check."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self, TypeVar

from annotated_types import Ge
from pydantic import AfterValidator, model_validator

from layerscope.config import (
    Augmentation,
    Config,
    Count,
    FirstToken,
    Flag,
    Layers,
    Natural,
    NonFinite,
    Number,
    Pooling,
    Several,
    Text,
    To,
)
from layerscope.errors import InputError, unknown_name
from layerscope.metrics import catalogue
from layerscope.metrics.inputs import Convention

T = TypeVar("T")


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


def _each_once(values: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _with_blocks(stages: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("block", *stages)))


Conventions = Annotated[
    tuple[Convention, ...], To(Annotated[Several[Text], AfterValidator(parse_conventions)])
]


class ScanConfig(Config):
    """Everything that decides the numbers of a scan, besides model and texts."""

    metrics: Several[Text] | None = None
    """Names from the catalogue; None for all."""
    conventions: Conventions = (Convention.PAPER, Convention.NORMALIZED)
    """Which preprocessings to compute; "all" for every one."""
    layers: Layers | None = None
    """Which layers, as numbers or like "0,4-6"; None for all."""
    stages: Annotated[Several[Text], AfterValidator(_with_blocks)] = ("block",)
    """Sub-block stages to read besides `block`, which is always among them: what is preferred and
    drawn are the blocks' outputs."""
    views: Natural = 2
    """Misspelled copies of each text; 0 leaves out views of every kind and their measures."""
    augmentation: Annotated[Several[Augmentation], AfterValidator(_each_once)] = (
        Augmentation.DEFAULT,
        Augmentation.CROPS,
    )
    """Kinds of views: misspelled copies ("default", or "authors" for the strength of the published
    figures), two "crops" of a text, its "halves", or "cloze", a span and the rest."""
    span_words: Count = 20
    """Length of a crop or of the span of a cloze."""
    draws: Count = 1
    """Pairs of crops, or of span and rest, taken from each text."""
    alpha: Annotated[Number, Ge(0)] = 1.0
    """Order of the matrix-based entropies; infinity is one."""
    pooling: Pooling = Pooling.MEAN
    """How a text's token states become one vector."""
    special_tokens: Flag = False
    """Whether tokens that the tokenizer adds count."""
    first_token: FirstToken = FirstToken.AUTO
    """Whether position 0 counts; `auto` leaves it out where it is an attention sink."""
    max_length: Count = 512
    """Most tokens a text may have (fewer if the model takes fewer)."""
    batch_tokens: Count = 4096
    """Padded tokens in one forward pass; decides memory and speed, not results."""
    non_finite: NonFinite = NonFinite.RAISE
    """What to do with a text whose states are not finite."""
    seed: Natural = 0
    """Of the augmentations, the permutations and the bootstrap."""
    resamples: Count = 1000
    """Of the bootstrap."""

    @model_validator(mode="after")
    def _refuse_nothing_to_measure(self) -> Self:
        """Look at the measures here, before a model is loaded in vain."""
        if self.views == 1:
            raise InputError("expected 0 views, or at least 2 to compare with each other, got 1.")
        chosen = catalogue.select(self.metrics)
        if self.metrics is None or any(
            not measure.conventions or set(measure.conventions) & set(self.conventions)
            for measure in chosen
        ):
            return self
        names = ", ".join(measure.name for measure in chosen)
        raise InputError(
            f"nothing is left to measure: {names} in the convention {', '.join(self.conventions)} "
            "does not exist; see layerscope metrics."
        )
