"""The layer that a rule chooses, how sure that is, and the score gain of every rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from layerscope.decisions import choose
from layerscope.decisions import evidence as evidence_module
from layerscope.decisions.choose import Choice
from layerscope.decisions.gains import Gain, Scores, gain_of, labeled, scored_verdict, scores_of
from layerscope.decisions.labels import LabelChoice
from layerscope.decisions.readouts import Preference, ReadoutChoice, choose_readout
from layerscope.decisions.rules import DEFAULT_RULE, FALLBACK_RULE, RULES, Rule, find
from layerscope.errors import InputError, unknown_name
from layerscope.results.display import Displayed, in_words_of
from layerscope.results.table import Run
from layerscope.settings import Convention


@dataclass(frozen=True, eq=False, repr=False)
class Selection(Displayed):
    """What `select` found.

    Attributes:
        rule: the name of the rule that is followed.
        rules: the rules that were asked.
        choices: the layer of every rule whose measures are there, for each model and set of texts.
        gains: with task scores, what each of them gained, and over which tasks.
        labeled: the same of layers that only labels could find, to compare with.
        scores: the task scores of each model.
        lacking: the rules without a choice, each with what the run is missing.
        sentence: the rule's choice in words, and how far to trust it.
        readout: the readout to use; None where a rule was asked for, or none were compared.
        labels: what a table of labels says of the readouts; None where none was given.
        scored: what the task scores of one model say, in words; nothing where there are none.
    """

    rule: str
    rules: tuple[Rule, ...]
    choices: tuple[Choice, ...]
    gains: tuple[Gain, ...]
    labeled: tuple[Gain, ...]
    scores: tuple[Scores, ...]
    lacking: Mapping[str, str]
    sentence: str
    readout: ReadoutChoice | None = None
    labels: LabelChoice | None = None
    scored: str = ""

    @property
    def answer(self) -> str:
        """What to do, and on what evidence: by labels or scores where there are some, else without."""
        without = self.readout.sentence if self.readout else self.sentence
        if self.labels is not None:
            return self.labels.sentence
        if self.scored and self.readout:
            return f"{self.scored} Without labels the choice is '{self.readout.readout}'."
        return self.scored or without

    @property
    def chosen(self) -> tuple[Choice, ...]:
        """The choices of the rule that is followed: one for each model and set of texts."""
        return self.of(self.rule)

    @property
    def layer(self) -> int | None:
        """The layer to use; None if there is none, or not the same for all sets of texts."""
        layers = {choice.layer for choice in self.chosen}
        return layers.pop() if len(layers) == 1 else None

    def of(self, rule: str) -> tuple[Choice, ...]:
        """Return the choices of one rule."""
        return tuple(choice for choice in self.choices if choice.rule == rule)

    def gain(self, rule: str) -> Gain | None:
        """Return what one rule gained; None if it was not scored."""
        return next((gain for gain in self.gains if gain.rule == rule), None)

    def __eq__(self, other: object) -> bool:
        """Whether another selection says the same of the same models, texts and tasks."""
        if not isinstance(other, Selection):
            return NotImplemented
        return self.answer == other.answer and self.table().equals(other.table())

    def __hash__(self) -> int:
        """Return a hash that equal selections share."""
        return hash((self.rule, self.answer))

    def summary(self) -> str:
        """Return the choice in words."""
        return self.answer

    def table(self) -> pd.DataFrame:
        """Return a row for each rule, model and set of texts; scores where there are any."""
        gained = {gain.rule: _columns(gain) for gain in self.gains}
        return pd.DataFrame(
            [
                {
                    "rule": choice.rule,
                    "model": choice.model,
                    "data": choice.data,
                    "convention": choice.convention,
                    "layer": choice.layer,
                    "stage": choice.stage,
                    "within_noise": choice.within_noise,
                    "wins": choice.won,
                    "agrees": choice.agrees,
                }
                | gained.get(choice.rule, {})
                for choice in self.choices
            ]
        ).astype({"layer": "Int64"})


def decide(
    run: Run,
    rule: str | Rule | None = None,
    *,
    rules: Iterable[Rule] = RULES,
    tasks: Iterable[str] | None = None,
    convention: str | None = None,
    seed: int = 0,
    resamples: int = 1000,
    prefer: Preference = "quality",
    known: Sequence[evidence_module.Evidence] | None = None,
) -> Selection:
    """Return the layer to use by one rule, and the choices of all other rules.

    Args:
        run: measures, task scores, or both.
        rule: a rule or the name of one; by default `rules.DEFAULT_RULE`, and where the run lacks
            what that needs, `rules.FALLBACK_RULE`.
        rules: the other rules to ask.
        tasks: the tasks to count gains over; by default mteb's.
        convention: to decide in; by default normalized, or what the run has.
        seed: of the resampling of texts and tasks.
        resamples: their number.
        prefer: which readout to take where readouts were compared, see `choose_readout`.
        known: what the run knows of its layers, where `selection.evidences` said it already with
            this seed and number: texts are resampled once for all choices that share it.

    Raises:
        InputError: no rule or task has that name, or a measure that the rule needs is missing.
    """
    if convention is not None and convention not in list(Convention):
        raise unknown_name("convention", convention, list(Convention))
    if resamples < 1:
        raise InputError(f"expected at least 1 resample, got {resamples}.")
    offered = _with(rules, rule)
    found = (
        evidence_module.evidences(run, seed=seed, resamples=resamples) if known is None else known
    )
    made = [choose.choose_all(evidence, offered, convention) for evidence in found]
    choices = tuple(choice for some, _ in made for choice in some)
    lacking = _lacking(made, choices)
    followed, why = _followed(rule, lacking)
    readout = None
    if rule is None and run.readouts is not None:
        readout = choose_readout(run.readouts, prefer=prefer, seed=seed, resamples=resamples)
    scores = scores_of(run, tasks)
    gains = (gain_of(r.name, choices, scores, seed=seed, resamples=resamples) for r in offered)
    selection = Selection(
        rule=followed,
        rules=offered,
        choices=choices,
        gains=tuple(gain for gain in gains if gain is not None),
        labeled=labeled(scores, seed=seed, resamples=resamples),
        scores=scores,
        lacking=lacking,
        sentence=_sentence(
            [c for c in choices if c.rule == followed],
            why,
            _judged_on(run, find(followed, offered)),
        ),
        readout=readout,
        scored=_scored(scores, rule, seed, resamples),
    )
    return in_words_of(run.record, selection)


def _scored(scores: Sequence[Scores], rule: str | Rule | None, seed: int, resamples: int) -> str:
    """Return what the scores of one model say; nothing where a rule was asked for."""
    if rule is not None or len(scores) != 1:
        return ""
    return scored_verdict(scores[0], seed=seed, resamples=resamples)


def _with(rules: Iterable[Rule], rule: str | Rule | None) -> tuple[Rule, ...]:
    known = tuple(rules)
    if isinstance(rule, Rule):
        return (rule, *(other for other in known if other.name != rule.name))
    if rule is not None:
        find(rule, known)
        return known
    names = {other.name for other in known}
    return (*known, *(find(name) for name in (DEFAULT_RULE, FALLBACK_RULE) if name not in names))


def _lacking(
    made: Iterable[tuple[tuple[Choice, ...], Mapping[str, str]]], choices: Iterable[Choice]
) -> dict[str, str]:
    """Return what is missing for the rules that have no choice on any set of texts."""
    have = {choice.rule for choice in choices}
    return {rule: what for _, lacks in made for rule, what in lacks.items() if rule not in have}


def _followed(rule: str | Rule | None, lacking: Mapping[str, str]) -> tuple[str, str]:
    """Return the name of the rule to follow, and why it is not the default one."""
    name = rule.name if isinstance(rule, Rule) else rule or DEFAULT_RULE
    if name not in lacking:
        return name, ""
    if rule is not None:
        raise InputError(f"the rule {name!r} needs {lacking[name]}.")
    return FALLBACK_RULE, f"The default rule, {name!r}, needs {lacking[name]}. "


def _judged_on(run: Run, rule: Rule) -> str:
    """Return what a rule's measures were made of, where that is not the user's texts."""
    read = run.table["metric"].isin([need.metric for need in rule.needs])
    if any("built-in" in str(label) for label in run.table["perturbation"][read].unique()):
        return "paragraphs of the built-in sample (your texts are too short for crops)"
    return "these texts"


def _sentence(chosen: list[Choice], why: str, texts: str) -> str:
    if len({(choice.model, choice.layer) for choice in chosen}) == 1:
        return f"{choose.sentence(chosen[0], texts)} {why}".strip()
    sets = f"{len(chosen)} sets of texts"
    return f"The rule {chosen[0].rule!r} takes another layer for each of {sets}. {why}".strip()


def _columns(gain: Gain) -> dict[str, float | int | None]:
    """Return a gain as columns of a table."""
    share = gain.share
    columns: dict[str, float | int | None] = {"tasks": len(gain.tasks), "score": gain.score.value}
    for name, over in gain.over.items():
        key = f"over_{name.replace(' ', '_')}"
        columns |= {key: over.value, f"{key}_low": over.low, f"{key}_high": over.high}
    return columns | {"best": gain.best, "share": None if share is None else share.value}
