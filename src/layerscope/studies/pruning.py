"""Prunings as cells: a rule and its budgets beside random subsets of blocks, in the long table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from layerscope import api
from layerscope.api.plans import Plan
from layerscope.export.pruning import Pruning
from layerscope.results.folder import versions
from layerscope.results.runs import Made, Needs
from layerscope.results.table import BLOCK, COLUMNS, Run, conform, no_contributions


@dataclass(frozen=True)
class PruningCell:
    """A pruning that saves no model, turned into a run.

    Attributes:
        plan: of the command.
        data: what its blocks are chosen on.
    """

    plan: Plan[Any, Any]
    data: str

    def estimate(self) -> Needs:
        """Return what the scan that chooses the blocks takes, once for each model that is tried."""
        found = self.plan.estimate()
        scan = found.scan
        seconds = 0.0 if scan is None else scan.pass_seconds * (found.scans + found.tried)
        return Needs(seconds, 0 if scan is None else scan.memory_bytes, 0)

    def run(self) -> Made:
        """Choose blocks, try the smaller models and random ones."""
        return Made(as_run(self.plan.run(), self.data))


def plan_pruning(model: str, data: str, settings: Mapping[str, Any]) -> PruningCell:
    """Return the plan of a pruning from plain values.

    Raises:
        InputError: see `prune`.
    """
    given = dict(settings)
    table = given.pop("table", None)
    rule, budget = given.pop("rule", "angular"), given.pop("budget", ("10%",))
    found = api.prune.plan(
        model, rule, budget, data=data, tables=() if table is None else (table,),
        show_progress=False, **given,
    )  # fmt: skip
    return PruningCell(found, Path(data).name)


def as_run(found: Pruning, data: str) -> Run:
    """Return the changes of each test, in percent of the full model's value, by rule and at random.

    The perturbation is the rule with its share of the blocks; the value of random subsets is their
    median, with their 10 and 90 % quantiles.
    """
    rows = []
    blocks = len(found.kinds)
    site = {"model": str(found.model.get("name")), "data": data, "level": "prune", "stage": BLOCK}
    for each in found.outcomes:
        share = 100 * len(each.removed) / blocks
        place = site | {"layer": blocks, "depth": 1.0}
        for test in each.comparisons:
            metric = f"change of {test.name} (%)"
            named = place | {"metric": metric}
            label = f"{found.rule.name} {share:.3g} %"
            rows.append(named | {"perturbation": label, "value": test.change})
            if test.random is not None:
                beside = test.random
                rows.append(
                    named | {
                        "perturbation": f"random {share:.3g} %", "value": beside.median,
                        "low": beside.low, "high": beside.high, "n": beside.subsets,
                    }
                )  # fmt: skip
    table = conform(pd.DataFrame(rows, columns=list(COLUMNS)))
    record = {"model": found.model, "data": {"name": data}, "versions": versions()}
    return Run(table, no_contributions(), record | {"pruning": found.record})
