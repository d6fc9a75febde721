"""What shorter misspelled copies of fewer texts do to the measures of views.

`python -m benchmarks views` reads copies of the whole texts, as the paper does, and of their first 20, 40
and 64 words; each once, measured on all texts and on those that a smaller number would draw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from benchmarks.materials import READOUT_MODELS, banking77, wikitext
from benchmarks.tables import markdown
from layerscope.analysis.measure import Measurement, ViewSet, run_frames
from layerscope.analysis.plan import prepare
from layerscope.analysis.run import measure, measurement_of, run_pass
from layerscope.data.texts import as_texts
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.models import loading
from layerscope.results.table import BLOCK
from layerscope.settings import ScanConfig
from layerscope.states.store import StateStore

WORDS: Final = (None, 64, 40, 20)
TEXTS: Final = (None, 128, 64)
MEASURES: Final = ("infonce", "infonce_cross", "lidar", "dime", "dip_order2", "retrieval")
"""One of each family: ln LiDAR, the bound on information and so on have the same order of layers."""


@dataclass(frozen=True)
class Case:
    """One model on so many texts."""

    model: str
    data: str
    texts: int


CASES: Final = (
    Case("MiniLM", "WikiText", 300),
    Case("MiniLM", "Banking77", 1000),
    Case("stories260k", "WikiText", 300),
    Case("MPNet base", "WikiText", 200),
    Case("SmolLM2 135M", "WikiText", 200),
    Case("SmolLM2 135M", "Banking77", 500),
)
DATA: Final[dict[str, Callable[[], list[str]]]] = {"WikiText": wikitext, "Banking77": banking77}


def curves(case: Case) -> Iterator[tuple[int | None, int | None, int, pd.DataFrame]]:
    """Yield words, texts, tokens that were read, and value, low, high by (metric, convention, layer)."""
    backbone = loading.load(str(READOUT_MODELS[case.model]()))
    given = as_texts(DATA[case.data]()[: case.texts], limit=None)
    for words in WORDS:
        settings = ScanConfig(
            metrics=MEASURES, augmentation=("default",), view_words=words, view_texts=None
        )
        prepared = prepare(backbone, given, settings)
        store = StateStore()
        run_pass(backbone, prepared, store)
        measurement = measurement_of(prepared, store)
        lengths = np.array([len(text.ids) for text in prepared.texts])
        for texts in TEXTS:
            [views] = measurement.views
            kept = only(measurement, views, texts)
            cells = measure(prepared, kept, store)
            table, _, _ = run_frames(
                cells,
                depth=backbone.depth,
                texts=list(range(prepared.plain)),
                labels={"model": case.model, "revision": "", "data": case.data, "seed": 0},
                resamples=1000,
            )
            keys = ["metric", "convention", "layer"]
            blocks = table[table["stage"] == BLOCK]
            columns = blocks.set_index(keys)[["value", "low", "high"]].astype(float)
            yield words, texts, int(lengths[kept.views[0].items].sum()), columns
        store.close()


def only(measurement: Measurement, views: ViewSet, texts: int | None) -> Measurement:
    """Return the measurement on the texts that a scan of so many would draw."""
    if texts is None:
        return measurement
    drawn = np.random.default_rng(0).permutation(measurement.width)[:texts]
    return replace(measurement, views=[views.only(np.isin(views.texts, drawn))])


def compare(case: Case) -> list[dict[str, Any]]:
    """Return a row for each number of words and texts: its layers and curves beside the paper's."""
    found = list(curves(case))
    _, _, tokens, whole = found[0]
    return [
        {"model": case.model, "data": case.data, "words": words or "all", "texts": texts or "all"}
        | {"tokens": f"{read / tokens:.2f}"}
        | beside(table, whole)
        for words, texts, read, table in found
    ]


def beside(table: pd.DataFrame, whole: pd.DataFrame) -> dict[str, Any]:
    """Return how a cheaper protocol's curves agree with those of the whole one."""
    signs = {"least": -1, "most": 1}
    directions = {each.name: signs.get(each.direction, 0) for each in CATALOGUE}
    rows = []
    for (metric, convention), theirs in whole.groupby(level=["metric", "convention"]):
        sign = directions[metric]
        if not sign or (metric, convention) not in table.index.droplevel("layer"):
            continue
        ours = table.loc[(metric, convention)]
        full = theirs.droplevel(["metric", "convention"])
        best, wanted = ((sign * each["value"]).idxmax() for each in (ours, full))
        # the whole protocol's own limits decide whether another layer is another answer
        half = (full["high"] - full["low"]) / 2
        gap = sign * (full["value"][wanted] - full["value"][best])
        rows.append(
            {
                "metric": f"{metric} {convention}".strip(),
                "same": best == wanted,
                "near": gap <= np.nanmax([half[best], half[wanted], 0]),
                "rank": ours["value"].corr(full["value"], method="spearman"),
                "width": float(
                    ((ours["high"] - ours["low"]) / (full["high"] - full["low"])).median()
                ),
            }
        )
    frame = pd.DataFrame(rows)
    other = frame[~frame["near"]]["metric"].tolist()
    return {
        "same layer": f"{frame['same'].sum()} of {len(frame)}",
        "within limits": f"{frame['near'].sum()}",
        "Spearman": f"{frame['rank'].mean():.2f} ({frame['rank'].min():.2f})",
        "limits": f"{frame['width'].median():.1f} x",
        "others": ", ".join(other),
    }


def main(model: str | None = None) -> str:
    """Return the table for every model that can be had."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if model in (None, case.model) and READOUT_MODELS[case.model]() and DATA[case.data]():
            rows += compare(case)
            print(markdown(rows[-len(WORDS) * len(TEXTS) :]), flush=True)
    return markdown(rows)


if __name__ == "__main__":
    print(main(*sys.argv[1:2]))
