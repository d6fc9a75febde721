"""Validated pruning configuration: the rule, the budgets, the tasks and the blocks that may go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, model_validator

from layerscope.config import Config, Count, Kind, Listed, Natural, Several, Text, To, scalar
from layerscope.decisions.prune import (
    ENDS,
    Budget,
    Rule,
    budgets,
    eligible_blocks,
    parsed_budget,
    refuse_too_many,
)
from layerscope.decisions.prune import rule as rule_of
from layerscope.errors import InputError
from layerscope.evaluation.datasets import require_extra
from layerscope.evaluation.images import plan_of_images
from layerscope.evaluation.run import quiet
from layerscope.evaluation.tables import listed_tables
from layerscope.evaluation.tasks import TaskPlan, resolve
from layerscope.export import shorten
from layerscope.metrics import catalogue
from layerscope.models import blocks, parts
from layerscope.models.backbone import Backbone
from layerscope.results.table import Run
from layerscope.settings import EvaluateConfig, Heal, Part, Parts, Protected, ScanConfig

_BUDGET: Final = "a part of the blocks (0.1 or '10%') or their number"


RULES_OF_PARTS: Final = ("angular", "block-influence", "deepest-first", "random")
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
    """Blocks at the start and at the end that stay; auto is one each and those that build a sink."""
    scheme: Literal["one-shot", "greedy"]
    """Whether all blocks are scored at once, or anew after each one that goes."""
    parts: Parts
    """What of a block goes: all of it, its attention or its MLP."""
    heal: Heal
    """Whether a map takes the place of the blocks that go."""
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
        if self.part is not None and self.rule.name not in RULES_OF_PARTS:
            raise InputError(
                f"the rule {self.rule.name!r} has no values for the {self.part} of a block alone; with "
                f"--parts {self.part} choose {', '.join(RULES_OF_PARTS[:-1])} or {RULES_OF_PARTS[-1]}."
            )
        given = [name for name, value in (("heal on", self.heal), ("scheme greedy", self.scheme))
                 if name.endswith(f" {value}")]  # fmt: skip
        if self.part is not None and given:
            raise InputError(
                f"the {self.part} of a block is chosen in one pass and has no map in its place; with "
                f"--parts {self.part} leave --{given[0]} out."
            )
        return self

    @property
    def part(self) -> Part | None:
        """The part of a block that goes, None for all of it."""
        return None if self.parts == "blocks" else self.parts

    @property
    def ends(self) -> tuple[int, int]:
        """How many blocks stay at the start and at the end."""
        return ENDS if self.protect == "auto" else self.protect

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
            prompt=given.prompt,
            as_tokens=given.as_tokens,
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
    names: Iterable[str],
    task_data: str | Path | None,
    tables: Iterable[Any],
    *,
    images: bool = False,
) -> tuple[TaskPlan, ...]:
    """Return the tasks to try models on, which are of texts or, with `images`, of images.

    Raises:
        InputError: nobody knows a name, it is of the other kind, or mteb is not installed.
    """
    wanted = tuple(name.strip() for name in names if name.strip())
    given = listed_tables(tables)
    if not wanted and not given:
        return ()
    require_extra()
    folder = None if task_data is None else Path(task_data).expanduser()
    with quiet():
        if not images:
            return resolve(wanted, task_data=folder, tables=given)
        plans = resolve(wanted, task_data=folder) if wanted else ()
        for each in plans:
            if not each.sees:
                raise InputError(
                    f"{each.name} is a task of texts; name tasks of images, or give labelled images "
                    "as a table."
                )
        return (*plans, *map(plan_of_images, given))


def fitting(
    backbone: Backbone, asked: PruneRequest, *, saved: bool, images: bool
) -> tuple[tuple[int, ...], tuple[Budget, ...]]:
    """Return the blocks that may go and the budgets in blocks.

    Raises:
        InputError: the model cannot do without blocks, or without so many; or one model is to be saved
            and the budgets mean several.
    """
    blocks.refuse_surgery(backbone)
    if backbone.reads_images != images:
        raise InputError(
            f"{backbone.info.model_class} reads images; measure it on images (--images)."
            if backbone.reads_images
            else f"{backbone.info.model_class} reads texts, images came; leave --images out."
        )
    if saved:
        shorten.refuse_quantized(backbone)
    eligible = eligible_blocks(backbone.depth, asked.ends)
    share = 1.0
    if asked.part is not None:
        parts.refuse_parts(backbone, asked.part)
        share = parts.share_of_block(backbone, asked.part)
    numbers = budgets(asked.budgets, backbone.depth, share=share)
    for each in numbers:
        refuse_too_many(each, eligible)
    if asked.part is None:
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
    if asked.part is not None:
        notes.append(
            f"in stock transformers a block without its {asked.part} is no smaller and no faster: "
            "scores and perplexity are what it would cost."
        )
    if run is not None and asked.scheme == "greedy" and asked.rule.reads:
        notes.append("the first block was chosen by the run, the others by new scans of the texts.")
    return notes
