"""Task objects of mteb with their data: from the hub, from local files, or from a table."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.data.images import Picture, of_dataset
from layerscope.errors import InputError, RunError
from layerscope.evaluation.labels import (
    binary_labels,
    canonical,
    label_codes,
    numbers,
    strings,
    unrolled,
)
from layerscope.evaluation.retrieval import CORPUS, QUERIES, checked_retrieval, retrieval_split
from layerscope.evaluation.tables import Table, read_parts

MAIN_SCORES: Final[Mapping[str, str]] = {
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "PairClassification": "max_ap",
    "Reranking": "map_at_1000",
    "Retrieval": "ndcg_at_10",
    "STS": "cosine_spearman",
}
_SAMPLE: Final = 16_384  # texts in one clustering experiment at most, as in mteb's own tasks


_EXTRA: Final = {"mteb": "mteb", "sklearn": "scikit-learn"}


def require_extra() -> None:
    """Refuse to evaluate without mteb.

    Raises:
        InputError: it is not installed.
    """
    missing = [name for module, name in _EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(
            f"evaluating needs {' and '.join(missing)}; install with: pip install "
            "'layerscope[evaluate]'."
        )


class Builder:
    """Makes fresh objects of one task, whose data it loads once.

    A fresh object is what the first one was before anything scored it: the same data and random
    state, in containers of its own.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._loaded: Any = None

    def __call__(self) -> Any:
        """Return a fresh object."""
        if self._loaded is None:
            self._loaded = self._load()
            self._loaded.dataset = _with_plain_columns(self._loaded.dataset)
        task = copy.copy(self._loaded)
        task.rng_state, task.np_rng = copy.deepcopy((task.rng_state, task.np_rng))
        task.dataset = _own_containers(task.dataset)
        return task


def _with_plain_columns(data: Any) -> Any:
    """Let `dataset["label"]` give a list where it would give an object that reads row by row.

    mteb hands such a column to scikit-learn a dozen times for each of ten classifiers, which takes
    more time than all else in scoring a layer.
    """
    from datasets import Dataset

    if isinstance(data, dict):
        for key, value in data.items():
            data[key] = _with_plain_columns(value)
    elif type(data) is Dataset:
        data.__class__ = _plain_dataset()
    return data


@cache
def _plain_dataset() -> type:
    from datasets import Dataset

    class PlainDataset(Dataset):  # type: ignore[misc]  # untyped library
        """A dataset whose columns are lists."""

        def __getitem__(self, key: Any) -> Any:
            found = super().__getitem__(key)
            return found[:] if isinstance(key, str) else found

    return PlainDataset


def _own_containers(data: Any, depth: int = 3) -> Any:
    """Copy the dictionaries of subsets and splits, and what a split of a retrieval task is made of."""
    if not isinstance(data, dict) or not depth:
        return data
    own = copy.copy(data)
    for key, value in own.items():
        own[key] = _own_containers(value, depth - 1)
    return own


# --- where the data come from ------------------------------------------------------------------


def _make_task(name: str, split: str, subset: str) -> Any:
    import mteb

    return mteb.get_task(name, eval_splits=[split], hf_subsets=[subset])


def loaded_from_hub(
    name: str, split: str, subset: str, pictures: dict[str, Picture] | None = None
) -> Any:
    """Return a task of mteb with the data that it loads itself, from the hub or its cache.

    Args:
        name: of the task.
        split: what is scored.
        subset: the one subset.
        pictures: of a task of images: takes them by key, and the task has keys in their place, which
            mteb hands over as texts. None for a task of texts.

    Raises:
        RunError: they cannot be loaded.
    """
    task = _make_task(name, split, subset)
    try:
        task.load_data()
        if task.metadata.type in ("Reranking", "Retrieval"):
            task.convert_v1_dataset_format_to_v2(num_proc=None)  # else again for every layer
    except Exception as error:  # whatever the hub, the network, a script or a transform raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RunError(
            f"the data of {name} could not be loaded ({type(error).__name__}: {reason}); with no "
            "network, point --task-data at a folder that has them."
        ) from error
    if pictures is not None:
        task.metadata = task.metadata.model_copy(update={"modalities": ["text"]})
        task.dataset = _keyed(task.dataset, task.input_column_name, pictures, name)
    return task


def _keyed(data: Any, column: str, pictures: dict[str, Picture], name: str) -> Any:
    """Return the data of a task with keys of images in a column of images."""
    if isinstance(data, dict):
        return type(data)({key: _keyed(each, column, pictures, name) for key, each in data.items()})
    found = [picture for picture, _ in of_dataset(data, column, name)]
    pictures |= {picture.key: picture for picture in found}
    return data.remove_columns(column).add_column(column, [picture.key for picture in found])


def loaded_locally(
    name: str,
    base: str,
    split: str,
    subset: str,
    files: Mapping[str, Sequence[Path]],
    revision: str,
) -> Any:
    """Return a task of mteb with the data of local files, under a name of its own.

    Args:
        name: what the scores are called after.
        base: the task whose class scores.
        split: what is scored.
        subset: the one subset.
        files: split -> its files.
        revision: of the data.

    Raises:
        InputError: the files' columns are not those of the task.
    """
    task = _make_task(base, split, subset)
    folder = str(next(iter(files.values()))[0].parent)
    where = {"path": folder, "revision": revision}
    task.metadata = task.metadata.model_copy(update={"name": name, "dataset": where})
    frames = {part: read_parts(paths) for part, paths in files.items()}
    _give_data(task, frames, folder)
    return task


def loaded_table(table: Table) -> Any:
    """Return a table as a task of mteb, of the class for its kind."""
    task = _table_class(table)()
    _give_data(task, table.splits, table.source)
    return task


def _table_class(table: Table) -> type:
    """Return a subclass of mteb's class for a table's kind that names the table in its metadata."""
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.clustering import AbsTaskClustering
    from mteb.abstasks.pair_classification import AbsTaskPairClassification
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    parents: dict[str, type] = {
        "Classification": AbsTaskClassification,
        "Clustering": AbsTaskClustering,
        "PairClassification": AbsTaskPairClassification,
        "Reranking": AbsTaskRetrieval,  # a reranking is a retrieval with ranked texts
        "Retrieval": AbsTaskRetrieval,
        "STS": AbsTaskSTS,
    }
    facts: dict[str, Any] = {
        "name": table.name,
        "description": f"The table {table.source}",
        "dataset": {"path": table.source, "revision": f"local:{table.fingerprint}"},
        "type": table.kind,
        "category": "t2t" if table.kind in ("Reranking", "Retrieval", "STS") else "t2c",
        "eval_splits": ["test"],
        "eval_langs": ["eng-Latn"],  # mteb asks for one; nothing depends on it
        "main_score": MAIN_SCORES[table.kind],
    }
    members: dict[str, Any] = {"metadata": TaskMetadata(**facts)}
    if table.kind == "Clustering":  # its default is to take 4 % of the texts
        size = min(len(table.splits["test"]), _SAMPLE)
        members |= {"max_fraction_of_documents_to_embed": None, "max_documents_per_cluster": size}
    return type("LocalTable", (parents[table.kind],), members)


# --- data of a task ----------------------------------------------------------------------------


def _give_data(task: Any, frames: Mapping[str, pd.DataFrame], where: str) -> None:
    """Put rows into a task in the form that its class reads after its own transformations."""
    kind = str(task.metadata.type)
    task.data_loaded = True
    if kind == "Retrieval":
        parts = checked_retrieval(frames, where)
        splits = parts.keys() - {CORPUS, QUERIES}
        task.dataset = {task.hf_subsets[0]: {s: retrieval_split(parts, s) for s in splits}}
        return
    rows = {split: canonical(frame, kind, where) for split, frame in frames.items()}
    data: Any
    if kind == "Reranking":
        task.dataset = {task.hf_subsets[0]: {s: _ranked(frame, s) for s, frame in rows.items()}}
    else:
        data = _FORMS[kind](task, rows, where)
        task.dataset = {task.hf_subsets[0]: data} if task.metadata.is_multilingual else data


def _as_datasets(splits: Mapping[str, Mapping[str, Sequence[Any]]]) -> Any:
    from datasets import Dataset, DatasetDict

    return DatasetDict({split: Dataset.from_dict(dict(data)) for split, data in splits.items()})


def _classified(task: Any, rows: Mapping[str, pd.DataFrame], where: str) -> Any:
    flat = {split: unrolled(frame) for split, frame in rows.items()}
    codes, _ = label_codes([frame["label"].tolist() for frame in flat.values()], where)
    return _as_datasets(
        {
            split: {
                task.input_column_name: strings(frame["text"], where),
                task.label_column_name: code,
            }
            for (split, frame), code in zip(flat.items(), codes, strict=True)
        }
    )


def _clustered(task: Any, rows: Mapping[str, pd.DataFrame], where: str) -> Any:
    """Return sets of texts for mteb's older class, which scores each, and single texts for its newer."""
    from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy

    if not isinstance(task, AbsTaskClusteringLegacy):
        _refuse_hierarchies(task, rows, where)
        return _classified(task, rows, where)
    sets = {}
    for split, frame in rows.items():
        nested = not isinstance(frame["text"].iloc[0], str)
        texts = [list(texts) for texts in frame["text"]] if nested else [frame["text"].tolist()]
        labels = (
            [list(labels) for labels in frame["label"]] if nested else [frame["label"].tolist()]
        )
        codes, _ = label_codes(labels, where)
        sets[split] = {task.input_column_name: texts, task.label_column_name: codes}
    return _as_datasets(sets)


def _refuse_hierarchies(task: Any, rows: Mapping[str, pd.DataFrame], where: str) -> None:
    frame = next(iter(rows.values()))
    nested = isinstance(frame["label"].iloc[0], list | tuple | np.ndarray)
    if nested and isinstance(frame["text"].iloc[0], str):
        raise InputError(
            f"expected one label a text for {task.metadata.name}, {where!r} has several (a hierarchy); "
            "keep one level of them."
        )


def _paired(task: Any, rows: Mapping[str, pd.DataFrame], where: str) -> Any:
    flat = {split: unrolled(frame) for split, frame in rows.items()}
    return _as_datasets(
        {
            split: {
                task.input1_column_name: strings(frame["sentence1"], where),
                task.input2_column_name: strings(frame["sentence2"], where),
                task.label_column_name: binary_labels(frame["label"], where),
            }
            for split, frame in flat.items()
        }
    )


def _compared(task: Any, rows: Mapping[str, pd.DataFrame], where: str) -> Any:
    first, second = task.column_names
    return _as_datasets(
        {
            split: {
                first: strings(frame["sentence1"], where),
                second: strings(frame["sentence2"], where),
                "score": numbers(frame["score"], where),
            }
            for split, frame in rows.items()
        }
    )


_FORMS: Final[Mapping[str, Callable[[Any, Mapping[str, pd.DataFrame], str], Any]]] = {
    "Classification": _classified,
    "Clustering": _clustered,
    "PairClassification": _paired,
    "STS": _compared,
}


def _ranked(frame: pd.DataFrame, split: str) -> dict[str, Any]:
    """Return queries, texts to rank and which of them are relevant, as mteb's retrieval tasks hold them.

    Equal scores are ranked by id, so the ids follow a seeded shuffle: were the positives first, a
    layer that gives every text the same vector would rank perfectly.
    """
    from datasets import Dataset

    generator = np.random.default_rng(0)
    texts: list[dict[str, str]] = []
    queries: list[dict[str, str]] = []
    relevant: dict[str, dict[str, int]] = {}
    ranked: dict[str, list[str]] = {}
    columns = (frame["query"].tolist(), frame["positive"].tolist(), frame["negative"].tolist())
    for number, (text, positive, negative) in enumerate(zip(*columns, strict=True)):
        query = f"{split}-{number:06d}"
        places = generator.permutation(len(positive) + len(negative))
        ids = [f"{query}-{place:05d}" for place in places]
        queries.append({"id": query, "text": text})
        texts += [
            {"id": each, "title": "", "text": one}
            for each, one in zip(ids, [*positive, *negative], strict=True)
        ]
        relevant[query] = {each: int(place < len(positive)) for place, each in enumerate(ids)}
        ranked[query] = sorted(ids)
    return {
        "corpus": Dataset.from_list(texts),
        "queries": Dataset.from_list(queries),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }
