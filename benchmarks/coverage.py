"""How often the 95 % limits that a scan prints hold the value that they are limits of.

Most measures depend on the number of texts, so the value is the mean over many samples of N texts, and
the coverage is the share of samples whose limits hold it. Samples are parts of the texts of Banking77
(train, 10,003), with two misspelled copies each. Layers 0, 3 and 6 of MiniLM stand for a model:
measures between layers compare 0 with 3, 3 with 6, and both with 6. The limits are those of the package
itself, from the same functions as in a scan. Left out: GFMI by components, which has no limits, DiME's
Monte-Carlo error, the measures of readouts, and crops, whose measures are the same functions.

The samples of one partition are disjoint. Where these are few, the same texts are divided again at
random: two samples of different partitions share N / 10,003 of their texts, as independent draws from
these texts do, and say no more of other texts. Parts of finitely many texts differ less, by
sqrt(1 - N / 10,003), than sets of fresh texts, which limits are meant for; so the distance between a
value and the mean is taken that much larger.

`python -m benchmarks coverage` prints the table, in 27 minutes of one core. The vectors, which take
three of them, are kept in `materials.CACHE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from benchmarks import materials
from benchmarks.tables import markdown
from layerscope.analysis.measure import (
    Cell,
    Measurement,
    ViewSet,
    measure_dynamics,
    measure_site,
    run_frames,
)
from layerscope.analysis.plan import conventions_of, prepare
from layerscope.analysis.reduce import CROSSED, POOLED, PROMPT, REFERENCE, key
from layerscope.analysis.run import run_pass
from layerscope.data.texts import read_texts
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.models.loading import load
from layerscope.settings import Convention, ScanConfig
from layerscope.states.extract import Site
from layerscope.states.store import Array, StateStore

LAYERS = (0, 3, 6)
SETTINGS = ScanConfig(
    conventions=tuple(Convention), layers=LAYERS, augmentation=("default",), view_texts=None,
    view_words=None,
)  # fmt: skip
PARTITIONS = {200: 2, 500: 3, 1000: 4}  # number of texts of a sample -> partitions of all texts
DEAREST = ("dime",)  # half of the time at N = 1,000: on the first partition alone
PERTURBATION = "characters p=0.3"
LEFT_OUT = ("gfmi_component", "dime_standard_error")


@dataclass(frozen=True, eq=False)
class Vectors:
    """What a pass leaves of many texts, in memory: a store for the measures.

    Attributes:
        arrays: key of the store -> rows, of texts and then, two a text, of views; the layers are
            called 0, 1 and 2.
    """

    arrays: dict[str, Array]

    @property
    def count(self) -> int:
        """Number of texts."""
        return int(self.arrays["count"][0])

    def rows(self, name: str, items: Array) -> Array:
        """Return the rows of `items` under a key."""
        return self.arrays[name][items]


def encode() -> Vectors:
    """Return the rows of all texts, then of their views, as a scan makes them; cached."""
    path = materials.CACHE / "coverage-banking77.safetensors"
    if not path.is_file():
        data = materials.SHARED / "data" / "Banking77Classification" / "train.parquet"
        texts = read_texts(data, column="text", limit=None)
        backbone = load(Path(str(materials.minilm())))
        prepared = replace(prepare(backbone, texts, SETTINGS), measures=CATALOGUE)
        store = StateStore()
        run_pass(backbone, prepared, store)
        [views] = prepared.views
        plain = np.arange(prepared.plain)[views.texts]
        found = {"count": np.array([len(plain)])}
        for place, layer in enumerate(LAYERS):
            for kind in (POOLED, REFERENCE):
                items = np.concatenate([plain, views.items.reshape(-1)])
                found[key(Site(place), kind)] = store.rows(key(Site(layer), kind), items)
            for kind in (PROMPT, CROSSED) if layer else (PROMPT,):
                found[key(Site(place), kind)] = store.rows(key(Site(layer), kind), plain)
        store.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(found, path)
    return Vectors(load_file(path))


@dataclass(frozen=True, eq=False)
class Sample:
    """The store of some of the texts: items are these texts, then their views, two a text.

    Attributes:
        vectors: of all texts.
        texts: (text,) which ones.
    """

    vectors: Vectors
    texts: Array

    def rows(self, name: str, items: Array) -> Array:
        """Return the rows of `items` under a key."""
        pairs = self.vectors.count + 2 * self.texts[:, None] + np.arange(2)
        return self.vectors.rows(name, np.concatenate([self.texts, pairs.reshape(-1)])[items])

    def table(self, measures: tuple[Measure, ...]) -> pd.DataFrame:
        """Return the table that a scan of these texts gives."""
        n = len(self.texts)
        views = ViewSet(PERTURBATION, n + np.arange(2 * n).reshape(n, 2), np.arange(n), n)
        columns = [(m, c) for m in CATALOGUE if m.level == "prompt" for c in m.conventions]
        measurement = Measurement(
            measures=measures,
            columns=tuple(columns),
            conventions=lambda record: conventions_of(record, SETTINGS),
            texts=np.arange(n),
            width=n,
            views=[views],
            reference=True,
            alpha=1.0,
            seed=0,
        )
        store = cast("StateStore", self)
        cells: list[Cell] = []
        for place in range(len(LAYERS)):
            cells += measure_site(measurement, Site(place), store)
        cells += measure_dynamics(measurement, len(LAYERS), store)
        labels = {"model": "", "revision": "", "data": "", "seed": 0}
        table, _, _ = run_frames(
            cells, depth=len(LAYERS) - 1, texts=range(n), labels=labels, resamples=1000
        )
        return table


KEY = ["metric", "convention", "perturbation", "layer", "other_layer"]


def samples(vectors: Vectors, n: int, seed: int = 0) -> Iterator[Sample]:
    """Yield disjoint samples of n texts, as many as there are."""
    order = np.random.default_rng(seed).permutation(vectors.count)
    for start in range(0, vectors.count - n + 1, n):
        yield Sample(vectors, np.sort(order[start : start + n]))


def tables_of(vectors: Vectors, n: int) -> list[pd.DataFrame]:
    """Return the table of every sample of n texts."""
    measures = tuple(measure for measure in CATALOGUE if measure.name not in LEFT_OUT)
    others = tuple(measure for measure in measures if measure.name not in DEAREST)
    return [
        sample.table(others if seed else measures)
        for seed in range(PARTITIONS[n])
        for sample in samples(vectors, n, seed)
    ]


def covered(tables: Sequence[pd.DataFrame], share: float) -> pd.DataFrame:
    """Return the coverage of each measure at each place from its tables of all samples.

    Args:
        tables: of the samples.
        share: of all texts that are in one sample.
    """
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.assign(
        other_layer=rows["other_layer"].fillna(-1), convention=rows["convention"].fillna("")
    )
    rows = rows[rows["low"].notna()].reset_index(drop=True)
    mean = rows.groupby(KEY, observed=True)["value"].transform("mean")
    target = rows["value"] + (mean - rows["value"]) / np.sqrt(1 - share)
    rows["inside"] = (rows["low"] <= target) & (target <= rows["high"])
    return rows.groupby(KEY, observed=True).agg(coverage=("inside", "mean")).reset_index()


def cells(found: Mapping[int, pd.DataFrame]) -> list[dict[str, str]]:
    """Return a row a measure: at each N the coverage, over places, and the least and the most."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    bare = {_heading(n): "no limits" for n in found}
    for n, table in found.items():
        for (metric, convention), places in table.groupby(["metric", "convention"]):
            shares = 100 * places["coverage"]
            least, most = f"{shares.min():.0f}", f"{shares.max():.0f}"
            ends = "" if least == most else f" ({least}-{most})"
            row = rows.setdefault(
                (str(metric), str(convention)), {"measure": metric, "convention": convention} | bare
            )
            row[_heading(n)] = f"{shares.mean():.0f}{ends}"
    return [rows[name] for name in sorted(rows)]


def _heading(n: int) -> str:
    return f"N = {n:,}"


def main() -> str:
    """Return the table; without the model or the texts, what is missing."""
    if materials.minilm() is None or not (materials.SHARED / "data").is_dir():
        return "needs MiniLM and Banking77: run `make benchmark-models`"
    vectors = encode()
    found = {n: covered(tables_of(vectors, n), n / vectors.count) for n in PARTITIONS}
    return markdown(cells(found))


if __name__ == "__main__":
    print(main())
