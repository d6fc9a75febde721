"""Readouts of real models on labelled tasks: vectors of every layer once, then scores without a model.

`python -m benchmarks.readouts encode` fills a bank a model (about an hour on one core; a run that was
killed goes on), `score` scores every single layer; `python -m benchmarks readouts` does both and prints
the tables. `LAYERSCOPE_READOUTS` is the folder, runs/readouts in the repository by default.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from scipy.stats import spearmanr

from benchmarks import corpora, materials
from benchmarks.tables import markdown
from layerscope import scan_states
from layerscope.analysis.readouts import compare_readouts
from layerscope.config import Pooling
from layerscope.data.files import write_atomically, write_json
from layerscope.decisions.readouts import choose_readout
from layerscope.decisions.rules import middle_layer, two_thirds_layer
from layerscope.evaluation import run as evaluation
from layerscope.evaluation.run import unit
from layerscope.evaluation.tasks import TaskPlan
from layerscope.metrics.readouts import Readout, embedding_filter, fit, loes_layers
from layerscope.models import loading
from layerscope.results.readouts import Candidate
from layerscope.settings import EvaluateConfig
from layerscope.states.bank import VectorBank, description, hash_of
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.states.extract import Site
from layerscope.states.store import Array

_ROOT = Path(__file__).resolve().parents[1]
RUNS = Path(os.environ.get("LAYERSCOPE_READOUTS", _ROOT / "runs" / "readouts"))
READOUTS = _ROOT / "benchmarks" / "results" / "readouts.json"
LAYERS = _ROOT / "benchmarks" / "results" / "readouts-layers.json"
SETS = {"development": corpora.DEVELOPMENT, "untouched": corpora.UNTOUCHED}
FORMS = {"raw": "as they are", "unit": "at unit length"}
_LENGTH_MATTERS = ("Classification", "Clustering")
VectorsOf = Callable[[Sequence[str]], Array]


def folder_of(model: str) -> Path:
    """Return where a model's bank and scores lie."""
    return RUNS / model.replace(" ", "-")


# --- encode ------------------------------------------------------------------------------------


def encode(model: str, texts: Sequence[str]) -> None:
    """Run a model over the texts that its bank lacks.

    Args:
        model: one of `materials.READOUT_MODELS`.
        texts: distinct texts.
    """
    path = materials.READOUT_MODELS[model]()
    if path is None:
        _say(f"{model} is missing: make benchmark-models")
        return
    backbone = loading.load(path)
    opened = open_bank(folder_of(model) / "bank", backbone, TokenPolicy())
    source = BankEncoder(
        backbone, opened, Pooling.MEAN, poolings=(Pooling.MEAN,), progress=_progress(model)
    )
    started = time.process_time()
    source.fill(texts, [hash_of(text) for text in texts])
    _say(
        f"{model}: {len(opened.bank)} texts, {len(source.sites)} sites, {opened.bank.size / 1e6:.0f} MB; "
        f"first token: {opened.policy.first_token.value} ({opened.first_token_ratio}); now "
        f"{source.encoded.tokens} tokens, {time.process_time() - started:.0f} s of the CPU"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _progress(model: str) -> Callable[[str, int, int], None]:
    told = [time.monotonic()]

    def show(_stage: str, done: int, total: int) -> None:
        if time.monotonic() - told[0] > 60:
            told[0] = time.monotonic()
            _say(f"{model}: {done} of {total} tokens")

    return show


# --- vectors without a model -------------------------------------------------------------------


class Vectors:
    """The pooled vectors of every site of a model, read from its bank; no model is loaded.

    Args:
        model: one of `materials.READOUT_MODELS`, encoded before.

    Attributes:
        sites: the output of every block and, where the model has one, of the final norm.
        blocks: number of blocks.
        positions: the sites as `hidden_states` counts them: blocks 0 to L - 1, then what the model
            gives, after its final norm.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        folder = folder_of(model) / "bank"
        self._bank = VectorBank(folder, (description(folder) or {})["identity"])
        self.sites = _sites_in(folder)
        self.blocks = max(site.layer for site in self.sites)
        own = next((s for s in self.sites if s.stage == "final_norm"), Site(self.blocks))
        self.positions = (*(Site(layer) for layer in range(self.blocks)), own)
        self._matrices: dict[Site, Array] = {}
        self._texts = corpora.every_text()
        self._rows = {text: row for row, text in enumerate(self._texts)}

    def at(self, site: Site, texts: Sequence[str]) -> Array:
        """Return a site's vectors (text, dim) of some texts."""
        if site not in self._matrices:
            names = [hash_of(text) for text in self._texts]
            self._matrices[site] = self._bank.vectors(site, Pooling.MEAN, names)
        found: Array = self._matrices[site][[self._rows[text] for text in texts]]
        return found

    def layers(self, texts: Sequence[str]) -> Array:
        """Return the vectors (position, text, dim) of some texts at all positions."""
        return np.stack([self.at(site, texts) for site in self.positions])

    def crops(self) -> tuple[Array, Array]:
        """Return both crops' vectors (position, paragraph, dim) of WikiText-2."""
        return self._both(corpora.wikitext_crops())

    def own_crops(self, task: str) -> tuple[Array, Array]:
        """Return both crops' vectors (position, text, dim) of a task's own unlabelled texts."""
        return self._both(corpora.own_crops(task))

    def _both(self, pairs: Sequence[tuple[str, str]]) -> tuple[Array, Array]:
        first, second = (self.layers([pair[half] for pair in pairs]) for half in (0, 1))
        return first, second


def _sites_in(folder: Path) -> tuple[Site, ...]:
    shard = next(iter(sorted(folder.glob("shard-*.safetensors"))))
    with safe_open(shard, framework="numpy") as content:
        keys = [key.partition("/")[2] for key in content.keys() if "/" in key]  # noqa: SIM118
    parts = [key.partition(".") for key in keys]
    return tuple(sorted(Site(int(layer), stage) for stage, _, layer in parts))


# --- score -------------------------------------------------------------------------------------


class _Given(BankEncoder):
    """A source of vectors for mteb that a function makes."""

    def __init__(self, vectors_of: VectorsOf) -> None:
        self._vectors_of = vectors_of
        info = SimpleNamespace(
            name="readout", revision="", dtype="float32", weights_fingerprint="none", dim=1
        )
        self.backbone: Any = SimpleNamespace(info=info)

    def vectors(self, site: Site, texts: Sequence[str]) -> Array:  # noqa: ARG002
        return self._vectors_of(texts)


@cache
def task_plans() -> dict[str, TaskPlan]:
    """Return how mteb scores each subset; the data are loaded once a process."""
    return corpora.plans(RUNS / "tasks")


def score_tasks(
    vectors_of: VectorsOf, tasks: Sequence[str] = tuple(corpora.TASKS)
) -> dict[str, float]:
    """Return the main score of mteb, from 0 to 1, of some vectors on each task.

    Args:
        vectors_of: texts -> vectors (text, dim).
        tasks: names in `corpora.TASKS`.
    """
    plans = [task_plans()[task] for task in tasks]
    outcome = evaluation.score_tasks(_Given(vectors_of), plans, [Site(0)], EvaluateConfig())
    if outcome.failed:
        raise SystemExit(f"{outcome.failed}")
    return {
        task: outcome.scores[plan.name][Site(0)].value
        for task, plan in zip(tasks, plans, strict=True)
    }


def scored(
    model: str, name: str, vectors_of: VectorsOf, tasks: Sequence[str] = tuple(corpora.TASKS)
) -> dict[str, float]:
    """Return the scores of a readout, those that were made before from its file.

    Args:
        model: whose readout it is.
        name: of the readout, which must say all that decides its vectors.
        vectors_of: texts -> vectors (text, dim); not called where all scores are known.
        tasks: names in `corpora.TASKS`.
    """
    file = folder_of(model) / "scores" / _file_name(name)
    kept = json.loads(file.read_text())["scores"] if file.exists() else {}
    known: dict[str, Any] = {task: kept[task] for task in tasks if _is_current(kept, task)}
    if lacking := [task for task in tasks if task not in known]:
        for task, score in score_tasks(vectors_of, lacking).items():
            kept[task] = {"score": score, "data": task_plans()[task].revision}
        write_json(file, {"readout": name, "scores": kept})
    return {task: kept[task]["score"] for task in tasks}


def _is_current(kept: Mapping[str, Any], task: str) -> bool:
    return task in kept and kept[task]["data"] == task_plans()[task].revision


def _file_name(name: str) -> str:
    short = re.sub(r"[^\w.+-]+", "-", name)[:80].strip("-")
    return f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"


# --- single layers -----------------------------------------------------------------------------


def layer_scores(model: str) -> dict[str, Any]:
    """Return the scores of every single layer of a model, with its baselines' layers.

    "raw" are of the vectors as they are, "unit" of the same at unit length, as sentence-transformers
    models often give them: cosines stay what they are, classifiers and k-means see other vectors.
    """
    vectors = Vectors(model)
    started = time.process_time()
    forms = {form: _by_task(vectors, form) for form in FORMS}
    _say(f"{model}: all layers scored, {time.process_time() - started:.0f} s of the CPU")
    return {
        "blocks": vectors.blocks,
        "sites": [str(site) for site in vectors.sites],
        "last": str(vectors.positions[-1]),
        "middle": str(Site(middle_layer(vectors.blocks))),
        "two thirds": str(Site(two_thirds_layer(vectors.blocks))),
        **forms,
    }


def _by_task(vectors: Vectors, form: str) -> dict[str, list[float]]:
    """Return each task's scores at all sites in one form of the vectors."""
    found: dict[str, list[float]] = {task: [] for task in corpora.TASKS}
    for site in vectors.sites:
        raw = partial(vectors.at, site)
        scores = scored(vectors.model, f"{site} raw", raw)
        if form == "unit":
            others = [task for task in corpora.TASKS if task_plans()[task].kind in _LENGTH_MATTERS]
            made = scored(
                vectors.model, f"{site} unit", lambda texts, raw=raw: unit(raw(texts)), others
            )
            scores = {**scores, **made}
        for task, value in scores.items():
            found[task].append(round(value, 6))
    return found


def layer_table(found: Mapping[str, Any], tasks: Sequence[str], form: str) -> str:
    """Return what the baselines score on average over some tasks, a row a model."""
    rows = []
    for model, layers in found.items():
        sites = layers["sites"]
        mean = 100 * np.mean([layers[form][task] for task in tasks], axis=0)
        best = int(mean.argmax())
        row: dict[str, Any] = {"model": model, "L": layers["blocks"]}
        for name in ("last", "middle", "two thirds"):
            row[name] = f"{mean[sites.index(layers[name])]:.2f}"
        row["last block, raw"] = f"{mean[sites.index(str(Site(layers['blocks'])))]:.2f}"
        rows.append(row | {"best by labels (layer)": f"{mean[best]:.2f} ({_short(sites[best])})"})
    return markdown(rows)


def task_table(layers: Mapping[str, Any]) -> str:
    """Return what the baselines of one model score on each task."""
    sites, rows = layers["sites"], []
    for task, scores in layers["raw"].items():
        best = int(np.argmax(scores))
        row: dict[str, Any] = {"task": task}
        for name in ("last", "middle", "two thirds"):
            row[name] = f"{100 * scores[sites.index(layers[name])]:.2f}"
        rows.append(row | {"best (layer)": f"{100 * scores[best]:.2f} ({_short(sites[best])})"})
    return markdown(rows)


def _short(site: str) -> str:
    return site.removeprefix("block.").replace("final_norm.", "norm ")


def tables(found: Mapping[str, Any]) -> str:
    """Return the tables of single layers."""
    parts = ["### Subsets", markdown(corpora.sizes())]
    for form, said in FORMS.items():
        for name, tasks in SETS.items():
            parts += [f"### Single layers {said}, mean of the {len(tasks)} {name} tasks (x 100)"]
            parts += [layer_table(found, tuple(tasks), form)]
    for model, layers in found.items():
        parts += [f"### {model}, task by task (x 100)", task_table(layers)]
    return "\n\n".join(parts)


def score(models: Sequence[str]) -> dict[str, Any]:
    """Score every single layer of the encoded models and keep that in `LAYERS`."""
    found = json.loads(LAYERS.read_text())["models"] if LAYERS.exists() else {}
    for model in models:
        if description(folder_of(model) / "bank") is not None:
            found[model] = layer_scores(model)
    ordered = {model: found[model] for model in materials.READOUT_MODELS if model in found}
    sets = {name: list(tasks) for name, tasks in SETS.items()}
    whole = {"sets": sets, "subsets": corpora.sizes(), "models": ordered}
    readable = re.sub(  # a list a line, not a number a line
        r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(whole, indent=1)
    )
    write_atomically(LAYERS, f"{readable}\n".encode())
    return ordered


# --- readouts --------------------------------------------------------------------------------------


def compared(model: str) -> dict[str, Any]:
    """Choose a readout of a model on WikiText crops, and score it and the baselines on all tasks."""
    vectors = Vectors(model)
    first, second = vectors.crops()
    pairs = {place: np.stack(both) for place, both in enumerate(zip(first, second, strict=True))}
    started = time.process_time()
    table = compare_readouts(pairs, embedding=output_embedding(model))
    seconds = time.process_time() - started
    choices = {prefer: choose_readout(table, prefer=prefer) for prefer in ("quality", "cheap")}
    ranked = sorted(
        (each for each in table.candidates if each.readout is not None),
        key=lambda each: -each.score,
    )
    wanted = {name: table.candidates[place] for name, place in table.baselines.items()}
    wanted |= {f"chosen, {prefer}": found.chosen.candidate for prefer, found in choices.items()}
    wanted["best crop retrieval"] = ranked[0]
    singles = [
        each for each in ranked if len(each.readout.layers) == 1 and each.readout.map == "none"
    ]
    wanted["best single raw layer by crop retrieval"] = singles[0]
    best_map = choices["quality"].readout.map
    for name in dict.fromkeys((best_map, "z-score", "whitening-0.5")):
        alone = [
            each for each in ranked if len(each.readout.layers) == 1 and each.readout.map == name
        ]
        several = [
            each for each in ranked if len(each.readout.layers) > 1 and each.readout.map == name
        ]
        wanted[f"ablation: one layer, {name}"] = alone[0]
        wanted[f"ablation: several layers, {name}"] = several[0]
    several = [
        each for each in ranked if len(each.readout.layers) > 1 and each.readout.map == "none"
    ]
    wanted["ablation: several layers, no map"] = several[0]
    rows = {
        name: {"readout": each.name, "blocks": each.highest, "crop retrieval": round(each.score, 4)}
        | {
            "scores": scored(
                model, f"readout {each.name} on wikitext", _applied(vectors, each, pairs)
            )
        }
        for name, each in wanted.items()
    }
    sentences = {prefer: found.sentence for prefer, found in choices.items()}
    return {"seconds": round(seconds, 1), "candidates": len(table.candidates),
            "sentences": sentences, "rows": rows}  # fmt: skip


def _applied(vectors: Vectors, candidate: Candidate, pairs: Mapping[int, Array]) -> VectorsOf:
    """Return the texts -> vectors of a candidate, fitted on both crops of every paragraph."""
    crops = {place: both.reshape(-1, both.shape[-1]) for place, both in pairs.items()}

    def at(place: int, texts: Sequence[str]) -> Array:
        return vectors.at(vectors.positions[place], texts).astype(np.float64)

    if candidate.readout is not None:
        layers, fitted = candidate.readout.layers, fit(candidate.readout, crops)
        return lambda texts: fitted.apply({layer: at(layer, texts) for layer in layers})
    if candidate.name.startswith("LOES"):
        taken = loes_layers(crops)
        means = [crops[place].mean(0) for place in taken]
        return lambda texts: np.concatenate(
            [at(place, texts) - mean for place, mean in zip(taken, means, strict=True)], 1
        )
    matrix = embedding_filter(output_embedding(vectors.model))
    return lambda texts: at(vectors.blocks, texts) @ matrix.T


@cache
def output_embedding(model: str) -> Array | None:
    """Return the output embedding (token, dim) of a decoder, whose input one is the same; else None."""
    if model not in ("SmolLM2 135M", "Gemma 3 270M", "stories260k"):
        return None
    path = materials.READOUT_MODELS[model]()
    if path is None:
        return None
    backbone = loading.load(path)
    weight = backbone.model.get_input_embeddings().weight
    found: Array = weight.detach().float().numpy()
    return found


def readout_table(found: Mapping[str, Any], layers: Mapping[str, Any], tasks: Sequence[str]) -> str:
    """Return the mean score of every readout over some tasks, with its gain over the last layer."""
    sites = layers["sites"]
    raw = np.array([layers["raw"][task] for task in tasks]) * 100
    own = raw[:, sites.index(layers["last"])]
    middle = raw[:, sites.index(layers["middle"])]
    best = raw[:, int(raw.mean(0).argmax())]
    rows = [{"": "best single layer, by labels", "readout": _short(sites[int(raw.mean(0).argmax())]),
             "score": f"{best.mean():.2f}"} | _gains(best, own, middle, best)]  # fmt: skip
    for name, row in found["rows"].items():
        scores = 100 * np.array([row["scores"][task] for task in tasks])
        facts = {"": name, "readout": row["readout"], "score": f"{scores.mean():.2f}"}
        rows.append(facts | _gains(scores, own, middle, best) | {"blocks": row["blocks"]})
    return markdown(rows)


def _gains(scores: Array, own: Array, middle: Array, best: Array) -> dict[str, str]:
    found = {}
    for name, base in (("over last", own), ("over middle", middle), ("over best single", best)):
        gain = scores - base
        draws = np.random.default_rng(0).integers(0, len(gain), (2000, len(gain)))
        low, high = np.quantile(gain[draws].mean(1), [0.025, 0.975])
        found[name] = f"{gain.mean():+.2f} ({low:+.1f} to {high:+.1f})"
    return found


def choose(models: Sequence[str]) -> None:
    """Choose and score readouts of the encoded models; keep that in `READOUTS`."""
    found = json.loads(READOUTS.read_text()) if READOUTS.exists() else {}
    for model in models:
        found[model] = compared(model)
        write_json(READOUTS, found)


def readout_tables() -> str:
    """Return the tables of all readouts that were chosen and scored."""
    found = json.loads(READOUTS.read_text())
    layers = json.loads(LAYERS.read_text())["models"]
    models = [model for model in materials.READOUT_MODELS if model in found and model in layers]
    parts = [summary(found, layers, models, name) for name in SETS]
    for model in models:
        parts += [f"### {model}", *found[model]["sentences"].values()]
        for name, tasks in SETS.items():
            parts += [f"Mean of the {len(tasks)} {name} tasks (x 100):"]
            parts += [readout_table(found[model], layers[model], tuple(tasks))]
    return "\n\n".join(parts)


def summary(
    found: Mapping[str, Any], layers: Mapping[str, Any], models: Sequence[str], name: str
) -> str:
    """Return the chosen readout of each model beside the single layers, and the mean over models."""
    tasks, rows, gains = SETS[name], [], []
    for model in models:
        sites, raw = layers[model]["sites"], layers[model]["raw"]
        single = 100 * np.array([raw[task] for task in tasks])
        place = int(single.mean(0).argmax())
        own, middle = (single[:, sites.index(layers[model][each])] for each in ("last", "middle"))
        row = found[model]["rows"]["chosen, quality"]
        chosen = 100 * np.array([row["scores"][task] for task in tasks])
        gains.append(np.stack([chosen - own, chosen - middle, chosen - single[:, place]]))
        rows.append(
            {"model": model, "last": f"{own.mean():.1f}", "middle": f"{middle.mean():.1f}",
             "best layer by labels": f"{single[:, place].mean():.1f} ({_short(sites[place])})",
             "readout without labels": f"**{chosen.mean():.1f}** ({row['readout']})"}
            | _gains(chosen, own, middle, single[:, place])
        )  # fmt: skip
    draws = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        models_drawn = draws.integers(0, len(gains), len(gains))
        one = [gains[m][:, draws.integers(0, len(tasks), len(tasks))].mean(1) for m in models_drawn]
        means.append(np.mean(one, 0))
    low, high = np.quantile(np.array(means), [0.025, 0.975], axis=0)
    mean = np.mean([each.mean(1) for each in gains], 0)
    said = [f"{m:+.2f} ({lo:+.1f} to {hi:+.1f})" for m, lo, hi in zip(mean, low, high, strict=True)]
    columns = ("over last", "over middle", "over best single")
    blank = dict.fromkeys(("last", "middle", "best layer by labels", "readout without labels"), "")
    rows.append({"model": "mean", **blank, **dict(zip(columns, said, strict=True))})
    return f"### {len(tasks)} {name} tasks (x 100)\n\n{markdown(rows)}"


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


def main(models: Sequence[str] = tuple(materials.READOUT_MODELS)) -> str:
    """Encode and score what is not there yet; return the tables."""
    torch.set_num_threads(1)
    texts = corpora.every_text()
    for model in models:
        encode(model, texts)
    single = tables(score(models))
    choose(models)
    return f"{readout_tables()}\n\n{single}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "step", choices=("encode", "score", "choose", "tables", "measures", "ablate", "ship", "all")
    )
    parser.add_argument("--model", action="append", choices=list(materials.READOUT_MODELS))
    given = parser.parse_args()
    chosen = given.model or list(materials.READOUT_MODELS)
    torch.set_num_threads(1)
    if given.step == "encode":
        for each in chosen:
            encode(each, corpora.every_text())
    elif given.step == "tables":
        print(readout_tables())
    elif given.step == "measures":
        print(measure_table(chosen))
    elif given.step == "ablate":
        print("\n\n".join(ablation(model) for model in chosen))
    elif given.step == "ship":
        print("\n\n".join(shipped(model) for model in chosen))
    elif given.step == "choose":
        choose(chosen)
        print(readout_tables())
    else:
        print(main(chosen) if given.step == "all" else tables(score(chosen)))
