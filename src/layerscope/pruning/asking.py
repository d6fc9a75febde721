"""What is asked of a pruning, checked: before a model is loaded, and then against the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from layerscope import surgery
from layerscope.errors import InputError, unknown_name
from layerscope.evaluation import EvaluationSettings, quiet, require_extra, resolve
from layerscope.evaluation.tasks import TaskPlan
from layerscope.metrics import catalogue
from layerscope.models import Backbone
from layerscope.pruning.orders import (
    Budget,
    Rule,
    budgets,
    eligible_blocks,
    parsed_budget,
    refuse_too_many,
)
from layerscope.pruning.orders import rule as rule_of
from layerscope.settings import ScanSettings

SCHEMES: Final = ("one-shot", "greedy")


@dataclass(frozen=True)
class Asked:
    """What was asked for, checked before a model is loaded.

    Attributes:
        rule: which blocks go.
        budgets: how many, as they were asked for.
        protect: blocks at the start and at the end that stay.
        scheme: one of `SCHEMES`.
        draws: random subsets to try.
        plans: tasks to try them on.
        held_out: texts of the perplexity; None leaves them to the model.
        settings: how texts become vectors, in the scan and in the tasks.
        seed: of all that is drawn.

    Raises:
        InputError: no such scheme, or one that the rule cannot follow; no budget; no draw.
    """

    rule: Rule
    budgets: tuple[str, ...]
    protect: tuple[int, int]
    scheme: str
    draws: int
    plans: tuple[TaskPlan, ...]
    held_out: tuple[str, ...] | None
    settings: EvaluationSettings
    seed: int

    def __post_init__(self) -> None:
        if not self.budgets:
            raise InputError("expected at least one budget, got none.")
        for each in self.budgets:
            parsed_budget(each)
        if min(self.protect) < 0:
            raise InputError(
                f"expected protected blocks of at least 0, got {','.join(map(str, self.protect))}."
            )
        if self.scheme not in SCHEMES:
            raise unknown_name("scheme", self.scheme, SCHEMES)
        if self.scheme == "greedy" and self.rule.at_once:
            raise InputError(
                f"the rule {self.rule.name!r} chooses all blocks at once; leave --scheme greedy out."
            )
        if self.draws < 1:
            raise InputError(f"expected at least 1 random subset to draw, got {self.draws}.")

    @property
    def scan(self) -> ScanSettings:
        """What measures just what the rule reads."""
        given = self.settings
        asked: dict[str, Any] = {"metrics": self.rule.reads} if self.rule.reads else {}
        if self.rule.convention:
            asked["conventions"] = (self.rule.convention,)
        views = any(measure.level == "view" for measure in catalogue.select(self.rule.reads))
        return ScanSettings(
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
    several = (given,) if isinstance(given, str | int | float) else tuple(given)
    return tuple(part.strip() for each in several for part in str(each).split(","))


def tasks_of(
    names: str | Iterable[str], task_data: str | Path | None, tables: Iterable[Any]
) -> tuple[TaskPlan, ...]:
    """Return the tasks to try models on; none where none are named.

    Raises:
        InputError: nobody knows a name, or mteb is not installed.
    """
    several = names.split(",") if isinstance(names, str) else names
    wanted = tuple(name.strip() for name in several if name.strip())
    given = tuple(tables)
    if not wanted and not given:
        return ()
    require_extra()
    folder = None if task_data is None else Path(task_data).expanduser()
    with quiet():
        return resolve(wanted, task_data=folder, tables=given)


def fitting(
    backbone: Backbone, asked: Asked, *, saved: bool
) -> tuple[tuple[int, ...], tuple[Budget, ...]]:
    """Return the blocks that may go and the budgets in blocks.

    Raises:
        InputError: the model cannot do without blocks, or without so many; or one model is to be saved
            and the budgets mean several.
    """
    surgery.refuse_surgery(backbone)
    if backbone.tokenizer is None:
        raise InputError(f"{backbone.info.model_class} reads images; prune measures texts only.")
    if saved:
        surgery.refuse_quantized(backbone)
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
        kept = surgery.kept_blocks(backbone, [block])
        surgery.refuse_surgery(backbone, kept)
        surgery.refuse_skipping(backbone, kept)
