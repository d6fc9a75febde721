"""Run all checks that layer k is layer k for one model.

Reference states come from plain calls and plain hooks (`trace`). What layerscope reads, cuts and saves
is compared with them, and they with what the library itself reports.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from layerscope.diagnosis.layers import (
    blocks,
    cut,
    embeddings,
    extraction,
    final_norm,
    hidden_states,
    reload,
)
from layerscope.diagnosis.numbers import (
    batch_size,
    constant_layers,
    facts,
    memory,
    number_range,
    padding,
)
from layerscope.diagnosis.results import Check, Diagnosis, Finding, LayerFacts, Verdict, skipped
from layerscope.diagnosis.subject import Origin, Subject, of_images, of_texts, takes_images
from layerscope.diagnosis.tokens import encode, tokenizer, vocabulary
from layerscope.errors import LayerscopeError, unknown_name
from layerscope.states.extract import Progress, silent

__all__ = [
    "EXAMINATIONS", "Check", "Diagnosis", "Examination", "LayerFacts", "Origin", "Subject",
    "Verdict", "check_names", "examine", "of_images", "of_texts", "takes_images",
]  # fmt: skip


@dataclass(frozen=True)
class Examination:
    """A check: its name is that of its function, and the first docstring line says what it proves."""

    make: Callable[[Subject], Finding]

    @property
    def name(self) -> str:
        """The name of the check."""
        return self.make.__name__

    @property
    def proves(self) -> str:
        """What holds when it passes."""
        return (self.make.__doc__ or "").strip().splitlines()[0]


EXAMINATIONS: Final = tuple(
    Examination(make)
    for make in (
        blocks, hidden_states, extraction, embeddings, final_norm, padding, batch_size, number_range,
        constant_layers, tokenizer, vocabulary, encode, cut, reload, memory,
    )
)  # fmt: skip


def check_names(names: Collection[str]) -> None:
    """Raise an InputError for a name that no check has."""
    known = [each.name for each in EXAMINATIONS]
    for name in names:
        if name not in known:
            raise unknown_name("check", name, known)


def examine(
    subject: Subject, *, skip: Collection[str] = (), progress: Progress = silent
) -> Diagnosis:
    """Run every check on a model.

    Args:
        subject: the model and what it is read on.
        skip: checks to leave out; they are reported as skipped.
        progress: called with stage, done and total, check by check.

    Raises:
        InputError: an unknown name in `skip`.
    """
    check_names(skip)
    started = time.perf_counter()
    made = []
    for done, each in enumerate(EXAMINATIONS):
        progress("checking", done, len(EXAMINATIONS))
        made.append(_made(each, subject, skip))
    progress("checking", len(EXAMINATIONS), len(EXAMINATIONS))
    return Diagnosis(
        model=subject.backbone.info.as_dict(),
        data={
            "texts": len(subject.texts),
            "images": 0 if subject.images is None else len(subject.images),
            "tokens": sum(len(text.ids) for text in subject.ragged),
        },
        tolerance=subject.tolerance,
        checks=tuple(made),
        layers=_facts(subject),
        seconds=time.perf_counter() - started,
    )


def _made(each: Examination, subject: Subject, skip: Collection[str]) -> Check:
    started = time.perf_counter()
    found = skipped("left out, as asked") if each.name in skip else _tried(each, subject)
    return Check(
        each.name,
        each.proves,
        found.verdict,
        found.said,
        found.advice,
        time.perf_counter() - started,
    )


def _tried(each: Examination, subject: Subject) -> Finding:
    """Run a check; an exception is a failure of this check, and the other checks still run."""
    try:
        return each.make(subject)
    except Exception as error:  # a broken model may raise anything
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        said = f"could not be made: {type(error).__name__}: {first}"
        if isinstance(error, LayerscopeError):
            said = f"could not be made: {first}"
        return Finding(Verdict.FAILED, said, "see which of the checks above failed, and mend that")


def _facts(subject: Subject) -> tuple[LayerFacts, ...]:
    try:
        return facts(subject)
    except Exception:  # the check of the blocks has reported why
        return ()
