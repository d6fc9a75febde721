"""Try a model without some of its blocks: task scores, perplexity, speed, size.

States are read at the model's own output: after the final norm, if there is one.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import torch
from torch.nn.functional import cross_entropy

from layerscope.data.tokens import TokenizedText
from layerscope.errors import NonFiniteError
from layerscope.evaluation.run import score_tasks
from layerscope.evaluation.tasks import TaskPlan
from layerscope.models.backbone import Backbone
from layerscope.models.blocks import skipping
from layerscope.models.modes import evaluating
from layerscope.models.parts import without_parts
from layerscope.results.resampling import Against, against
from layerscope.settings import EvaluateConfig, Part
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.states.extract import Site, batches, extract, sites_of

PERPLEXITY: Final = "perplexity"
_SPEED_TOKENS: Final = 512
_REPEATS: Final = 5


@dataclass(frozen=True)
class TrialPlan:
    """What a model with and without blocks is tried on.

    Attributes:
        plans: tasks of mteb, or tables.
        settings: how texts become vectors; what to do with the first token is decided already, so
            that no subset decides it anew.
        held_out: texts for the perplexity; none leaves it out.
    """

    plans: tuple[TaskPlan, ...]
    settings: EvaluateConfig
    held_out: tuple[TokenizedText, ...] = ()


@dataclass(frozen=True)
class Trial:
    """What came of one subset.

    Attributes:
        removed: the blocks, ascending; none for the full model.
        scores: task -> main score.
        perplexity: of the held-out texts, None where there are none.
        failed: task, or "perplexity" -> why it has no value.
    """

    removed: tuple[int, ...]
    scores: dict[str, float]
    perplexity: float | None
    failed: dict[str, str]


def without(
    backbone: Backbone, removed: Iterable[int], part: Part | None = None
) -> AbstractContextManager[Backbone]:
    """Give the model without some blocks, or without a part of them; none leaves it as it is."""
    gone = tuple(removed)
    if part is not None:
        return without_parts(backbone, gone, part)
    return skipping(backbone, gone) if gone else nullcontext(backbone)


def attempt(
    backbone: Backbone, removed: Iterable[int], plan: TrialPlan, part: Part | None = None
) -> Trial:
    """Try the model without some blocks on everything; a failing test does not stop the others."""
    gone = tuple(sorted(removed))
    with without(backbone, gone, part) as shorter:
        return tried(shorter, gone, plan)


def tried(backbone: Backbone, removed: tuple[int, ...], plan: TrialPlan) -> Trial:
    """Try a model, whose blocks are out already."""
    scores, failed = _scores(backbone, plan)
    found = perplexity(backbone, plan.held_out) if plan.held_out else None
    if plan.held_out and found is None:
        failed = failed | {PERPLEXITY: "the loss on the held-out texts is not a finite number"}
    return Trial(removed, scores, found, failed)


def output_site(backbone: Backbone) -> Site:
    """Return the site of the model's output."""
    return sites_of(backbone, [backbone.depth])[-1]


def _scores(backbone: Backbone, plan: TrialPlan) -> tuple[dict[str, float], dict[str, str]]:
    site, settings = output_site(backbone), plan.settings
    with tempfile.TemporaryDirectory(prefix="layerscope-") as folder:
        source = BankEncoder(
            backbone,
            open_bank(Path(folder) / "bank", backbone, TokenPolicy.of_config(settings)),
            settings.pools,
            poolings=(settings.pools,),
            sites=(site,),
            batch_tokens=settings.batch_tokens,
            pictures=ChainMap(*[each.pictures for each in plan.plans]),
        )
        try:
            outcome = score_tasks(source, plan.plans, (site,), settings)
        except NonFiniteError as error:  # that says something of the subset
            return {}, {each.name: str(error) for each in plan.plans}
    scores = {task: by_site[site].value for task, by_site in outcome.scores.items()}
    return scores, outcome.failed


def perplexity(backbone: Backbone, texts: Sequence[TokenizedText]) -> float | None:
    """Return exp of the mean loss of all tokens but each text's first; None if it is not a number.

    Every text goes through alone, so that no padding counts.
    """
    loss, tokens = 0.0, 0
    with evaluating(backbone.whole):
        for text in texts:
            ids = torch.tensor([text.ids], device=backbone.device)
            logits = backbone.whole(input_ids=ids, use_cache=False).logits[0, :-1].float()
            loss += float(cross_entropy(logits, ids[0, 1:], reduction="sum"))
            tokens += ids.shape[1] - 1
    mean = loss / tokens if tokens else math.nan
    return math.exp(mean) if math.isfinite(mean) and mean < 700 else None


# --- how it compares ------------------------------------------------------------------------------

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
        random: that change compared with random subsets; None where none were tried. Of a healed
            model it is the change without healing that is compared, as they are not healed either.
        lacking: random subsets without a value, which are left out.
        dropped: its value without the blocks and without healing; None where that is `pruned`.
    """

    name: str
    full: float | None
    pruned: float | None
    change: float
    random: Against | None = None
    lacking: int = 0
    dropped: float | None = None


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


def healed_comparisons(
    healed: Sequence[Comparison], dropped: Sequence[Comparison]
) -> tuple[Comparison, ...]:
    """Return the comparisons of a healed model, each beside the same model without healing.

    What only one of the two has a value of is left out.
    """
    beside = {found.name: found for found in dropped}
    return tuple(
        replace(
            found,
            random=beside[found.name].random,
            lacking=beside[found.name].lacking,
            dropped=beside[found.name].pruned,
        )
        for found in healed
        if found.name in beside
    )


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


# --- what it costs -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a model takes.

    Attributes:
        parameters: of the model as it was loaded, its head included.
        bytes: that its weights take in memory.
        tokens_per_second: of forward passes without the head.
        threads: of the CPU that those used.
        device: where they ran.
    """

    parameters: int
    bytes: int
    tokens_per_second: float
    threads: int
    device: str


def costs(
    backbone: Backbone, removed: Iterable[int], texts: Sequence[TokenizedText], budget: int
) -> tuple[Cost, Cost]:
    """Return what the full model takes and what it takes without some blocks.

    The two take turns on the same batch, and the median time of five turns counts.

    Args:
        backbone: the full model.
        removed: the blocks.
        texts: of which the first thousand tokens or so make the batch.
        budget: padded tokens in one forward pass.
    """
    sets = ((), tuple(removed))
    batch = _first(texts)
    seconds: tuple[list[float], list[float]] = ([], [])
    weights = []
    for turn in range(_REPEATS + 1):
        for gone, spent in zip(sets, seconds, strict=True):
            with without(backbone, gone) as model:
                taken = _seconds(model, batch, budget)
                if turn:  # the first turn warms up
                    spent.append(taken)
                else:
                    weights.append(_weights(model))
    tokens = sum(len(text.ids) for text in batch)
    full, pruned = (
        Cost(*held, tokens / median(spent), torch.get_num_threads(), backbone.info.device)
        for held, spent in zip(weights, seconds, strict=True)
    )
    return full, pruned


def _first(texts: Sequence[TokenizedText]) -> list[TokenizedText]:
    taken: list[TokenizedText] = []
    for text in texts:
        if taken and sum(len(each.ids) for each in (*taken, text)) > _SPEED_TOKENS:
            break
        taken.append(text)
    return taken


def _seconds(backbone: Backbone, texts: Sequence[TokenizedText], budget: int) -> float:
    marks = [[True] * len(text.ids) for text in texts]
    planned = list(batches(backbone, texts, marks, budget, tight=True))
    started = time.perf_counter()
    for _ in extract(backbone, planned, (output_site(backbone),), _at_end):
        pass
    return time.perf_counter() - started


def _at_end(states: Any) -> float:
    """Read a number, so that a device has to be finished."""
    return float(states.states[0, 0, 0])


def _weights(backbone: Backbone) -> tuple[int, int]:
    weights = list(backbone.whole.parameters())
    return (
        sum(weight.numel() for weight in weights),
        sum(weight.numel() * weight.element_size() for weight in weights),
    )
