"""Models ranked without labels on WikiText paragraphs, held against their scores on mteb's tasks.

Scans lie in `RUNS` and are not made again; scores are those of `benchmarks.readouts`, of the last layer.
"""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pandas as pd
from scipy.stats import kendalltau

import layerscope
from benchmarks import materials
from benchmarks.tables import markdown
from layerscope.decisions.agreement import Agreement, Correlation
from layerscope.decisions.orders import Place
from layerscope.decisions.predictors import PREDICTORS, TRIVIAL
from layerscope.decisions.rank import Ranking
from layerscope.models.loading import label_of
from layerscope.results.table import load_run

SCORES = Path(__file__).parent / "results" / "readouts-layers.json"
RUNS = Path(os.environ.get("LAYERSCOPE_RANKED", "runs/rank"))
DATA = materials.SHARED / "data" / "WikiText-2" / "test.parquet"
OTHER = materials.SHARED / "data" / "Banking77Classification" / "test.parquet"
TEXTS = 150


def models() -> dict[str, Path]:
    """Return the models that are here, by the names that the scores have for them."""
    found = {name: find() for name, find in materials.READOUT_MODELS.items()}
    return {name: path for name, path in found.items() if path is not None}


def known_scores() -> pd.DataFrame:
    """Return each model's own scores on tasks (last layer, own pooling): of the readouts' tables."""
    kept = json.loads(SCORES.read_text())["models"]
    here = models()
    return pd.DataFrame(
        {
            "model": label_of(here[name]),
            "task": task,
            "score": scores[own["sites"].index(own["last"])],
        }
        for name, own in kept.items()
        if name in here
        for task, scores in own["raw"].items()
    )


def ranked(data: Path = DATA, runs: Path = RUNS) -> Ranking:
    """Return the ranking on some texts with every predictor; scans that are missing are made now."""
    return layerscope.rank(
        list(models().values()), data, column="text", limit=TEXTS, out=runs, overwrite=True,
        scores=known_scores(), also="all",
    )  # fmt: skip


def order_table(found: Ranking) -> str:
    """Return a row a model, in order: sizes, mean score, every predictor with its limits."""
    scores = found.scores
    means = {} if scores is None else dict(zip(scores.models, scores.means, strict=True))
    rows = []
    for model in found.models:
        sizes = {each.name: f"{model.values[each.name].raw:,.0f}" for each in TRIVIAL}
        score = {"score": f"{100 * means[model.name]:.2f}"} if model.name in means else {}
        values = {
            f"{each.title} ({each.direction})": number(found.place(model.name, each.name))
            for each in PREDICTORS
        }
        rows.append({"model": model.name} | sizes | score | values)
    return markdown(rows)


def number(place: Place) -> str:
    """Return a value with its limits."""
    if place.value is None:
        return place.reason
    text = f"{place.value:.3f}"
    return text if place.low is None else f"{text} ({place.low:.3f} to {place.high:.3f})"


def noise_table(found: Ranking) -> str:
    """Return each predictor's order, with = between neighbors that the texts cannot tell apart."""
    rows = [{"predictor": e.name, "order": order_words(found, e.name)} for e in PREDICTORS]
    return markdown(rows)


def order_words(found: Ranking, by: str) -> str:
    """Return the models in order, with = between neighbors that the texts cannot tell apart."""
    places = [place for place in found.orders[by] if place.rank is not None]
    words = [places[0].model]
    for before, place in pairwise(places):
        words += ["=" if before.model in place.tied else ">", place.model]
    return " ".join(words)


def agreement_table(found: Ranking) -> str:
    """Return a row a predictor: how its order goes with the scores."""
    return markdown([agreement_row(each) for each in found.agreements])


def agreement_row(each: Agreement) -> dict[str, str]:
    """Return one predictor's row."""

    def plain(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    given = {f"given {size.name}": plain(each.partial.get(size.name)) for size in TRIVIAL}
    return {
        "predictor": each.predictor,
        "Spearman (95 %)": correlation(each.spearman),
        "p": "" if each.p is None else f"{each.p:.3f}",
        "Kendall (95 %)": correlation(each.kendall),
        "Spearman by task": plain(each.spearman_by_task),
        **given,
        "given all": plain(each.partial.get("all")),
        "regret": f"{100 * each.regret:.1f}",
        "regret by task": f"{100 * each.regret_by_task:.1f}",
        "top-3 recall": plain(each.recall),
    }


def correlation(found: Correlation | None) -> str:
    """Return a coefficient with its limits, where it has any."""
    if found is None:
        return ""
    return (
        f"{found.value:.2f}"
        if found.low is None
        else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
    )


def texts_table(found: Ranking, other: Ranking) -> str:
    """Return a row a predictor: its order on other texts, and Kendall's tau of the two orders."""
    rows = []
    for each in PREDICTORS:
        values = {
            place.model: place.value for place in other.orders[each.name] if place.value is not None
        }
        both = [
            (place.value, values[place.model])
            for place in found.orders[each.name]
            if place.model in values and place.value is not None
        ]
        agreement = other.agreement(each.name)
        rows.append(
            {
                "predictor": each.name,
                "order": order_words(other, each.name),
                "tau": f"{kendalltau(*zip(*both, strict=True))[0]:.2f}",
                "Spearman with scores": correlation(agreement.spearman if agreement else None),
                "p": f"{agreement.p:.3f}" if agreement and agreement.p is not None else "",
            }
        )
    return markdown(rows)


def dimension_table(found: Ranking) -> str:
    """Return d_0,L at other dimensions of the subspaces, and RankMe as it is."""
    rows = []
    for model in found.models:
        folder = next(place for place in RUNS.glob("*/run.json") if _is_of(place, model.called))
        values = load_run(folder.parent).table.set_index("metric")["value"]
        row = {"model": model.name}
        for k in (16, 32, 64):
            name = f"frenet_displacement_sample_k{k}"
            row[f"d_0,L, k = {k}"] = f"{values[name]:.3f}" if name in values else "undefined"
        raw = model.values["rankme"].raw
        row["RankMe"] = "" if raw is None else f"{raw:.1f}"
        rows.append(row)
    return markdown(rows)


def _is_of(record: Path, model: str) -> bool:
    return str(load_run(record.parent).record["model"]["name"]) == model


def seconds_table(found: Ranking) -> str:
    """Return what each scan took."""
    rows = []
    for record in sorted(RUNS.glob("*/run.json")):
        run = load_run(record.parent)
        times = run.record["times"]
        if run.record["model"]["name"] in {model.called for model in found.models}:
            rows.append(
                {
                    "model": run.record["model"]["name"],
                    "tokens": f"{run.record['data']['tokens']:,}",
                    "load, s": f"{times['load']:.0f}",
                    "pass, s": f"{times['pass']:.0f}",
                    "all measures, s": f"{times['measure'] + times['compare']:.1f}",
                }
            )
    return markdown(rows)


def main() -> str:
    """Return the tables: the order, what is within noise, and what the orders are worth."""
    found = ranked()
    parts = ["### In order of RankMe", order_table(found), "### Orders (= within noise)"]
    parts.append(noise_table(found))
    if found.agreements:
        tasks = ", ".join(found.scores.tasks) if found.scores else ""
        parts += [
            f"### Against scores ({len(found.scores.models) if found.scores else 0} models; {tasks})",
            agreement_table(found),
        ]
    if OTHER.exists():
        other = ranked(OTHER, RUNS.with_name(f"{RUNS.name}-banking77"))
        parts += [
            f"### The same on {TEXTS} questions of Banking77 (tau: of its order with that above)",
            texts_table(found, other),
        ]
    parts += ["### Other dimensions, and RankMe itself", dimension_table(found)]
    parts += ["### What it took, one thread", seconds_table(found)]
    return "\n\n".join(parts)
