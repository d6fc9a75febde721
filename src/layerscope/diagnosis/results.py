"""Results of a diagnosis: a verdict with its numbers for each check, facts for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import pandas as pd

from layerscope.results.display import Displayed


class Verdict(StrEnum):
    """The outcome of a check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """The result of a check function.

    Attributes:
        verdict: passed, failed or skipped.
        said: the numbers in one sentence; the reason if the check was skipped.
        advice: what to do about a failure.
    """

    verdict: Verdict
    said: str
    advice: str = ""


def judged(good: bool, said: str, advice: str) -> Finding:
    """Return a finding that passed or failed; advice is only kept for a failure."""
    return Finding(Verdict.PASSED, said) if good else Finding(Verdict.FAILED, said, advice)


def skipped(reason: str) -> Finding:
    """Return the finding of a check that does not apply."""
    return Finding(Verdict.SKIPPED, reason)


@dataclass(frozen=True)
class Check:
    """A check that ran or was skipped.

    Attributes:
        name: as in `examine.EXAMINATIONS`.
        proves: what holds when it passes.
        verdict: passed, failed or skipped.
        said: the numbers in one sentence; the reason if the check was skipped.
        advice: what to do about a failure; empty unless it failed.
        seconds: time taken.
    """

    name: str
    proves: str
    verdict: Verdict
    said: str
    advice: str
    seconds: float


@dataclass(frozen=True)
class LayerFacts:
    """Numbers of one layer over all texts.

    Attributes:
        layer: 0..L.
        stage: "block" or "final_norm".
        largest: largest finite |state|; None if none is finite.
        finite: whether all states are.
        change: median over tokens of |h_k - h_(k-1)| / |h_(k-1)|; None for layer 0 and the final norm,
            and where states are not finite.
        spread: largest difference between two tokens of any text in one dimension, over `largest`;
            None if the states are not finite.
        weights: bytes of the block's weights; None for layer 0 and the final norm.
    """

    layer: int
    stage: str
    largest: float | None
    finite: bool
    change: float | None
    spread: float | None
    weights: int | None


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Displayed):
    """All checks of one model.

    Attributes:
        model: the entry for the model in a run's record.
        data: source of the texts, their number and that of their tokens.
        tolerance: largest difference that counts as equal, as a share of the state's norm.
        checks: in the order in which they ran.
        layers: numbers of each layer, the final norm last; empty if the model could not be read.
        seconds: total time.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    tolerance: float
    checks: tuple[Check, ...]
    layers: tuple[LayerFacts, ...]
    seconds: float

    def summary(self) -> str:
        """Return how many checks passed, failed and were skipped."""
        counts = ", ".join(f"{len(self.of(each))} {each.value}" for each in Verdict)
        return f"{self.model.get('name', 'the model')}: {counts}"

    def table(self) -> pd.DataFrame:
        """Return a row for each check: name, verdict, finding."""
        return pd.DataFrame(
            [{"check": c.name, "verdict": c.verdict.value, "found": c.said} for c in self.checks]
        )

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return not self.of(Verdict.FAILED)

    def of(self, verdict: Verdict) -> tuple[Check, ...]:
        """Return the checks with this verdict."""
        return tuple(check for check in self.checks if check.verdict is verdict)

    def check(self, name: str) -> Check:
        """Return the check with this name.

        Raises:
            KeyError: there is none.
        """
        return {check.name: check for check in self.checks}[name]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for `--json`."""
        return {"healthy": self.healthy} | asdict(self)
