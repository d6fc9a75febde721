"""A pruning with the model at hand: which blocks go, what that changes, the smaller model saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.analysis.plan import prepare
from layerscope.analysis.run import Estimates, estimate
from layerscope.config import FirstToken
from layerscope.data.images import Images
from layerscope.data.texts import SAMPLE, Texts, read_texts
from layerscope.data.tokens import TokenizedText
from layerscope.decisions.prune import Budget, Removal, Rule, refuse_too_many
from layerscope.decisions.subsets import random_subsets
from layerscope.errors import InputError
from layerscope.evaluation.estimates import texts_of_tasks
from layerscope.export import formats
from layerscope.export import prune as export_prune
from layerscope.export import trial as trial_module
from layerscope.export.heal import divided, heal, refuse_unhealable, seconds_to_heal
from layerscope.export.hub import Uploadable
from layerscope.export.judge import Criterion, Judge, criteria
from layerscope.export.outcomes import BudgetOutcome, evidence_of, failures_of, record_of
from layerscope.export.patches import HealingTexts, patched, runs_of
from layerscope.export.prune import Saving
from layerscope.export.removal import removals, tokens_of, with_first_token
from layerscope.export.request import PruneRequest, fitting, notes_of
from layerscope.export.ship import Shipped
from layerscope.export.trial import Cost, Trial, TrialPlan, attempt, costs
from layerscope.models.backbone import Backbone, writes_text
from layerscope.results.display import Displayed, in_words_of
from layerscope.results.table import Run
from layerscope.states.extract import Progress

HELD_OUT: Final = 16  # texts of the perplexity, unless the caller gives them


@dataclass(frozen=True, eq=False, repr=False)
class Pruning(Displayed, Uploadable):
    """What came of a pruning.

    Attributes:
        rule: by which the blocks were chosen.
        scheme: "one-shot" or "greedy".
        model: facts of the source, as in a run's record.
        kinds: of each block, 1 to L: its layer type, or its class.
        eligible: the blocks that were not protected.
        outcomes: of each budget: the blocks that go, and what that changed.
        full: the trial of the full model, None if nothing was tried.
        costs: of the full model and of the one without the blocks, if they were measured.
        shipped: what was saved, None without `out`.
        usage: Python that loads it, "" without `out`.
        notes: what there is to know.
        record: how it was made, as it is kept in the saved folder.
        pushed: the address of the repository that it was uploaded to; "" where it was not.
    """

    rule: Rule
    scheme: str
    model: dict[str, Any]
    kinds: tuple[str, ...]
    eligible: tuple[int, ...]
    outcomes: tuple[BudgetOutcome, ...]
    full: Trial | None
    costs: tuple[Cost, Cost] | None
    shipped: Shipped | None
    usage: str
    notes: tuple[str, ...]
    record: dict[str, Any]
    pushed: str = ""

    @property
    def removed(self) -> tuple[int, ...]:
        """The blocks that go by the first budget, ascending."""
        return self.outcomes[0].removed

    def summary(self) -> str:
        """Return which blocks go by each budget."""
        gone = "; ".join(
            f"{each.budget}: blocks {', '.join(map(str, each.removed))}" for each in self.outcomes
        )
        return f"{self.model.get('name', 'the model')} by the rule {self.rule.name!r}: {gone}"

    def table(self) -> pd.DataFrame:
        """Return a row for each budget and test: full, pruned, change in percent, random subsets."""
        rows = []
        for outcome in self.outcomes:
            for found in outcome.comparisons:
                beside = asdict(found.random) if found.random else {}
                beside.pop("value", None)
                facts = {key: value for key, value in asdict(found).items() if key != "random"}
                removed = ",".join(map(str, outcome.removed))
                rows.append({"budget": str(outcome.budget), "removed": removed} | facts | beside)
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class PruningEstimates:
    """What a pruning would take.

    Attributes:
        of: the blocks of the source.
        eligible: those that may go.
        budgets: how many go, by each budget.
        removed: which go by each budget; empty where that has yet to be measured.
        tried: models that tasks or perplexity are tried on.
        weight_bytes: of what is saved, at most.
        free_bytes: free where it is to go, None where nothing is saved.
        scan: what one scan that chooses the blocks would take, None without one.
        scans: how many of them.
        healing_seconds: to fit and judge the maps of all budgets, about; where which blocks go has yet to
            be measured, as if no two were neighbors. None where no map is fitted.
    """

    of: int
    eligible: tuple[int, ...]
    budgets: tuple[int, ...]
    removed: tuple[tuple[int, ...], ...]
    tried: int
    weight_bytes: int
    free_bytes: int | None
    scan: Estimates | None
    scans: int
    healing_seconds: float | None


@dataclass(frozen=True)
class ReadyPruning:
    """A pruning of which nothing has been refused.

    Attributes:
        backbone: the model.
        asked: what was asked for, with the first token decided.
        eligible: the blocks that may go.
        budgets: how many.
        texts: to measure on.
        run: a scan in place of measuring, or None.
        place: folder for the smaller model, or None.
        how: how it is saved; None where nothing is, or something is made of it first.
        serves_vectors: whether it is used for its vectors rather than for the text that it writes.
        removals: which blocks go by each budget; None where that has yet to be measured.
        said: what there is to know.
    """

    backbone: Backbone
    asked: PruneRequest
    eligible: tuple[int, ...]
    budgets: tuple[Budget, ...]
    texts: Texts
    run: Run | None
    place: Path | None
    how: Saving | None
    serves_vectors: bool
    removals: tuple[Removal, ...] | None
    said: tuple[str, ...]

    def with_removals(self, progress: Progress) -> ReadyPruning:
        """Return the same with the blocks that go; that model is proven to be one that can be saved."""
        chosen = removals(
            self.backbone, self.asked, self.eligible, self.budgets, self.run, self.texts, progress
        )
        if self.how is not None:
            export_prune.output_of(self.backbone, sorted(chosen[0].blocks), self.how)
        return replace(self, removals=tuple(chosen))

    def estimate(self, progress: Progress) -> PruningEstimates:
        """Return what it would take; nothing is tried or written."""
        backbone, most = self.backbone, max(each.count for each in self.budgets)
        scan = None
        if self.removals is None:
            scan = estimate(backbone, prepare(backbone, self.texts, self.asked.scan, progress))
        return PruningEstimates(
            of=backbone.depth,
            eligible=self.eligible,
            budgets=tuple(each.count for each in self.budgets),
            removed=tuple(tuple(sorted(each.blocks)) for each in self.removals or ()),
            tried=self._to_try(),
            weight_bytes=formats.bytes_of(backbone.whole),
            free_bytes=None if self.place is None else formats.free_bytes(self.place),
            scan=scan,
            scans=most if self.asked.scheme == "greedy" else 1,
            healing_seconds=self._healing_seconds(),
        )

    def _healing_seconds(self) -> float | None:
        """Return about how long healing takes; refuse what it refuses if it was asked for."""
        if not self._heals():
            return None
        try:
            used = self._healing_texts()
            for each in self.removals or ():
                refuse_unhealable(self.backbone, each.blocks, used)
        except InputError:
            if self.asked.heal == "on":
                raise
            return None
        runs = [len(runs_of(each.blocks)) for each in self.removals or ()]
        runs = runs or [1 if self.asked.rule.spans else each.count for each in self.budgets]
        return seconds_to_heal(self.backbone, used, runs, self._criteria())

    def _heals(self) -> bool:
        """Whether maps are fitted: a model is tried or saved, or it was asked for."""
        held_out, _ = _held_out(self.backbone, self.asked, self.texts)
        used = self.place is not None or self.asked.plans or held_out
        if self.asked.part is not None:
            return False
        return self.asked.heal == "on" or (self.asked.heal == "auto" and bool(used))

    def _healing_texts(self) -> HealingTexts:
        tested = set(_held_out(self.backbone, self.asked, self.texts)[0])
        rest = [text for text in self.texts.samples if text not in tested]
        return divided(tokens_of(self.backbone, self.asked, rest), self.asked.settings)

    def _criteria(self) -> tuple[Criterion, ...]:
        return criteria(
            self.backbone,
            vectors=bool(self.asked.plans) or self.serves_vectors,
            text=not self.serves_vectors or self.asked.held_out is not None,
        )

    def _texts_of_tasks(self) -> Sequence[TokenizedText]:
        """Return the texts of the tasks in random order, as what their vectors are judged on."""
        if not self.asked.plans:
            return ()
        found = texts_of_tasks(self.backbone, self.asked.plans, self.asked.settings)
        order = np.random.default_rng(self.asked.seed).permutation(len(found))
        pictures = {key: each for plan in self.asked.plans for key, each in plan.pictures.items()}
        samples = [pictures.get(found[place], found[place]) for place in order]
        return tokens_of(self.backbone, self.asked, samples)

    def _healed(
        self, outcomes: Sequence[BudgetOutcome], progress: Progress
    ) -> tuple[list[BudgetOutcome], list[str]]:
        """Heal every removal, and return what to say of that."""
        if not self._heals():
            return list(outcomes), []
        always = self.asked.heal == "on"
        found, notes, judge = [], [], None
        for outcome in outcomes:
            try:
                used = self._healing_texts()
                judge = judge or Judge(
                    self.backbone, used, self._criteria(), vectors_of=self._texts_of_tasks()
                )
                healing = heal(
                    self.backbone, outcome.removed, used, progress, judge=judge, always=always
                )
            except InputError as error:
                if always:
                    raise
                notes.append(f"not healed: {error}")
                found.append(outcome)
            else:
                notes.append(healing.sentence())
                found.append(replace(outcome, healing=healing))
        if self.texts.name == SAMPLE and any(each.healing for each in found):
            notes.append(
                "the maps were fitted on the built-in sample; texts like those that the model will read "
                "(--data) heal it better."
            )
        return found, notes

    def _to_try(self) -> int:
        """Return how many models are tried: the full one, those of the budgets and random ones."""
        asked = self.asked
        held_out, _ = _held_out(self.backbone, asked, self.texts)
        if not asked.plans and not held_out:
            return 0
        drawn = [
            random_subsets(self.eligible, each.count, asked.draws, asked.seed).subsets
            for each in self.budgets
        ]
        return 1 + len(self.budgets) + len({subset for subsets in drawn for subset in subsets})

    def carry_out(self, progress: Progress) -> Pruning:
        """Measure what is not known yet, try it, save it."""
        if self.removals is None:
            return self.with_removals(progress).carry_out(progress)
        backbone, asked, texts = self.backbone, self.asked, self.texts
        place, how, budgets = self.place, self.how, self.budgets
        kinds = export_prune.kinds_of(backbone)
        outcomes = [
            BudgetOutcome(
                each, removal, tuple(kinds[b - 1] for b in sorted(removal.blocks)), part=asked.part
            )
            for each, removal in zip(budgets, self.removals or (), strict=True)
        ]
        outcomes, healing_notes = self._healed(outcomes, progress)
        full, outcomes, notes = _tried(backbone, asked, self.eligible, outcomes, texts, progress)
        spent = None
        whole = asked.part is None
        if whole and len(outcomes) == 1 and (place is not None or full is not None):
            progress("measuring speed", 0, 1)
            spent = costs(backbone, outcomes[0].removed, tokens_of(backbone, asked, texts.samples),
                          asked.settings.batch_tokens)  # fmt: skip
            progress("measuring speed", 1, 1)
        notes = (*self.said, *notes_of(asked, budgets, self.run), *healing_notes, *notes)
        record = record_of(
            backbone, asked, self.eligible, outcomes, full, spent, texts, self.run, notes
        )
        shipped, usage = None, ""
        if place is not None and how is not None:
            progress("saving and checking", 0, 1)
            shipped = export_prune.save_pruned(
                backbone, outcomes[0].removed, place, how, patches=outcomes[0].patches,
                texts=texts.texts, record=record, evidence=evidence_of(asked, outcomes[0], record),
            )  # fmt: skip
            usage = export_prune.usage_of(backbone, how, place)
            progress("saving and checking", 1, 1)
        return Pruning(
            asked.rule, asked.scheme, backbone.info.as_dict(), kinds, self.eligible,
            tuple(outcomes), full, spent, shipped, usage, in_words_of(record, tuple(notes)), record,
        )  # fmt: skip


def ready_pruning(
    backbone: Backbone,
    asked: PruneRequest,
    texts: Texts,
    progress: Progress,
    *,
    run: Run | None = None,
    place: Path | None = None,
    how: Saving | None = None,
    serves_vectors: bool = False,
    said: Sequence[str] = (),
) -> ReadyPruning:
    """Refuse what can be refused before the model is measured, and decide what needs no measuring.

    Args:
        backbone: the model, its head included where it is to be kept.
        asked: rule, budgets and how they are tried.
        texts: to measure on.
        progress: called with stage, done and total.
        run: a scan in place of measuring, or None.
        place: folder for the smaller model, or None.
        how: how it is saved; None where nothing is, or something is made of it first.
        serves_vectors: whether it is used for its vectors rather than for the text that it writes.
        said: notes on the model.

    Raises:
        InputError: it cannot be done.
        RunError: the disk is too full.
    """
    sees = isinstance(texts, Images)
    eligible, budgets = fitting(backbone, asked, saved=place is not None, images=sees)
    _held_out(backbone, asked, texts)
    if place is not None and how is not None:
        export_prune.refuse_unsavable(backbone, how, eligible)
        formats.refuse_full_disk(place, formats.bytes_of(backbone.whole))
    asked, eligible, kept = with_first_token(backbone, asked, eligible)
    for each in budgets:
        refuse_too_many(each, eligible)
    notes = (*said, *kept)
    if how is not None:
        how = replace(how, drop_first=asked.settings.first_token is FirstToken.DROP)
        if not sees:
            export_prune.texts_to_compare(backbone, how, texts.texts)
        how, more = export_prune.with_writing(backbone, how, texts.texts)
        notes += tuple(more)
    ready = ReadyPruning(
        backbone, asked, eligible, budgets, texts, run, place, how, serves_vectors, None, notes
    )
    measured = asked.rule.heals or (asked.rule.reads and run is None)
    known = asked.scheme != "greedy" and not measured
    return ready.with_removals(progress) if known else ready


# --- what that changes -----------------------------------------------------------------------------


def _tried(
    backbone: Backbone,
    asked: PruneRequest,
    eligible: Sequence[int],
    outcomes: Sequence[BudgetOutcome],
    texts: Texts,
    progress: Progress,
) -> tuple[Trial | None, list[BudgetOutcome], tuple[str, ...]]:
    """Try the full model, each chosen removal and its random subsets, every subset once."""
    held_out, notes = _held_out(backbone, asked, texts)
    plan = TrialPlan(asked.plans, asked.settings, tokens_of(backbone, asked, held_out))
    if not plan.plans and not plan.held_out:
        return None, list(outcomes), notes
    drawn = [
        random_subsets(eligible, each.budget.count, asked.draws, asked.seed) for each in outcomes
    ]
    wanted: dict[tuple[int, ...], None] = {(): None}
    for outcome, subsets in zip(outcomes, drawn, strict=True):
        wanted |= dict.fromkeys((outcome.removed, *subsets.subsets))
    trials = {}
    for number, removed in enumerate(wanted):
        progress("trying subsets", number, len(wanted))
        trials[removed] = attempt(backbone, removed, plan, asked.part)
    progress("trying subsets", len(wanted), len(wanted))
    full = trials[()]
    found = []
    for outcome, subsets in zip(outcomes, drawn, strict=True):
        others = tuple(trials[each] for each in subsets.subsets)
        pruned = dropped = trials[outcome.removed]
        compared = trial_module.comparisons(full, dropped, others, exhaustive=subsets.exhaustive)
        if outcome.patches:
            with patched(backbone, outcome.patches):
                pruned = attempt(backbone, outcome.removed, plan)
            own = trial_module.comparisons(full, pruned, (), exhaustive=False)
            compared = trial_module.healed_comparisons(own, compared)
        found.append(
            replace(
                outcome, trial=pruned, comparisons=compared, subsets=others, total=subsets.total,
                dropped=dropped if outcome.patches else None,
            )
        )  # fmt: skip
    return full, found, (*notes, *failures_of(full, found))


def _held_out(
    backbone: Backbone, asked: PruneRequest, texts: Texts
) -> tuple[Sequence[str], tuple[str, ...]]:
    """Return the texts of the perplexity, and what to say of them."""
    causal = writes_text(backbone)
    if asked.held_out is not None and not causal:
        raise InputError(
            f"{backbone.info.name}, a {type(backbone.whole).__name__}, predicts no next token, so that "
            "it has no perplexity; leave --perplexity out."
        )
    if asked.held_out is not None:
        return asked.held_out, ()
    if not causal or not asked.plans:
        return (), ()
    seen = set(texts.texts)
    sample = read_texts(SAMPLE, limit=None).texts
    unseen = [text for text in sample if text not in seen]
    note = f"perplexity on {HELD_OUT} texts of the built-in sample"
    if len(unseen) >= HELD_OUT:
        return unseen[-HELD_OUT:], (f"{note}, none of which the blocks were chosen by.",)
    return sample[-HELD_OUT:], (f"{note}, which the blocks were chosen by as well.",)
