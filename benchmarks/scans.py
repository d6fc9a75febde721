"""How three models move on two kinds of text, and what measuring that costs beside the pass.

`python -m benchmarks scans` takes about two hours of two slow cores, most of it in the models;
`python -m benchmarks.scans MiniLM Banking77` makes one row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import layerscope
from benchmarks.materials import MODELS, banking77, wikitext
from benchmarks.tables import markdown
from layerscope.metrics.catalogue import CATALOGUE

TEXTS = 800
LONGEST = 64
"""Tokens of a WikiText paragraph that are read: enough for the measures, and a pass in minutes."""

FAMILY = tuple(measure.name for measure in CATALOGUE if measure.level == "pair")


DATA: dict[str, Callable[[], list[str]]] = {"Banking77": banking77, "WikiText": wikitext}


def row(model: str, data: str, texts: int = TEXTS) -> dict[str, Any]:
    """Scan one model on one kind of text for the dynamics family alone."""
    path = MODELS[model]()
    scan = layerscope.scan(
        str(path),
        DATA[data](),
        limit=texts,
        max_length=LONGEST,
        metrics=FAMILY,
        views=0,
    )
    table = scan.table().set_index("metric")["value"]
    times = scan.record["times"]

    def beside(metric: str, digits: int) -> str:
        level = table[f"{metric}_null"]
        return f"{table[metric]:.{digits}f} ({level:.{digits}f})"

    return {
        "model": model,
        "texts": f"{scan.record['data']['texts']:,} {data}",
        "d_0,L k = 32 (null)": beside("frenet_displacement_k32", 3),
        "over null": f"{table['frenet_displacement_k32'] / table['frenet_displacement_k32_null']:.2f}",
        "over samples (null)": beside("frenet_displacement_sample_k32", 3),
        "mean turning": f"{table['frenet_mean_turning_k32']:.2f}",
        "mean NRS k = 10 (null)": beside("mean_nrs_k10", 3),
        "mean GFMI edge (null)": beside("mean_gfmi_edge", 4),
        "pass s": f"{times['pass']:.0f}",
        "family s": f"{times['compare']:.0f}",
        "share": f"{times['compare'] / times['pass']:.2f}",
    }


def main(model: str | None = None, data: str | None = None, texts: int = TEXTS) -> str:
    """Return a row for every model and kind of text that can be had."""
    models = [name for name, path in MODELS.items() if model in (None, name) and path()]
    kinds = [name for name in DATA if data in (None, name)]
    return markdown([row(name, kind, texts) for name in models for kind in kinds])


if __name__ == "__main__":
    arguments: list[Any] = [*sys.argv[1:3], *map(int, sys.argv[3:4])]
    print(main(*arguments))
