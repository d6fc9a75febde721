"""What the declared criteria pick, and how well their values go with the candidates' task scores."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks import corpora
from benchmarks.readouts.choice import fitted_on
from benchmarks.readouts.criteria import (
    CHOOSING,
    CRITERIA,
    HELD_OUT,
    TODAY,
    Criterion,
    candidates,
)
from benchmarks.readouts.layers import readable
from benchmarks.readouts.retrieval import Crops, Pairs
from benchmarks.readouts.scores import SETS, scored
from benchmarks.readouts.vectors import LENGTHS, RESULTS, Vectors, encode, say
from benchmarks.tables import markdown
from layerscope.data.files import write_atomically
from layerscope.decisions.readouts import choose_readout
from layerscope.metrics.readouts import Floats, Readout
from layerscope.results.readouts import Candidate, ReadoutTable

FOUND = RESULTS / "readouts-criteria.json"
MODELS = (*CHOOSING, *HELD_OUT)
DRAWS = 1000
CELLS = {
    "chosen on": (CHOOSING, "development"),
    "held out": (HELD_OUT, "untouched"),
    "same models, other tasks": (CHOOSING, "untouched"),
    "other models, same tasks": (HELD_OUT, "development"),
}

# --- figures of one model ------------------------------------------------------------------------


def task_scores(model: str) -> dict[str, list[float]]:
    """Return the scores of every candidate of a model, a list in the order of the tasks."""
    vectors = Vectors(model)
    pairs = stacked(*vectors.crops())
    found: dict[str, list[float]] = {}
    for readout in candidates(vectors.blocks):
        started = time.process_time()
        if len(readout.layers) == 1 and readout.map == "none":  # a single layer, scored as such
            site = vectors.positions[readout.layers[0]]
            scores = scored(model, f"{site} raw", lambda texts, site=site: vectors.at(site, texts))
        else:
            name = f"readout {readout} on wikitext"
            scores = scored(model, name, fitted_on(vectors, readout, pairs))
        found[str(readout)] = [round(scores[task], 6) for task in corpora.TASKS]
        say(f"{model}: {readout}, {time.process_time() - started:.0f} s of the CPU")
    return found


def crops_of(model: str) -> Crops:
    """Return the vectors of all crops of an encoded model."""
    vectors, others = Vectors(model), Vectors(model, LENGTHS)
    lengths = {20: stacked(*vectors.crops())}
    lengths |= {words: stacked(*others.crops(words)) for words in corpora.LENGTHS}
    own = {
        name: {
            task: stacked(*vectors.own_crops(task)) for task, each in tasks.items() if not each.of
        }
        for name, tasks in SETS.items()
    }
    return Crops(lengths, own)


def stacked(first: Floats, second: Floats) -> Pairs:
    """Return position -> (2, text, dim) in float64 of both crops' vectors (position, text, dim)."""
    both = enumerate(zip(first, second, strict=True))
    return {place: np.stack(pair).astype(np.float64) for place, pair in both}


def values_and_picks(model: str) -> dict[str, dict[str, Any]]:
    """Return each criterion's values of the candidates and what is picked by it."""
    crops = crops_of(model)
    blocks = max(crops.wikitext[20])
    readouts = candidates(blocks)
    rows: dict[str, list[Floats]] = {each.name: [] for each in CRITERIA if each.of is not None}
    for readout in readouts:
        for criterion in CRITERIA:
            if criterion.of is not None:
                rows[criterion.name].append(criterion.of(crops, readout))
    found: dict[str, dict[str, Any]] = {}
    for criterion in CRITERIA:
        if criterion.of is None:
            order = [np.argsort(np.argsort(found[name]["values"])) for name in criterion.over]
            values, rule = np.mean(order, 0), None
        else:
            contributions = np.stack(rows[criterion.name])
            values, rule = contributions.mean(1), by_rule(readouts, contributions, blocks)
        best = str(readouts[int(values.argmax())])
        found[criterion.name] = {"best": best, "rule": rule, "values": values.round(6).tolist()}
    return found


def by_rule(readouts: Sequence[Readout], contributions: Floats, blocks: int) -> str:
    """Return what `choose_readout` takes by the contributions (readout, text)."""
    scores = contributions.mean(1).tolist()
    rows = tuple(
        Candidate(str(readout), readout, max(readout.layers), score, score, score)
        for readout, score in zip(readouts, scores, strict=True)
    )
    own = readouts.index(Readout((blocks,)))
    half = contributions.shape[1] // 2
    table = ReadoutTable(rows, contributions, own, {}, (half, contributions.shape[1] - half), 0.0)
    return str(choose_readout(table).readout)


def measure(models: Sequence[str] = MODELS) -> dict[str, Any]:
    """Encode, score and value what is not there yet; keep all of it in `FOUND`."""
    found = json.loads(FOUND.read_text())["models"] if FOUND.exists() else {}
    for model in models:
        encode(model, corpora.crops_of_lengths(), LENGTHS)
        scores = task_scores(model)
        found[model] = {"scores": scores, "criteria": values_and_picks(model)}
    whole = {
        "tasks": {name: list(tasks) for name, tasks in SETS.items()},
        "chosen on": list(CHOOSING),
        "held out": list(HELD_OUT),
        "models": {model: found[model] for model in MODELS if model in found},
    }
    write_atomically(FOUND, readable(whole).encode())
    return whole


# --- tables --------------------------------------------------------------------------------------


class Cell:
    """The candidates' scores of some models on some tasks, x 100, and what the criteria say of them."""

    def __init__(self, found: Mapping[str, Any], models: Sequence[str], tasks: str) -> None:
        order = [task for name in SETS for task in found["tasks"][name]]
        self.places = [order.index(task) for task in found["tasks"][tasks]]
        self.models = {model: found["models"][model] for model in models}
        self.names = {model: list(each["scores"]) for model, each in self.models.items()}
        self.scores = {
            model: 100 * np.array(list(each["scores"].values()))[:, self.places]
            for model, each in self.models.items()
        }
        draws = np.random.default_rng(0).integers(0, len(self.places), (DRAWS, len(self.places)))
        self.draws = np.concatenate([np.arange(len(self.places))[None], draws])  # first as they are

    def of(self, model: str, readout: str) -> Floats:
        """Return the scores of a readout (task,)."""
        found: Floats = self.scores[model][self.names[model].index(readout)]
        return found

    def last(self, model: str) -> Floats:
        """Return the scores of the model's own output (task,)."""
        single = [name for name in self.names[model] if name.isdigit()]
        return self.of(model, max(single, key=int))

    def pick(self, criterion: str, how: str) -> Floats:
        """Return the scores of what a criterion picks (model, task)."""
        picks = {m: each["criteria"][criterion][how] for m, each in self.models.items()}
        return np.stack([self.of(model, pick) for model, pick in picks.items()])

    def gain(self, picked: Floats, base: Floats) -> tuple[float, float, float]:
        """Return the mean gain of scores (model, task) over others, and its 95 % limits over tasks."""
        drawn = (picked - base).mean(0)[self.draws].mean(1)
        low, high = np.quantile(drawn[1:], [0.025, 0.975])
        return float(drawn[0]), float(low), float(high)

    def spearman(self, criterion: str) -> Floats:
        """Return the mean over models of Spearman, as it is and on drawn tasks (1 + draw,)."""
        found = []
        for model, each in self.models.items():
            means = self.scores[model][:, self.draws].mean(2)  # candidate, draw
            values = np.array(each["criteria"][criterion]["values"])[:, None]
            found.append(_rank_correlations(values, means))
        return np.mean(found, 0)


def _rank_correlations(values: Floats, others: Floats) -> Floats:
    """Return Spearman's correlation of (candidate, 1) with every column of others (candidate, draw)."""
    one, each = (rankdata(rows, axis=0) for rows in (values, others))
    one, each = (rows - rows.mean(0) for rows in (one, each))
    lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(each, axis=0)
    found: Floats = (one * each).sum(0) / lengths
    return found


def chosen_criterion(found: Mapping[str, Any]) -> str:
    """Return the criterion that the declared statistic chooses."""
    cell = Cell(found, *CELLS["chosen on"])
    may = [each.name for each in CRITERIA if not each.information]

    def statistic(name: str) -> tuple[float, float]:
        return round(float(cell.pick(name, "rule").mean()), 9), float(cell.spearman(name)[0])

    return max(may, key=statistic)


def tables(found: Mapping[str, Any]) -> str:
    """Return the tables of all cells, and which criterion is chosen."""
    cells = {name: Cell(found, *where) for name, where in CELLS.items()}
    parts = [f"Chosen by the declared statistic: **{chosen_criterion(found)}**."]
    parts += ["Spearman with the candidates' mean scores:", _spearman_table(found)]
    for name, cell in cells.items():
        models, tasks = CELLS[name]
        title = f"{name}: {', '.join(models)}; {len(SETS[tasks])} {tasks} tasks"
        parts += [f"#### {title[0].upper()}{title[1:]}", _pick_table(cell)]
    parts += ["#### What each takes, by the rule", _taken_table(found)]
    return "\n\n".join(parts)


def _spearman_table(found: Mapping[str, Any]) -> str:
    rows = []
    each_cell = {name: Cell(found, *where) for name, where in CELLS.items()}
    singles = {model: [Cell(found, (model,), tasks) for tasks in SETS] for model in MODELS}
    for criterion in CRITERIA:
        row: dict[str, Any] = {"criterion": _title(criterion)}
        for model, cells in singles.items():
            row[model] = " / ".join(f"{cell.spearman(criterion.name)[0]:.2f}" for cell in cells)
        for name in ("chosen on", "held out"):
            own, today = (each_cell[name].spearman(each) for each in (criterion.name, TODAY))
            low, high = np.quantile((own - today)[1:], [0.025, 0.975])
            row[name] = f"{own[0]:.2f}"
            if criterion.name != TODAY:
                row[name] += f" ({own[0] - today[0]:+.2f}, {low:+.2f} to {high:+.2f})"
        rows.append(row)
    return markdown(rows)


def _pick_table(cell: Cell) -> str:
    last = np.stack([cell.last(model) for model in cell.models])
    best = np.mean([cell.scores[model].mean(1).max() for model in cell.models])
    rows = []
    for criterion in CRITERIA:
        row: dict[str, Any] = {"criterion": _title(criterion)}
        for how in ("rule", "best"):
            if cell.models[next(iter(cell.models))]["criteria"][criterion.name][how] is None:
                row |= {how: "", f"{how} over last": "", f"{how} over today's": ""}
                continue
            picked, today = (cell.pick(each, how) for each in (criterion.name, TODAY))
            row[how] = f"{picked.mean():.2f}"
            row[f"{how} over last"] = said(cell.gain(picked, last))
            row[f"{how} over today's"] = said(cell.gain(picked, today))
        rows.append(row)
    rows.append({"criterion": "last", "rule": f"{last.mean():.2f}", "best": f"{last.mean():.2f}"})
    rows.append({"criterion": "best candidate, by labels", "best": f"{best:.2f}"})
    return markdown(rows)


def _taken_table(found: Mapping[str, Any]) -> str:
    rows = []
    for criterion in CRITERIA:
        picks = {m: each["criteria"][criterion.name] for m, each in found["models"].items()}
        taken = {m: each["rule"] or f"(best: {each['best']})" for m, each in picks.items()}
        rows.append({"criterion": _title(criterion), **taken})
    return markdown(rows)


def said(gain: tuple[float, float, float]) -> str:
    """Return a gain with its limits."""
    mean, low, high = gain
    return f"{mean:+.2f} ({low:+.1f} to {high:+.1f})"


def _title(criterion: Criterion) -> str:
    return f"*{criterion.name}*" if criterion.information else criterion.name
