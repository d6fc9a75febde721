"""`prune`: the model without the blocks that a rule finds redundant, tried, saved and verified."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import pandas as pd
from torch import nn

from layerscope.analysis.plan import prepare, refuse_impossible
from layerscope.analysis.run import Estimates, estimate, scan_backbone
from layerscope.api.common import (
    Data,
    Model,
    Tables,
    Tasks,
    Tokenizer,
    Watch,
    loaded,
    refuse_other_model,
    refuse_tokenizer,
    texts_of,
    unwatched,
)
from layerscope.api.deciding import RunLike, run_of
from layerscope.config import (
    AnyPath,
    Count,
    FirstToken,
    Flag,
    Kind,
    Text,
    checked,
)
from layerscope.data.texts import SAMPLE, Texts, read_texts
from layerscope.data.tokens import TokenizedText, length_limit, tokenize
from layerscope.decisions import prune as prune_module
from layerscope.decisions.prune import Budget, Measured, Removal, Rule
from layerscope.errors import InputError
from layerscope.export import formats, sentence
from layerscope.export import prune as export_prune
from layerscope.export import trial as trial_module
from layerscope.export.prune import Outcome, Saving, evidence_of, record_of
from layerscope.export.request import (
    Budgets,
    PruneRequest,
    fitting,
    listed_budgets,
    named_rule,
    notes_of,
    tasks_of,
)
from layerscope.export.ship import Shipped
from layerscope.export.trial import Cost, Trial, TrialPlan, attempt, costs, writes_text
from layerscope.models import loading
from layerscope.models.backbone import Backbone
from layerscope.results.display import Displayed
from layerscope.results.table import Run, conform, no_contributions
from layerscope.settings import (
    DEFAULT_LIMIT,
    EvaluateConfig,
    Format,
    ModelOptions,
    PruneConfig,
    VectorConfig,
)
from layerscope.states.encode import first_token_for
from layerscope.states.extract import Progress

HELD_OUT: Final = 16  # texts of the perplexity, unless the caller gives them

AnyRule = Annotated[str | Rule, Kind("the name of a rule or a Rule")]


@dataclass(frozen=True, eq=False, repr=False)
class Pruning(Displayed):
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
    """

    rule: Rule
    scheme: str
    model: dict[str, Any]
    kinds: tuple[str, ...]
    eligible: tuple[int, ...]
    outcomes: tuple[Outcome, ...]
    full: Trial | None
    costs: tuple[Cost, Cost] | None
    shipped: Shipped | None
    usage: str
    notes: tuple[str, ...]
    record: dict[str, Any]

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


@checked
def prune(
    model: Model,
    rule: AnyRule = "angular",
    budget: Budgets = 0.1,
    *,
    data: Data = "sample",
    run: RunLike | None = None,
    out: AnyPath | None = None,
    overwrite: Flag = False,
    evaluate: Tasks = (),
    task_data: AnyPath | None = None,
    tables: Tables = (),
    perplexity: Data | None = None,
    column: Text | None = None,
    split: Text | None = None,
    limit: Count | None = DEFAULT_LIMIT,
    tokenizer: Tokenizer = None,
    model_options: ModelOptions | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Pruning:
    """Drop the blocks of a model that a rule finds redundant, and say what that costs.

    Args:
        model: a hub id, a local folder, a GGUF file, a `SentenceTransformer` or a loaded transformers
            model (give `tokenizer`).
        rule: the name of one of `layerscope.decisions.prune.RULES`, of a measure whose change
            across a block counts, or a rule of your own. The default is the one that did best where
            we tried them.
        budget: a part of the blocks (0.1, "10%") or their number; several compare what they do, and
            those that mean the same number are one.
        data: texts to measure the model on; also what a saved model is compared on.
        run: a finished scan of this model in place of measuring it.
        out: folder for the smaller model; None saves none.
        overwrite: whether a model that layerscope saved in `out` may be replaced.
        evaluate: tasks to score the full model, the smaller one and random subsets on, as for
            `layerscope.evaluate`.
        task_data: a folder with a folder for each task.
        tables: labelled files or tables in Python besides.
        perplexity: held-out texts for a causal model; by default, where tasks are scored, texts of the
            built-in sample that were not measured.
        column: of a table of texts.
        split: of a datasets id.
        limit: most texts to measure on; None uses all.
        tokenizer: of a loaded model, which needs it; a model given by name has its own.
        model_options: how to load the model: revision, dtype, device.
        watch: opens a progress callback; None shows nothing.
        settings: any field of `PruneConfig`.

    Raises:
        InputError: it cannot be done; nothing was written.
        MismatchError: the saved model gives something else; it is kept as `OUT.unverified`.
        RunError: the model or the disk failed.
    """
    chosen = PruneConfig(**settings)
    refuse_tokenizer(model, tokenizer)
    place = None if out is None else Path(out)
    _check_saving(place, chosen.format, (model, run), overwrite=overwrite)
    alone = nullcontext() if place is None else formats.claimed(place)
    with alone, (watch or unwatched)() as progress:
        planned = _planned(
            progress, chosen, model=model, rule=rule, budget=budget, data=data, run=run, out=out,
            overwrite=overwrite, evaluate=evaluate, task_data=task_data, tables=tables,
            perplexity=perplexity, column=column, split=split, limit=limit, tokenizer=tokenizer,
            model_options=model_options,
        )  # fmt: skip
        return _carried_out(planned, progress)


@checked
def estimate_prune(
    model: Model,
    rule: AnyRule = "angular",
    budget: Budgets = 0.1,
    *,
    watch: Watch | None = None,
    **options: Any,
) -> PruningEstimates:
    """Return what a pruning with the same arguments would take; nothing is tried or written.

    Args:
        model: as of `prune`.
        rule: as of `prune`.
        budget: as of `prune`.
        watch: opens a progress callback; None shows nothing.
        options: any other argument or setting of `prune`.

    Raises:
        InputError, RunError: what `prune` raises before it measures.
    """
    asked = inspect.signature(prune).bind(model, rule, budget, **options)
    asked.apply_defaults()
    arguments = {name: value for name, value in asked.arguments.items() if name != "watch"}
    chosen = PruneConfig(**arguments.pop("settings", {}))
    place = arguments["out"]
    _check_saving(
        None if place is None else Path(place), chosen.format, (model, arguments["run"]),
        overwrite=arguments["overwrite"],
    )  # fmt: skip
    with (watch or unwatched)() as progress:
        planned = _planned(progress, chosen, **arguments)
        backbone, most = planned.backbone, max(each.count for each in planned.budgets)
        scan = None
        if planned.removals is None:
            prepared = prepare(backbone, planned.texts, planned.asked.scan, progress)
            scan = estimate(backbone, prepared)
    found = tuple(tuple(sorted(removal.blocks)) for removal in planned.removals or ())
    return PruningEstimates(
        of=backbone.depth,
        eligible=planned.eligible,
        budgets=tuple(each.count for each in planned.budgets),
        removed=found,
        tried=_to_try(planned),
        weight_bytes=formats.bytes_of(backbone.whole),
        free_bytes=None if planned.place is None else formats.free_bytes(planned.place),
        scan=scan,
        scans=most if planned.asked.scheme == "greedy" else 1,
    )


# --- what is decided before any work -------------------------------------------------------------


@dataclass(frozen=True)
class _Planned:
    """A pruning of which nothing has been refused.

    Attributes:
        backbone: the model.
        asked: what was asked for, with the first token decided.
        eligible: the blocks that may go.
        budgets: how many.
        texts: to measure on.
        run: a scan in place of measuring, or None.
        place: folder for the smaller model, or None.
        how: how it is saved, or None.
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
    removals: tuple[Removal, ...] | None
    said: tuple[str, ...]


def _planned(
    progress: Progress,
    chosen: PruneConfig,
    *,
    model: str | Path | nn.Module,
    rule: str | Rule,
    budget: float | str | Iterable[float | str],
    data: Any,
    run: RunLike | None,
    out: str | Path | None,
    overwrite: bool,
    evaluate: str | Iterable[str],
    task_data: str | Path | None,
    tables: Any,
    perplexity: Any,
    column: str | None,
    split: str | None,
    limit: int | None,
    tokenizer: Any,
    model_options: ModelOptions | None,
) -> _Planned:
    """Decide what a pruning and its dry run decide alike: they differ only in what they do then."""
    held_out = None if perplexity is None else texts_of(perplexity, None, None, None, 0).texts
    asked = PruneRequest(
        rule=named_rule(rule), budgets=listed_budgets(budget), protect=chosen.protect,
        scheme=chosen.scheme, draws=chosen.draws, plans=tasks_of(evaluate, task_data, tables),
        held_out=None if held_out is None else tuple(held_out),
        settings=EvaluateConfig(
            **{name: getattr(chosen, name) for name in (*VectorConfig.model_fields, "seed")}
        ),
        seed=chosen.seed,
    )  # fmt: skip
    place = None if out is None else Path(out)
    given = None if run is None else run_of(run)
    texts = texts_of(data, column, split, limit, chosen.seed)
    if given is not None:
        prune_module.refuse_lacking(asked.rule, given)
    elif asked.rule.reads:
        refuse_impossible(asked.scan, texts)
    backbone, said = _loaded(model, tokenizer, model_options, progress, head=chosen.head)
    if given is not None:
        refuse_other_model(given, backbone)
    eligible, budgets = fitting(backbone, asked, saved=place is not None)
    _held_out(backbone, asked, texts)
    how = None
    if place is not None:
        how = _saving(model, asked, chosen.format, model_options, overwrite=overwrite)
        export_prune.refuse_unsavable(backbone, how, eligible)
        formats.refuse_full_disk(place, formats.bytes_of(backbone.whole))
    asked = _with_first_token(backbone, asked)
    if how is not None:
        how = replace(how, drop_first=asked.settings.first_token is FirstToken.DROP)
        export_prune.texts_to_compare(backbone, how, texts.texts)
        how, more = export_prune.with_writing(backbone, how, texts.texts)
        said = [*said, *more]
    planned = _Planned(
        backbone, asked, eligible, budgets, texts, given, place, how, None, tuple(said)
    )
    known = asked.scheme != "greedy" and (given is not None or not asked.rule.reads)
    return _with_removals(planned, progress) if known else planned


def _with_removals(planned: _Planned, progress: Progress) -> _Planned:
    """Return the same, with the blocks that go, and that model proven to be one that can be saved."""
    removals = _removals(
        planned.backbone, planned.asked, planned.eligible, planned.budgets, planned.run,
        planned.texts, progress,
    )  # fmt: skip
    if planned.how is not None:
        export_prune.output_of(planned.backbone, sorted(removals[0].blocks), planned.how)
    return replace(planned, removals=tuple(removals))


def _to_try(planned: _Planned) -> int:
    """Return how many models are tried: the full one, those of the budgets and random ones."""
    asked = planned.asked
    held_out, _ = _held_out(planned.backbone, asked, planned.texts)
    if not asked.plans and not held_out:
        return 0
    drawn = [
        prune_module.random_subsets(planned.eligible, each.count, asked.draws, asked.seed).subsets
        for each in planned.budgets
    ]
    return 1 + len(planned.budgets) + len({subset for subsets in drawn for subset in subsets})


def _carried_out(planned: _Planned, progress: Progress) -> Pruning:
    """Measure what is not known yet, try it, save it."""
    if planned.removals is None:
        planned = _with_removals(planned, progress)
    backbone, asked, texts = planned.backbone, planned.asked, planned.texts
    place, how, budgets = planned.place, planned.how, planned.budgets
    kinds = export_prune.kinds_of(backbone)
    outcomes = [
        Outcome(each, removal, tuple(kinds[b - 1] for b in sorted(removal.blocks)))
        for each, removal in zip(budgets, planned.removals or (), strict=True)
    ]
    full, outcomes, notes = _tried(backbone, asked, planned.eligible, outcomes, texts, progress)
    spent = None
    if len(outcomes) == 1 and (place is not None or full is not None):
        progress("measuring speed", 0, 1)
        spent = costs(backbone, outcomes[0].removed, _tokens(backbone, asked, texts.texts),
                      asked.settings.batch_tokens)  # fmt: skip
        progress("measuring speed", 1, 1)
    notes = (*planned.said, *notes_of(asked, budgets, planned.run), *notes)
    record = record_of(
        backbone, asked, planned.eligible, outcomes, full, spent, texts, planned.run, notes
    )
    shipped, usage = None, ""
    if place is not None and how is not None:
        progress("saving and checking", 0, 1)
        shipped = export_prune.save_pruned(
            backbone, outcomes[0].removed, place, how,
            texts=texts.texts, record=record, evidence=evidence_of(asked, outcomes[0], record),
        )  # fmt: skip
        usage = export_prune.usage_of(backbone, how, place)
        progress("saving and checking", 1, 1)
    return Pruning(
        asked.rule, asked.scheme, backbone.info.as_dict(), kinds, planned.eligible,
        tuple(outcomes), full, spent, shipped, usage, tuple(notes), record,
    )  # fmt: skip


def _check_saving(
    place: Path | None,
    format: str,  # noqa: A002
    sources: tuple[Any, ...],
    *,
    overwrite: bool,
) -> None:
    if place is None:
        return
    formats.refuse_folder(place, overwrite=overwrite, sources=sources)
    if format == "sentence-transformers":
        sentence.require_extra()


def _loaded(
    model: str | Path | nn.Module,
    tokenizer: Any,
    options: ModelOptions | None,
    progress: Progress,
    *,
    head: bool,
) -> tuple[Backbone, list[str]]:
    """Load the model with its head if it has one, and return what to say of that."""
    if isinstance(model, nn.Module) or not head:
        return loaded(model, tokenizer, options, progress), []
    progress("loading the model", 0, 1)
    if loading.holds_head(model, options):
        return loaded(model, tokenizer, options, progress, head=True), []
    # Embedders are often saved under the name of a class with a head.
    said = "the config names a head that the checkpoint does not hold, so it is left out."
    return loaded(model, tokenizer, options, progress), [said]


# --- which blocks go -------------------------------------------------------------------------------


def _removals(
    backbone: Backbone,
    asked: PruneRequest,
    eligible: Sequence[int],
    budgets: Sequence[Budget],
    run: Run | None,
    texts: Texts,
    progress: Progress,
) -> list[Removal]:
    def measured(removed: tuple[int, ...] = ()) -> Measured:
        if not asked.rule.reads:
            nothing = pd.DataFrame({"metric": [], "value": []})
            empty = Run(conform(nothing), no_contributions(), {})
            return Measured(empty, backbone.depth - len(removed))
        if not removed and run is not None:
            return prune_module.measured_by(run, backbone.depth)
        with trial_module.without(backbone, removed) as shorter:
            found = scan_backbone(shorter, texts, asked.scan, progress=progress)
            return prune_module.measured_by(found, shorter.depth)

    if asked.scheme == "greedy":
        most = max(each.count for each in budgets)
        longest = prune_module.one_by_one(asked.rule, measured, eligible, most, asked.seed)
        return [_first(longest, each.count) for each in budgets]
    full = measured()
    return [asked.rule.choose(full, eligible, each.count, asked.seed) for each in budgets]


def _first(removal: Removal, count: int) -> Removal:
    blocks = removal.blocks[:count]
    return Removal(blocks, {b: v for b, v in removal.scores.items() if b in blocks})


# --- what that changes -----------------------------------------------------------------------------


def _with_first_token(backbone: Backbone, asked: PruneRequest) -> PruneRequest:
    """Decide on the full model what no subset shall decide anew."""
    settings = asked.settings
    limit = length_limit(backbone.tokenizer, backbone.model.config, settings.max_length)
    first = first_token_for(backbone, settings.first_token, limit)
    return asked.changed(settings=settings.changed(first_token=first, max_length=limit))


def _tokens(
    backbone: Backbone, asked: PruneRequest, texts: Sequence[str]
) -> tuple[TokenizedText, ...]:
    return tuple(tokenize(backbone.tokenizer, texts, asked.settings.max_length))


def _tried(
    backbone: Backbone,
    asked: PruneRequest,
    eligible: Sequence[int],
    outcomes: Sequence[Outcome],
    texts: Texts,
    progress: Progress,
) -> tuple[Trial | None, list[Outcome], tuple[str, ...]]:
    """Try the full model, each chosen removal and its random subsets, every subset once."""
    held_out, notes = _held_out(backbone, asked, texts)
    plan = TrialPlan(asked.plans, asked.settings, _tokens(backbone, asked, held_out))
    if not plan.plans and not plan.held_out:
        return None, list(outcomes), notes
    drawn = [
        prune_module.random_subsets(eligible, each.budget.count, asked.draws, asked.seed)
        for each in outcomes
    ]
    wanted: dict[tuple[int, ...], None] = {(): None}
    for outcome, subsets in zip(outcomes, drawn, strict=True):
        wanted |= dict.fromkeys((outcome.removed, *subsets.subsets))
    trials = {}
    for number, removed in enumerate(wanted):
        progress("trying subsets", number, len(wanted))
        trials[removed] = attempt(backbone, removed, plan)
    progress("trying subsets", len(wanted), len(wanted))
    full = trials[()]
    found = []
    for outcome, subsets in zip(outcomes, drawn, strict=True):
        others = tuple(trials[each] for each in subsets.subsets)
        pruned = trials[outcome.removed]
        compared = trial_module.comparisons(full, pruned, others, exhaustive=subsets.exhaustive)
        found.append(
            replace(
                outcome, trial=pruned, comparisons=compared, subsets=others, total=subsets.total
            )
        )
    return full, found, (*notes, *_failures(full, found))


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


def _failures(full: Trial, outcomes: Sequence[Outcome]) -> list[str]:
    said = [f"{task} was not compared: {why}" for task, why in full.failed.items()]
    said += [
        f"{task} has no change in percent, as the full model scores {score:.4g}."
        for task, score in full.scores.items()
        if score <= 0
    ]
    for outcome in outcomes:
        if outcome.trial is not None:
            failed = {k: v for k, v in outcome.trial.failed.items() if k not in full.failed}
            said += [
                f"without {outcome.removed}, {task} fails: {why}" for task, why in failed.items()
            ]
        said += [
            f"{found.lacking} random subsets of {outcome.budget} blocks have no {found.name}, and are "
            "left out."
            for found in outcome.comparisons
            if found.lacking
        ]
    return said


# --- what is kept and said -------------------------------------------------------------------------


def _saving(
    model: str | Path | nn.Module,
    asked: PruneRequest,
    format: str,  # noqa: A002
    options: ModelOptions | None,
    *,
    overwrite: bool,
) -> Saving:
    source = None if format == "transformers" else sentence.load_source(model, options)
    chosen: Format = "transformers" if source is None else "sentence-transformers"
    if format != "auto":
        chosen = format  # type: ignore[assignment]
    settings = asked.settings
    return Saving(
        chosen,
        source=source,
        pooling=settings.pooling,
        special_tokens=settings.special_tokens,
        max_length=settings.max_length,
        overwrite=overwrite,
    )
