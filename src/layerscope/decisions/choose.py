"""A rule's choice of a layer, how sure it is, and what it would be in another convention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from layerscope.decisions.evidence import Evidence, Key, evidences, paired_limits
from layerscope.decisions.rules import Curves, Floats, Rule, least, most
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.results.display import in_percent
from layerscope.results.table import BLOCK, FINAL_NORM, Run

_MOST_LISTED: Final = 4


@dataclass(frozen=True)
class Choice:
    """The layer that a rule takes for a model, from its measures on one set of texts.

    Attributes:
        rule: The rule's name.
        model: The model's name.
        data: The texts' name; "" for fixed rules on a run without measures.
        convention: The preprocessing it was decided in; "" if the rule looks at none.
        blocks: L.
        layer: The layer of the greatest score, the shallower of equals; None if there is none.
        stage: "final_norm" if the layer is meant after the model's final norm, else "block".
        scores: The rule's score of each layer 0..L, greater is better; None where undefined.
        within_noise: Layers that the texts cannot tell from the chosen one, itself included.
        wins: The share of resamples of the texts in which each layer is chosen; None if the rule
            is fixed or the run has no per-text numbers.
        conventions: The layer in each convention that the run has the rule's measures in.
        fixed: Whether the rule looks at no measure.
        reason: Why there is no layer; "" where there is one.
    """

    rule: str
    model: str
    data: str
    convention: str
    blocks: int
    layer: int | None
    stage: str
    scores: tuple[float | None, ...]
    within_noise: tuple[int, ...]
    wins: tuple[float, ...] | None
    conventions: tuple[tuple[str, int], ...]
    fixed: bool
    reason: str = ""

    @property
    def won(self) -> float | None:
        """The share of resamples in which the chosen layer is chosen again."""
        return None if self.wins is None or self.layer is None else self.wins[self.layer]

    @property
    def agrees(self) -> bool | None:
        """Whether all conventions choose the same layer; None where there is but one."""
        layers = {layer for _, layer in self.conventions}
        return None if len(self.conventions) < 2 else len(layers) == 1


def choose(
    run: Run,
    rule: Rule,
    *,
    data: str | None = None,
    convention: str | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Choice:
    """Return the layer that a rule takes for the model of a run.

    Args:
        run: Results of one model.
        rule: See `layerscope.decisions.rules`.
        data: The texts measured on, where the run has several sets.
        convention: To decide in; by default normalized, or what the run has.
        seed: Of the resampling of texts.
        resamples: Their number.

    Raises:
        InputError: a measure that the rule needs is missing, or the run has several models, or
            several sets of texts and none is named.
    """
    found = evidences(run, seed=seed, resamples=resamples)
    chosen = [item for item in found if data is None or item.data == data]
    if len(chosen) != 1:
        raise InputError(
            "expected measures of one model on one set of texts, found: "
            f"{', '.join(f'{item.model} on {item.data}' for item in found)}."
        )
    return choice_of(chosen[0], rule, convention)


def choose_all(
    evidence: Evidence, rules: Iterable[Rule], convention: str | None = None
) -> tuple[tuple[Choice, ...], dict[str, str]]:
    """Return the choice of every rule whose measures are there, and what the others lack."""
    known = tuple(rules)
    lacking = {rule.name: evidence.lacks(rule, convention) for rule in known}
    choices = tuple(choice_of(evidence, r, convention) for r in known if not lacking[r.name])
    return choices, {name: reason for name, reason in lacking.items() if reason}


def choice_of(evidence: Evidence, rule: Rule, convention: str | None = None) -> Choice:
    """Return the layer that a rule takes on one set of texts.

    Raises:
        InputError: a measure that it needs is missing.
    """
    scores = _scores(rule, evidence.seen_by(rule, convention))
    layer, reason = _best(scores)
    resampled = _resampled_scores(evidence, rule, convention) if layer is not None else None
    return Choice(
        rule=rule.name,
        model=evidence.model,
        data=evidence.data,
        convention=_convention(evidence, rule, convention),
        blocks=evidence.blocks,
        layer=layer,
        stage=FINAL_NORM if rule.normed and evidence.normed else BLOCK,
        scores=tuple(None if np.isnan(score) else float(score) for score in scores),
        within_noise=_within_noise(scores, resampled, layer),
        wins=None if resampled is None else _wins(resampled),
        conventions=_by_convention(evidence, rule),
        fixed=rule.fixed,
        reason=reason,
    )


def preferred(evidence: Evidence, measures: Iterable[Measure] = CATALOGUE) -> dict[Key, Choice]:
    """Return the layer where each measure is at the end, least or most, that its source prefers.

    Returns:
        A choice for each metric, convention and perturbation of `Evidence.curves`. Measures without
        a preferred direction are left out.
    """
    directions = {measure.name: str(measure.direction) for measure in measures}
    ends = {"least": least, "most": most}
    return {
        (metric, convention, perturbation): choice_of(
            evidence,
            ends[directions[metric]](metric, "" if perturbation == "none" else perturbation),
            convention or None,
        )
        for metric, convention, perturbation in evidence.curves
        if directions.get(metric) in ends
    }


def agreement(one: Choice, other: Choice) -> Literal["same", "within noise", "another"]:
    """Return whether two choices take the same layer, share one within noise, or neither."""
    if one.layer == other.layer:
        return "same"
    overlap = not set(one.within_noise).isdisjoint(other.within_noise)
    return "within noise" if overlap else "another"


def _scores(rule: Rule, curves: Curves) -> Floats:
    scores = np.asarray(rule.function(curves), dtype=np.float64)
    expected = next((curve.shape for curve in curves.values.values()), (curves.blocks + 1,))
    if scores.shape != expected:
        raise InputError(
            f"expected scores of shape {expected} from the rule {rule.name!r}, layers on the last "
            f"axis and resamples before it as in its curves; got {scores.shape}."
        )
    return scores


def _best(scores: Floats) -> tuple[int | None, str]:
    """Return the layer of the greatest score and "", or None and why there is none."""
    defined = scores[~np.isnan(scores)]
    if not len(defined):
        return None, "the rule has no score at any layer"
    if len(defined) > 1 and (defined == defined[0]).all():
        return None, "the rule takes every layer alike"
    return int(np.nanargmax(scores)), ""


def _resampled_scores(evidence: Evidence, rule: Rule, convention: str | None) -> Floats | None:
    """Return the scores (resample, layer), None for fixed rules and without per-text numbers."""
    if rule.fixed:
        return None
    curves = evidence.seen_resampled(rule, convention)
    return None if curves is None else _scores(rule, curves)


def _wins(resampled: Floats) -> tuple[float, ...]:
    known = resampled[~np.isnan(resampled).all(-1)]
    if not len(known):
        return tuple(0.0 for _ in range(resampled.shape[-1]))
    first = np.nanargmax(known, axis=-1)
    counts: list[int] = np.bincount(first, minlength=resampled.shape[-1]).tolist()
    return tuple(count / len(known) for count in counts)


def _within_noise(scores: Floats, resampled: Floats | None, layer: int | None) -> tuple[int, ...]:
    if layer is None:
        return ()
    if resampled is None:
        return (layer,)
    low, high = paired_limits(resampled, layer)
    close = ~np.isnan(scores) & (low <= 0) & (high >= 0)
    return tuple(sorted({layer, *np.flatnonzero(close).tolist()}))


def _convention(evidence: Evidence, rule: Rule, convention: str | None) -> str:
    chosen = convention or evidence.convention
    return chosen if evidence.depends(rule, chosen) else ""


def _by_convention(evidence: Evidence, rule: Rule) -> tuple[tuple[str, int], ...]:
    """Return the rule's layer in each convention; none if its measures come in but one way."""
    found: list[tuple[str, int]] = []
    for convention in evidence.conventions if rule.needs else ():
        if evidence.depends(rule, convention) and not evidence.lacks(rule, convention):
            layer, _ = _best(_scores(rule, evidence.seen_by(rule, convention)))
            if layer is not None:
                found.append((convention, layer))
    return tuple(found)


def sentence(choice: Choice, texts: str = "these texts") -> str:
    """Return a choice in words: the layer, how often it wins, what ties with it, what flips.

    `texts` says what it was judged on.

    >>> sentence(Choice("middle", "m", "d", "", 6, 3, "block", (0.0,) * 7, (3,), None, (), True))
    "Layer 3 of 6 by the rule 'middle', which looks at no measure."
    """
    if choice.layer is None:
        return f"No layer by the rule {choice.rule!r}: {choice.reason}."
    place = ", as the model gives it," if choice.stage == FINAL_NORM else ""
    start = f"Layer {choice.layer} of {choice.blocks}{place} by the rule {choice.rule!r}"
    return f"{start}{_sureness(choice, texts)}.{_flips(choice)}"


def _sureness(choice: Choice, texts: str) -> str:
    if choice.fixed:
        return ", which looks at no measure"
    if choice.won is None:
        return "; without numbers for each text nobody knows how sure that is"
    others = [layer for layer in choice.within_noise if layer != choice.layer]
    verb = "cannot tell it" if others else "tell it"
    wins = f"it wins in {in_percent(choice.won)} of resamples"
    return f": {wins}, and {texts} {verb} from {_listed(others)}"


def _listed(layers: list[int]) -> str:
    words = [str(layer) for layer in layers]
    if not words:
        return "every other layer"
    if len(words) > _MOST_LISTED:
        return f"{len(words)} other layers"
    return f"layers {', '.join(words[:-1])} and {words[-1]}" if words[1:] else f"layer {words[0]}"


def _flips(choice: Choice) -> str:
    others = [f"{layer} ({name})" for name, layer in choice.conventions if layer != choice.layer]
    return f" Another convention takes another layer: {', '.join(others)}." if others else ""
