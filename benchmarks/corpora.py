"""Fixed subsets of the labelled sets of ../shared/data and crops of texts, for the readouts' tables.

Every subset is drawn with a seed of its own name, so that adding a task changes no other, and a model
encodes each distinct text once. What a task scores is left to mteb.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import materials
from layerscope.data.files import write_atomically
from layerscope.data.views import SpanConfig, views_of
from layerscope.evaluation.run import quiet
from layerscope.evaluation.tasks import TaskPlan, resolve

DATA = materials.SHARED / "data"
WIKITEXT = SpanConfig(words=20)
OWN = SpanConfig(words=5)  # most texts of the tasks have about ten words
LENGTHS = {8: 1000, 50: 400}  # words of the crops that are compared with those of 20 -> paragraphs
PARAGRAPHS = 1000
OWN_TEXTS = 60  # of each task
_LONGEST = 25  # words of a question of MMLU


@dataclass(frozen=True)
class Subset:
    """How much of a labelled set is used.

    Attributes:
        rows: scored rows at most: texts, pairs or queries.
        a_label: rows of each label that train the classifiers; 0 where nothing is trained.
        folder: of ../shared/data, where it is not called after the task.
        of: the task whose scored texts these are, for those that are made here.
    """

    rows: int
    a_label: int = 0
    folder: str = ""
    of: str = ""


# The criterion was found on the first nine; no readout and no rule may be chosen on the others.
DEVELOPMENT = {
    "STS17": Subset(250, folder="STS17-en-en"),
    "STSBenchmark": Subset(500),
    "Banking77Pairs": Subset(500),
    "Banking77Classification": Subset(550, 12),
    "MTOPDomainClassification": Subset(550, 40),
    "WordNetGlossLexname": Subset(550, 25),
    "MassiveScenarioClassification": Subset(550, 30),
    "CLINC150Domain": Subset(550, 40),
    "ArxivClusteringS2S-mini": Subset(900),
}
UNTOUCHED = {
    "AmazonCounterfactualClassification": Subset(500, 120),
    "CLINC150Intent": Subset(550, 8),
    "CLINC150Reranking": Subset(50),
    "StackExchangeClustering-mini": Subset(900),
    "MMLUSubject": Subset(450, 9, folder="MMLU-subset"),
    # Made of the texts above, scored in another way: not independent of them.
    "CLINC150IntentPairs": Subset(800, of="CLINC150Intent"),
    "StackExchangePairs": Subset(800, of="StackExchangeClustering-mini"),
    "MMLUSubjectClustering": Subset(450, of="MMLUSubject"),
}
TASKS = {**DEVELOPMENT, **UNTOUCHED}
MANY_LABELS = ("Banking77Classification", "CLINC150Intent", "MMLUSubject")
DRAWS = 4


def frames_of(task: str) -> dict[str, pd.DataFrame]:
    """Return the rows of a task's subset, by split: train where classifiers are trained, and test."""
    subset = TASKS[task]
    if subset.of:
        source = frames_of(subset.of)["test"]
        made = _same_label(source, subset.rows, task) if task.endswith("Pairs") else source
        return {"test": made}
    folder = DATA / (subset.folder or task)
    if task == "MMLUSubject":
        found = _subjects(pd.read_parquet(folder / "test.parquet"))
    else:
        files = {split: sorted(folder.glob(f"*{split}.parquet")) for split in ("train", "test")}
        found = {split: pd.read_parquet(paths[0]) for split, paths in files.items() if paths}
    if task == "CLINC150Intent":  # the same texts as CLINC150Domain's, which has taken its own
        taken = {text for frame in frames_of("CLINC150Domain").values() for text in frame["text"]}
        found = {split: rows[~rows["text"].isin(taken)] for split, rows in found.items()}
    drawn = {"test": _drawn(found["test"], subset.rows, f"{task} test")}
    if subset.a_label:
        own = found["train"]
        own = own[~own["text"].isin(drawn["test"]["text"])].drop_duplicates("text")
        parts = [
            _drawn(rows, subset.a_label, f"{task} train {label}")
            for label, rows in own.groupby("label", sort=True)
        ]
        drawn = {"train": pd.concat(parts, ignore_index=True), **drawn}
    return drawn


def _same_label(rows: pd.DataFrame, count: int, name: str) -> pd.DataFrame:
    """Return pairs of texts and whether both have one label, as every fourth pair has."""
    first, second = np.triu_indices(len(rows), 1)
    labels = rows["label"].to_numpy()
    pairs = pd.DataFrame(
        {"first": first, "second": second, "label": labels[first] == labels[second]}
    )
    parts = [
        _drawn(pairs[pairs["label"]], count // 4, f"{name} same"),
        _drawn(pairs[~pairs["label"]], count - count // 4, f"{name} different"),
    ]
    drawn = pd.concat(parts, ignore_index=True)
    texts = rows["text"].to_numpy()
    return pd.DataFrame(
        {
            "sentence1": texts[drawn["first"]],
            "sentence2": texts[drawn["second"]],
            "label": drawn["label"].astype(int),
        }
    )


def _subjects(questions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return short questions of MMLU with their subjects as labels, every second one for training."""
    short = questions[questions["question"].str.split().str.len() <= _LONGEST]
    rows = pd.DataFrame({"text": short["question"], "label": short["subject"]})
    rows = rows.drop_duplicates("text").reset_index(drop=True)
    return {"train": rows.iloc[::2], "test": rows.iloc[1::2]}


def _drawn(rows: pd.DataFrame, count: int, name: str) -> pd.DataFrame:
    """Return some rows in their order, drawn with a seed made of a name."""
    seed = np.frombuffer(name.encode(), np.uint8)
    generator = np.random.default_rng(seed.astype(np.uint32))
    places = np.sort(generator.permutation(len(rows))[:count])
    return rows.iloc[places].reset_index(drop=True)


def plans(folder: Path) -> dict[str, TaskPlan]:
    """Return how mteb scores each task's subset.

    Args:
        folder: where the subsets are written.

    Everything is mteb's own but this: classifiers of many labels are trained on four draws, not ten,
    because the draws share most of the few texts that a label has here.
    """
    for task in TASKS:
        place = folder / task
        frames = frames_of(task)
        if "Clustering" in task:
            frames = {"test": _shuffles(frames["test"])}
        for split, rows in frames.items():
            content = io.BytesIO()
            rows.to_parquet(content)
            write_atomically(place / f"{split}.parquet", content.getvalue())
    with quiet():
        # A table without a training split would be taken for a classification.
        kinds = {"MMLUSubjectClustering": ":clustering"}
        found = resolve([task + kinds.get(task, "") for task in TASKS], task_data=folder)
        for plan in found:
            plan.build()  # the data are loaded before any clock runs
    return {
        task: replace(plan, build=partial(_fewer_draws, plan)) if task in MANY_LABELS else plan
        for task, plan in zip(TASKS, found, strict=True)
    }


def _fewer_draws(plan: TaskPlan) -> Any:
    task = plan.build()
    task.n_experiments = DRAWS
    return task


def _shuffles(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the same texts as sets in three orders.

    k-means starts at texts that a fixed seed draws by their places; mteb's mean over the sets evens out
    that luck, which is a point of V-measure in one order.
    """
    orders = [np.random.default_rng(order).permutation(len(rows)) for order in range(3)]
    return pd.DataFrame(
        {name: [rows[name].to_numpy()[order] for order in orders] for name in ("text", "label")}
    )


def texts_of(task: str) -> list[str]:
    """Return the distinct texts that a task's subset reads."""
    return list(dict.fromkeys(text for rows in frames_of(task).values() for text in _texts(rows)))


def own_texts(task: str) -> list[str]:
    """Return texts of a task that a readout may be fitted on: those of training, else all, unlabelled."""
    frames = frames_of(task)
    return list(dict.fromkeys(_texts(frames.get("train", frames["test"]))))


def _texts(rows: pd.DataFrame) -> list[str]:
    found: list[str] = []
    for column in ("text", "sentence1", "sentence2", "query", "positive", "negative"):
        for value in rows.get(column, ()):
            found += [value] if isinstance(value, str) else list(value)
    return found


# --- crops -------------------------------------------------------------------------------------


def wikitext_crops(words: int = 0) -> list[tuple[str, str]]:
    """Return two disjoint crops of each of 1,000 paragraphs of WikiText-2.

    Args:
        words: of a crop, 20 by default. Crops of 8 words are of the same paragraphs, those of 50 of 400
            that are long enough.
    """
    settings = SpanConfig(words=words) if words else WIKITEXT
    least = max(settings.shortest, WIKITEXT.shortest)
    paragraphs = list(dict.fromkeys(materials.wikitext(least)))
    return _pairs(some(paragraphs, LENGTHS.get(words, PARAGRAPHS), "WikiText-2"), settings)


def crops_of_lengths() -> list[str]:
    """Return all distinct crops of WikiText-2 that are not of 20 words."""
    crops = [crop for words in LENGTHS for pair in wikitext_crops(words) for crop in pair]
    return list(dict.fromkeys(crops))


def own_crops(task: str) -> list[tuple[str, str]]:
    """Return two disjoint crops of 5 words of at most 60 texts of a task that are long enough."""
    source = TASKS[task].of or task
    long = [text for text in own_texts(source) if len(text.split()) >= OWN.shortest]
    return _pairs(some(long, OWN_TEXTS, f"{source} crops"), OWN)


def some(texts: Sequence[str], count: int, name: str) -> list[str]:
    """Return some texts in their order, drawn with a seed made of a name."""
    return list(_drawn(pd.DataFrame({"text": list(texts)}), count, name)["text"])


def _pairs(texts: Sequence[str], settings: SpanConfig) -> list[tuple[str, str]]:
    made = views_of(texts, settings, settings.count, 0, lambda: None).made
    return list(zip(made[::2], made[1::2], strict=True))


def every_text() -> list[str]:
    """Return all distinct texts: crops of WikiText-2, the tasks, crops of the tasks' own texts."""
    found = [crop for pair in wikitext_crops() for crop in pair]
    for task in TASKS:
        found += texts_of(task)
    for task, subset in TASKS.items():
        found += [] if subset.of else [crop for pair in own_crops(task) for crop in pair]
    return list(dict.fromkeys(found))


def sizes() -> list[dict[str, Any]]:
    """Return the rows of a table: what each task's subset holds."""
    rows = []
    for task in TASKS:
        frames = frames_of(task)
        labels = frames["test"].get("label")
        rows.append(
            {
                "task": task,
                "set": "development" if task in DEVELOPMENT else "untouched",
                "scored rows": len(frames["test"]),
                "labels": "" if labels is None else labels.nunique(),
                "training texts": len(frames["train"]) if "train" in frames else "",
                "distinct texts": len(texts_of(task)),
                "own crop pairs": len(own_crops(task)),
            }
        )
    return rows
