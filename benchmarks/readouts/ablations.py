"""The chosen readouts fitted on other texts, ranked by published measures, and saved by one command."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from benchmarks import corpora, materials
from benchmarks.readouts.choice import READOUTS
from benchmarks.readouts.scores import SETS, score_tasks, scored
from benchmarks.readouts.vectors import Vectors
from benchmarks.tables import markdown
from layerscope import scan_states
from layerscope.evaluation.run import unit
from layerscope.metrics.readouts import Readout, fit
from layerscope.states.store import Array


def ablation(model: str) -> str:
    """Return the scores of the chosen readout fitted on fewer crops, own texts, or not linear."""
    vectors = Vectors(model)
    name = json.loads(READOUTS.read_text())[model]["rows"]["chosen, quality"]["readout"]
    readout = Readout.parse(name)
    first, second = vectors.crops()
    order = np.random.default_rng(0).permutation(first.shape[1])

    def on(texts: Sequence[str]) -> dict[int, Array]:
        return {
            layer: vectors.at(vectors.positions[layer], texts).astype(np.float64)
            for layer in readout.layers
        }

    def crops(count: int) -> dict[int, Array]:
        kept = order[: count // 2]
        return {
            layer: np.concatenate([first[layer][kept], second[layer][kept]]).astype(np.float64)
            for layer in readout.layers
        }

    def unit_rows(rows: Mapping[int, Array], means: Mapping[int, Array]) -> dict[int, Array]:
        return {layer: unit(each - means[layer]) for layer, each in rows.items()}

    made: dict[str, dict[str, float]] = {}
    for count in (100, 250, 500, 1000, 2000):
        fitted = fit(readout, crops(count))
        made[f"{count} WikiText crops"] = scored(
            model, f"{name} on {count} crops", lambda texts, fitted=fitted: fitted.apply(on(texts))
        )
    means = {layer: rows.mean(0) for layer, rows in crops(2000).items()}
    bent = fit(Readout(readout.layers, readout.map), unit_rows(crops(2000), means))
    made["2000 crops, each layer at unit length text by text (not linear)"] = scored(
        model, f"{name} on 2000 crops, text by text",
        lambda texts: bent.apply(unit_rows(on(texts), means)),
    )  # fmt: skip
    own: dict[str, float] = {}
    for task in corpora.TASKS:
        fitted = fit(readout, on(corpora.own_texts(task)))
        own |= scored(
            model, f"{name} on own texts of {task}",
            lambda texts, fitted=fitted: fitted.apply(on(texts)), (task,),
        )  # fmt: skip
    made["the task's own unlabelled texts"] = own
    rows = [
        {"fitted on": what}
        | {
            set_name: f"{100 * np.mean([scores[task] for task in tasks]):.2f}"
            for set_name, tasks in SETS.items()
        }
        for what, scores in made.items()
    ]
    return f"### {model}: {name}\n\n{markdown(rows)}"


def measured(model: str) -> list[dict[str, Any]]:
    """Return how measures of the literature rank the scored readouts of a model, each as a layer.

    Spearman of a measure on WikiText crops with the mean score; prompt measures and those between
    layers do not exist for a readout.
    """
    vectors = Vectors(model)
    first, second = vectors.crops()
    pairs = {place: np.stack(both) for place, both in enumerate(zip(first, second, strict=True))}
    crops = {place: both.reshape(-1, both.shape[-1]) for place, both in pairs.items()}
    rows: dict[str, Any] = {}  # one a readout, whatever it was scored for
    for row in json.loads(READOUTS.read_text())[model]["rows"].values():
        if not row["readout"].startswith(("LOES", "EmbedFilter")):
            rows[row["readout"]] = row
    made = []
    for name in rows:
        fitted = fit(Readout.parse(name), crops)
        made.append([fitted.apply({p: pairs[p][half] for p in pairs}) for half in (0, 1)])
    views = np.array(made).transpose(0, 2, 1, 3)  # readout, text, view, dim
    table = pd.concat(
        [
            scan_states(views, metrics=("infonce", "dime", "lidar", "retrieval")).table(),
            scan_states(
                views[:, :, 0], metrics=("dataset_entropy", "effective_rank", "rankme")
            ).table(),
        ]
    )
    found = []
    for (metric, convention), part in table.groupby(["metric", "convention"], observed=True):
        values = part.sort_values("layer")["value"].to_numpy()
        if len(values) == len(rows):
            scores = {
                name: np.array(
                    [np.mean([row["scores"][t] for t in tasks]) for row in rows.values()]
                )
                for name, tasks in SETS.items()
            }
            found.append(
                {"model": model, "measure": metric, "convention": convention, "readouts": len(rows)}
                | {name: spearmanr(values, mean).statistic for name, mean in scores.items()}
            )
    retrieval = [row["crop retrieval"] for row in rows.values()]
    found.append(
        {"model": model, "measure": "crop retrieval in two folds", "convention": "",
         "readouts": len(rows)}
        | {name: spearmanr(retrieval, mean).statistic for name, mean in scores.items()}
    )  # fmt: skip
    return found


def measure_table(models: Sequence[str]) -> str:
    """Return the rank correlations by measure, a column a model and set of tasks."""
    frame = pd.DataFrame([row for model in models for row in measured(model)])
    rows = []
    for (metric, convention), part in frame.groupby(["measure", "convention"], sort=False):
        row: dict[str, Any] = {"measure": f"{metric} {convention}".strip()}
        for _, each in part.iterrows():
            row[each["model"]] = " / ".join(f"{each[name]:+.2f}" for name in SETS)
        rows.append(row)
    return markdown(rows)


def shipped(model: str) -> str:
    """Cut a model by one command on WikiText, and score the folder by stock libraries alone."""
    from sentence_transformers import SentenceTransformer

    path = materials.READOUT_MODELS[model]()
    rows = []
    with tempfile.TemporaryDirectory() as room:
        texts = Path(room, "wikitext.txt")
        texts.write_text("\n".join(" ".join(t.split()) for t in materials.wikitext()[:1000]))
        last = str(Vectors(model).blocks)
        for name, options in (("full model", ["--readout", last]), ("chosen", [])):
            out, command = Path(room, name), [sys.executable, "-m", "layerscope", "cut", str(path)]
            asked = [*command, "--data", str(texts), "--out", str(out), "--dtype", "float32"]
            subprocess.run([*asked, "--threads", "1", "--quiet", *options], check=True)
            record = json.loads((out / "layerscope.json").read_text())
            served = SentenceTransformer(str(out), device="cpu")
            some, started = corpora.every_text()[:500], time.process_time()
            served.encode(some, show_progress_bar=False)
            speed = len(some) / (time.process_time() - started)
            scores = score_tasks(
                lambda texts, served=served: served.encode(list(texts), show_progress_bar=False),
                ("STS17", "Banking77Classification"),
            )
            size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
            rows.append(
                {"model": f"{model}, {name}", "readout": record["readout"] or record["layer"],
                 "blocks": record["blocks"], "MB": f"{size / 1e6:.0f}",
                 "texts a CPU second": f"{speed:.1f}"}
                | {task: f"{100 * score:.2f}" for task, score in scores.items()}
            )  # fmt: skip
    return markdown(rows)
