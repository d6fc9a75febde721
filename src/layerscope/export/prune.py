"""A model without some of its blocks: settings, comparison with Random, the verified checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Final, Literal, Self

import torch
from pydantic import BeforeValidator, model_validator

from layerscope.config import (
    Config,
    Count,
    Kind,
    Listed,
    Natural,
    Pooling,
    Several,
    Text,
    To,
    scalar,
)
from layerscope.data.texts import Texts
from layerscope.data.tokens import TokenizedText, length_limit, tokenize
from layerscope.decisions.prune import (
    Against,
    Budget,
    Removal,
    Rule,
    against,
    budgets,
    eligible_blocks,
    parsed_budget,
    refuse_too_many,
)
from layerscope.decisions.prune import rule as rule_of
from layerscope.errors import InputError
from layerscope.evaluation.datasets import require_extra
from layerscope.evaluation.run import quiet
from layerscope.evaluation.tables import listed_tables
from layerscope.evaluation.tasks import TaskPlan, resolve
from layerscope.export import card as card_module
from layerscope.export import sentence as sentence_module
from layerscope.export import ship, shorten, verify
from layerscope.export.card import Story
from layerscope.export.sentence import Counting
from layerscope.export.ship import Plan, Shipped
from layerscope.export.trial import PERPLEXITY, Cost, Trial, output_site, without, writes_text
from layerscope.export.verify import NEW_TOKENS, Verification
from layerscope.metrics import catalogue
from layerscope.models import blocks, configs
from layerscope.models import blocks as blocks_module
from layerscope.models.backbone import Backbone
from layerscope.models.modes import evaluating
from layerscope.results.folder import versions
from layerscope.results.table import Run
from layerscope.settings import EvaluateConfig, Format, Protected, ScanConfig

MEAN: Final = "mean of the tasks"
Change = Callable[[Trial], float]


@dataclass(frozen=True)
class Comparison:
    """One test: its value in the full model and without the blocks, and the change in percent.

    Attributes:
        name: of the task, "perplexity", or "mean of the tasks".
        full: in the full model; None for the mean of the tasks, as their scores are unlike.
        pruned: without the blocks, likewise.
        change: in percent of the full model's value.
        random: that change beside those of random subsets; None where none were tried.
        lacking: random subsets without a value, which are left out.
    """

    name: str
    full: float | None
    pruned: float | None
    change: float
    random: Against | None = None
    lacking: int = 0


@dataclass(frozen=True)
class Outcome:
    """What one budget came to.

    Attributes:
        budget: how many blocks.
        removal: which, in the order in which they go, and by what scores.
        kinds: of these blocks, in ascending order of the blocks: the config's layer types, or the
            class of the block.
        trial: of the model without them, None if nothing was tried.
        comparisons: test by test.
        subsets: the trials of the random subsets.
        total: the number of all subsets of this size.
    """

    budget: Budget
    removal: Removal
    kinds: tuple[str, ...]
    trial: Trial | None = None
    comparisons: tuple[Comparison, ...] = ()
    subsets: tuple[Trial, ...] = field(default=(), repr=False)
    total: int = 0

    @property
    def removed(self) -> tuple[int, ...]:
        """The blocks that go, ascending."""
        return tuple(sorted(self.removal.blocks))


def comparisons(
    full: Trial, pruned: Trial, others: Sequence[Trial], *, exhaustive: bool
) -> tuple[Comparison, ...]:
    """Compare every test that both models have a value of.

    Args:
        full: the trial of the full model.
        pruned: of the model without the chosen blocks.
        others: of random subsets.
        exhaustive: whether those are all subsets of the size.
    """
    tasks = [task for task in full.scores if task in pruned.scores and full.scores[task] > 0]
    found = [
        _comparison(
            task, full.scores[task], pruned.scores[task], pruned, others,
            _of_task(full, task), exhaustive=exhaustive,
        )
        for task in tasks
    ]  # fmt: skip
    if len(tasks) > 1:
        changes = [_of_task(full, task) for task in tasks]

        def mean(trial: Trial) -> float:
            return fmean(change(trial) for change in changes)

        found.append(_comparison(MEAN, None, None, pruned, others, mean, exhaustive=exhaustive))
    if full.perplexity and pruned.perplexity:
        found.append(
            _comparison(
                PERPLEXITY, full.perplexity, pruned.perplexity, pruned, others,
                _of_perplexity(full.perplexity), exhaustive=exhaustive, lower=True,
            )
        )  # fmt: skip
    return tuple(found)


def _of_task(full: Trial, task: str) -> Change:
    """Return a trial's change of a score in percent; NaN where it has none."""
    return lambda trial: 100 * (trial.scores.get(task, math.nan) / full.scores[task] - 1)


def _of_perplexity(full: float) -> Change:
    return lambda trial: 100 * ((trial.perplexity or math.nan) / full - 1)


def _comparison(
    name: str,
    full: float | None,
    value: float | None,
    pruned: Trial,
    others: Sequence[Trial],
    change: Change,
    *,
    exhaustive: bool,
    lower: bool = False,
) -> Comparison:
    changes = [change(trial) for trial in others]
    known = [each for each in changes if not math.isnan(each)]
    own = change(pruned)
    lacking = len(changes) - len(known)
    beside = (
        against(own, known, exhaustive=exhaustive and not lacking, lower=lower) if known else None
    )
    return Comparison(name, full, value, own, beside, lacking)


_PROMPT_WORDS = 8
ComparedTexts = list[tuple[str, TokenizedText]]


@dataclass(frozen=True)
class Saving:
    """How a pruned model is saved.

    Attributes:
        format: of the folder.
        source: the sentence-transformers model that it is part of, whose pooling comes along.
        pooling: token states -> a vector, for sentence-transformers without a source.
        special_tokens: whether tokens that the tokenizer adds count there.
        drop_first: whether position 0 is left out there.
        max_length: most tokens a text may have.
        overwrite: whether a model that layerscope saved there may be replaced.
        writes: whether it must write text alike with and without its cache.
    """

    format: Format
    source: Any = None
    pooling: Pooling = Pooling.MEAN
    special_tokens: bool = False
    drop_first: bool = False
    max_length: int = 512
    overwrite: bool = False
    writes: bool = True


def save_pruned(
    backbone: Backbone,
    removed: Sequence[int],
    out: Path,
    how: Saving,
    *,
    texts: Sequence[str],
    record: dict[str, Any],
    evidence: Sequence[str],
) -> Shipped:
    """Save the model without some blocks; a new process must read the same states from it.

    A model that predicts the next token must also go on from a text alike with and without its cache.

    Raises:
        InputError: it cannot be saved so; nothing was written.
        MismatchError: what was saved gives something else; it is kept as `OUT.unverified`.
        RunError: the disk is full.
    """
    kept = blocks_module.kept_blocks(backbone, removed)
    head = has_head(backbone, how)
    counting, read = texts_to_compare(backbone, how, texts)
    prompt = _prompt(how, counting)
    with blocks_module.skipping(backbone, removed) as shorter:
        site = output_site(shorter)
        expected = verify.token_states(shorter, [tokens for _, tokens in read], site)
    output = output_of(backbone, removed, how)
    plan = Plan(
        kept,
        output,
        expected,
        read,
        format=how.format,
        head=head,
        counting=counting,
        source=how.source,
        prompt=prompt,
        max_length=length_limit(backbone.tokenizer, backbone.model.config, how.max_length),
        generate=_prompts(texts) if head and how.writes and writes_text(backbone) else (),
    )

    def card(verification: Verification) -> str:
        return card_module.model_card(
            backbone, _story(backbone, removed, how, out, evidence, verification)
        )

    return ship.ship(backbone, plan, out, overwrite=how.overwrite, record=record, card=card)


def refuse_unsavable(backbone: Backbone, how: Saving, eligible: Sequence[int]) -> None:
    """Raise an InputError where no model without some of these blocks can be saved.

    The whole model and the one without the first block that may go are built and run on a short input.
    """
    shorten.refuse_own_code(backbone)
    if how.format != "transformers":
        shorten.refuse_decoder(backbone, how.format)
        shorten.refuse_processor(backbone, how.format)
    output_of(backbone, (), how)
    refusals = []
    for block in eligible:
        try:
            output_of(backbone, (block,), how)
        except InputError as error:
            refusals.append(error)
        else:
            return
    if refusals:
        raise refusals[0]


def with_writing(
    backbone: Backbone, how: Saving, texts: Sequence[str]
) -> tuple[Saving, tuple[str, ...]]:
    """Return the same, with what the source itself does with its cache, and what to say of that.

    A source that writes other text with its cache than without it (a bidirectional encoder with a head
    for text) is no reason against what is made of it.
    """
    exact = backbone.info.dtype in ("float32", "float64")  # else two words may be equally likely
    if not (exact and has_head(backbone, how) and writes_text(backbone)):
        return how, ()
    whole: Any = backbone.whole
    for prompt in _prompts(texts):
        ids = backbone.tokenizer(prompt, return_tensors="pt")["input_ids"].to(backbone.device)
        try:
            with evaluating(whole):
                one, other = (
                    whole.generate(
                        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS,
                        do_sample=False, use_cache=cache, pad_token_id=0,
                    )
                    for cache in (True, False)
                )  # fmt: skip
            alike = torch.equal(one, other)
        except Exception:  # whatever the model's own code raises
            alike = False
        if not alike:
            said = "the model itself writes other text with its cache than without; that is not checked."
            return replace(how, writes=False), (said,)
    return how, ()


def output_of(backbone: Backbone, removed: Sequence[int], how: Saving) -> shorten.OutputPath:
    """Return where the saved model will give out its states, from a run on a short input.

    Raises:
        InputError: it would give other states than the source without these blocks.
    """
    kept = blocks_module.kept_blocks(backbone, removed)
    small: Any = shorten.smaller(backbone, kept, head=has_head(backbone, how))
    head = has_head(backbone, how) and writes_text(backbone)
    if removed and head and cached(backbone.whole.config) and not cached(small.config):
        raise InputError(
            f"without block {', '.join(map(str, sorted(removed)))} no block of "
            f"{backbone.info.model_class} keeps a cache that transformers can write text with; pass "
            "--no-head, or protect an attention block."
        )
    if how.format != "transformers":
        shorten.refuse_padding(backbone, small, how.format)
    ids = tuple(blocks_module.probe(backbone)["input_ids"][0].tolist())
    text = TokenizedText(ids, (False,) * len(ids), truncated=False)
    with without(backbone, removed) as shorter:
        wanted = verify.token_states(shorter, [text], output_site(shorter))[0]
    output = shorten.find_output(backbone, small, wanted)
    if output != shorten.LAST:
        gone = f" without block {', '.join(map(str, sorted(removed)))}" if removed else ""
        raise InputError(
            f"{backbone.info.model_class}{gone} in transformers does not give out the states that were "
            "measured, so it cannot be saved; leave --out out to see what dropping blocks changes."
        )
    return shorten.LAST


def cached(config: Any) -> bool:
    """Whether a model runs with a key-value cache unless told otherwise."""
    return bool(getattr(configs.text_config_of(config), "use_cache", True))


def has_head(backbone: Backbone, how: Saving) -> bool:
    """Whether the head is saved as well."""
    return how.format == "transformers" and backbone.whole is not backbone.model


def texts_to_compare(
    backbone: Backbone, how: Saving, texts: Sequence[str]
) -> tuple[Counting | None, ComparedTexts]:
    """Return which tokens count in the folder (None: the source says), and the texts to compare on.

    Raises:
        InputError: the format cannot say which tokens count.
    """
    limit = length_limit(backbone.tokenizer, backbone.model.config, how.max_length)
    most = limit if how.source is None else min(limit, how.source.max_seq_length or limit)
    chosen = verify.beginnings(texts, most)
    tokens = tokenize(backbone.tokenizer, chosen, limit)
    counting: Counting | None = None
    if how.format == "sentence-transformers" and how.source is None:
        counting = sentence_module.counting_of(
            backbone.tokenizer,
            tokens,
            how.pooling,
            special_tokens=how.special_tokens,
            drop_first=how.drop_first,
            normalize=False,
        )
    if prompt := _prompt(how, counting):
        chosen = [prompt + text for text in chosen]
        tokens = tokenize(backbone.tokenizer, chosen, limit)
    return counting, list(zip(chosen, tokens, strict=True))


def _prompt(how: Saving, counting: Counting | None) -> str:
    """Return what sentence-transformers will put before each text."""
    if how.format != "sentence-transformers":
        return ""
    return (counting.prompt if counting else "") + sentence_module.default_prompt(how.source)


def _prompts(texts: Sequence[str]) -> list[str]:
    return [" ".join(text.split()[:_PROMPT_WORDS]) for text in list(texts)[:2]]


def kinds_of(backbone: Backbone) -> tuple[str, ...]:
    """Return of each block what kind it is: the config's layer types, or the class of the block."""
    config: Any = backbone.model.config
    for name in ("layer_types", "layers_block_type"):
        kinds = getattr(config, name, None)
        if isinstance(kinds, list | tuple) and len(kinds) == backbone.depth:
            return tuple(str(kind) for kind in kinds)
    return tuple(type(block).__name__ for block in backbone.blocks)


def usage_of(backbone: Backbone, how: Saving, out: Path) -> str:
    """Return a few lines of Python that load the saved folder."""
    if how.format == "sentence-transformers":
        return card_module.usage_of(out, how.format, shorten.LAST, "", pictures=False)
    kind = "AutoModelForCausalLM" if writes_text(backbone) else "AutoModel"
    return (
        f"from transformers import {kind}, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{out}")\n'
        f'model = {kind}.from_pretrained("{out}")'
    )


def _story(
    backbone: Backbone,
    removed: Sequence[int],
    how: Saving,
    out: Path,
    evidence: Sequence[str],
    verification: Verification,
) -> Story:
    name, blocks = backbone.info.name, ", ".join(map(str, sorted(removed)))
    generated = (
        " Text is generated alike with and without the cache." if verification.generated else ""
    )
    return Story(
        title=f"{name} without {len(removed)} of its {backbone.depth} blocks",
        what=[
            f"{name} without block{'s' if len(removed) > 1 else ''} {blocks} of {backbone.depth}; what "
            f"enters a removed block goes on to the next. Not trained since. Made by "
            "layerscope prune."
        ],
        evidence=evidence,
        usage=usage_of(backbone, how, Path(out.name)),
        library=how.format,
        verified=(
            f"Loaded in a new process by {verification.reader}, on {verification.texts} texts the "
            f"largest difference from the source without these blocks is {verification.largest:.1e} of "
            f"its length (limit {verification.limit:.0e}).{generated}"
        ),
    )


_BUDGET: Final = "a part of the blocks (0.1 or '10%') or their number"


Budgets = Annotated[
    float | str | Iterable[float | str],
    To(Several[Annotated[float | int | str, BeforeValidator(scalar), Kind(_BUDGET)]]),
]


class PruneRequest(Config):
    """What was asked for, checked before a model is loaded.

    Raises:
        InputError: no such scheme, or one that the rule cannot follow; no budget; no draw.
    """

    rule: Annotated[Rule, Kind("the name of a rule or a Rule")]
    """Which blocks go."""
    budgets: Several[Text]
    """How many, as they were asked for."""
    protect: Protected
    """Blocks at the start and at the end that stay."""
    scheme: Literal["one-shot", "greedy"]
    """Whether all blocks are scored at once, or anew after each one that goes."""
    draws: Count
    """Random subsets to try."""
    plans: Listed[Annotated[TaskPlan, Kind("a task")]]
    """Tasks to try them on."""
    held_out: Listed[Text] | None
    """Texts of the perplexity; None leaves them to the model."""
    settings: EvaluateConfig
    """How texts become vectors, in the scan and in the tasks."""
    seed: Natural
    """Of all that is drawn."""

    @model_validator(mode="after")
    def _refuse_what_no_model_allows(self) -> Self:
        for each in self.budgets:
            parsed_budget(each)
        if self.scheme == "greedy" and self.rule.at_once:
            raise InputError(
                f"the rule {self.rule.name!r} chooses all blocks at once; leave --scheme greedy out."
            )
        return self

    @property
    def scan(self) -> ScanConfig:
        """What measures just what the rule reads."""
        given = self.settings
        asked: dict[str, Any] = {"metrics": self.rule.reads} if self.rule.reads else {}
        if self.rule.convention:
            asked["conventions"] = (self.rule.convention,)
        views = any(measure.level == "view" for measure in catalogue.select(self.rule.reads))
        return ScanConfig(
            **asked,
            views=2 if views else 0,
            pooling=given.pooling,
            special_tokens=given.special_tokens,
            first_token=given.first_token,
            max_length=given.max_length,
            batch_tokens=given.batch_tokens,
            seed=self.seed,
        )


def named_rule(given: str | Rule) -> Rule:
    """Return a rule by its name, or one that is given as it is."""
    return rule_of(given) if isinstance(given, str) else given


def listed_budgets(given: float | str | Iterable[float | str]) -> tuple[str, ...]:
    """Return budgets as text: one, several, or several separated by commas."""
    several = (given,) if isinstance(given, str | int | float) else given
    return tuple(part.strip() for each in several for part in str(each).split(","))


def tasks_of(
    names: Iterable[str], task_data: str | Path | None, tables: Iterable[Any]
) -> tuple[TaskPlan, ...]:
    """Return the tasks to try models on; none where none are named.

    Raises:
        InputError: nobody knows a name, or mteb is not installed.
    """
    wanted = tuple(name.strip() for name in names if name.strip())
    given = listed_tables(tables)
    if not wanted and not given:
        return ()
    require_extra()
    folder = None if task_data is None else Path(task_data).expanduser()
    with quiet():
        return resolve(wanted, task_data=folder, tables=given)


def fitting(
    backbone: Backbone, asked: PruneRequest, *, saved: bool
) -> tuple[tuple[int, ...], tuple[Budget, ...]]:
    """Return the blocks that may go and the budgets in blocks.

    Raises:
        InputError: the model cannot do without blocks, or without so many; or one model is to be saved
            and the budgets mean several.
    """
    blocks.refuse_surgery(backbone)
    if backbone.tokenizer is None:
        raise InputError(f"{backbone.info.model_class} reads images; prune measures texts only.")
    if saved:
        shorten.refuse_quantized(backbone)
    eligible = eligible_blocks(backbone.depth, asked.protect)
    numbers = budgets(asked.budgets, backbone.depth)
    for each in numbers:
        refuse_too_many(each, eligible)
    _refuse_needed(backbone, eligible)
    if saved and len(numbers) > 1:
        raise InputError(
            f"one model is saved, but the budgets mean {len(numbers)} of them "
            f"({', '.join(map(str, numbers))} blocks); give one budget with --out."
        )
    return eligible, numbers


def _refuse_needed(backbone: Backbone, eligible: Sequence[int]) -> None:
    """Some architectures keep in one block what all others need."""
    for block in eligible:
        kept = blocks.kept_blocks(backbone, [block])
        blocks.refuse_surgery(backbone, kept)
        blocks.refuse_skipping(backbone, kept)


def notes_of(asked: PruneRequest, budgets: Sequence[Budget], run: Run | None) -> list[str]:
    """Return what there is to know of how the blocks were chosen."""
    notes = [
        f"budgets {', '.join(each.asked)} all remove {each} blocks."
        for each in budgets
        if len(each.asked) > 1
    ]
    if asked.rule.own_reading:
        notes.append(
            "the rule is our reading of Jiang, Yang, Tam 2026, whose own could not be read."
        )
    if run is not None and asked.scheme == "greedy" and asked.rule.reads:
        notes.append("the first block was chosen by the run, the others by new scans of the texts.")
    return notes


def record_of(
    backbone: Backbone,
    asked: PruneRequest,
    eligible: Sequence[int],
    outcomes: Sequence[Outcome],
    full: Trial | None,
    spent: tuple[Cost, Cost] | None,
    texts: Texts,
    run: Run | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return plain values that say what was asked, what was found and by what."""
    measured = (run.record.get("data", {}) if run is not None else {}) or {
        "name": texts.name, "fingerprint": texts.fingerprint, "texts": len(texts.texts),
    }  # fmt: skip
    rule = asked.rule
    return {
        "command": "prune",
        "source": backbone.info.as_dict(),
        "rule": {"name": rule.name, "formula": rule.formula, "reads": rule.reads, "source": rule.source},
        "scheme": asked.scheme,
        "protect": list(asked.protect),
        "eligible": list(eligible),
        "data": measured if rule.reads else {},
        "settings": asked.settings.deciding() | {"seed": asked.seed},
        "outcomes": [_outcome(outcome) for outcome in outcomes],
        "full": None if full is None else asdict(full),
        "costs": None if spent is None else [asdict(cost) for cost in spent],
        "tasks": {
            plan.name: {"metric": plan.metric, "split": plan.split, "subset": plan.subset,
                        "revision": plan.revision}
            for plan in asked.plans
        },
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "notes": list(notes),
    }  # fmt: skip


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "asked": list(outcome.budget.asked),
        "budget": str(outcome.budget),
        "removed": list(outcome.removed),
        "order": list(outcome.removal.blocks),
        "kinds": list(outcome.kinds),
        "scores": {str(block): score for block, score in outcome.removal.scores.items()},
        "trial": None if outcome.trial is None else asdict(outcome.trial),
        "comparisons": [asdict(found) for found in outcome.comparisons],
        "subsets": [asdict(trial) for trial in outcome.subsets],
        "total_subsets": outcome.total,
    }


def evidence_of(asked: PruneRequest, outcome: Outcome, record: dict[str, Any]) -> list[str]:
    """Return the sentences of the model card on why these blocks, and what it cost."""
    rule, data = asked.rule, record["data"]
    on = f", measured on {data.get('texts')} texts of {data.get('name')}" if data else ""
    said = [f"Chosen by the rule {rule.name} ({rule.formula}, lowest first; {asked.scheme}){on}."]
    for found in outcome.comparisons:
        line = f"{found.name}: {found.change:+.1f} % against the full model"
        if found.random:
            line += (
                f"; {found.random.subsets} random subsets of as many blocks: median "
                f"{found.random.median:+.1f} %, p = {found.random.p:.2f}"
            )
        said.append(f"{line}.")
    return said
