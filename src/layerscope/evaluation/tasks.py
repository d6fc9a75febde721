"""Names of tasks and labelled files -> mteb task objects with their data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.data.tables import SUFFIXES
from layerscope.errors import InputError, RunError, unknown_name
from layerscope.evaluation.labels import (
    KINDS,
    binary_labels,
    canonical,
    label_codes,
    numbers,
    strings,
    unrolled,
)
from layerscope.evaluation.requirements import require_extra
from layerscope.evaluation.tables import (
    Table,
    fingerprint,
    listed_tables,
    read_parts,
    read_table,
    split_files,
)

MAIN_SCORES: Final[Mapping[str, str]] = {
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "PairClassification": "max_ap",
    "Reranking": "map_at_1000",
    "STS": "cosine_spearman",
}
_SAMPLE: Final = 16_384  # texts in one clustering experiment at most, as in mteb's own tasks


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


def loaded_from_hub(name: str, split: str, subset: str) -> Any:
    """Return a task of mteb with the data that it loads itself, from the hub or its cache.

    Raises:
        RunError: they cannot be had.
    """
    task = _make_task(name, split, subset)
    try:
        task.load_data()
    except Exception as error:  # whatever the hub, the network, a script or a transform raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RunError(
            f"the data of {name} could not be loaded ({type(error).__name__}: {reason}); with no "
            "network, point --task-data at a folder that has them."
        ) from error
    return task


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
    """Return a task of mteb's class for the kind of a table, with the table's rows."""
    task = _table_class(table)()
    _give_data(task, table.splits, table.source)
    return task


def _table_class(table: Table) -> type:
    """Return a class of mteb's kind for a table, with metadata of our own."""
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
        "STS": AbsTaskSTS,
    }
    facts: dict[str, Any] = {
        "name": table.name,
        "description": f"The table {table.source}",
        "dataset": {"path": table.source, "revision": f"local:{table.fingerprint}"},
        "type": table.kind,
        "category": "t2t" if table.kind in ("Reranking", "STS") else "t2c",
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
    rows = {split: canonical(frame, kind, where) for split, frame in frames.items()}
    data: Any
    if kind == "Reranking":
        task.dataset = {task.hf_subsets[0]: {s: _ranked(frame, s) for s, frame in rows.items()}}
    else:
        data = _FORMS[kind](task, rows, where)
        task.dataset = {task.hf_subsets[0]: data} if task.metadata.is_multilingual else data
    task.data_loaded = True


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


PAPER32: Final = "paper32"
# The tasks of "Layer by Layer" (Skean et al. 2025) with their English subsets. The published scores
# took whichever subset came first, for STS17 another one at each layer.
PAPER32_TASKS: Final[Mapping[str, str]] = {
    "AmazonCounterfactualClassification": "en",
    "AmazonReviewsClassification": "en",
    "Banking77Classification": "default",
    "EmotionClassification": "default",
    "MTOPDomainClassification": "en",
    "MTOPIntentClassification": "en",
    "MassiveIntentClassification": "en",
    "MassiveScenarioClassification": "en",
    "ToxicConversationsClassification": "default",
    "TweetSentimentExtractionClassification": "default",
    "ArxivClusteringS2S": "default",
    "BiorxivClusteringS2S": "default",
    "MedrxivClusteringS2S": "default",
    "RedditClustering": "default",
    "StackExchangeClustering": "default",
    "TwentyNewsgroupsClustering": "default",
    "SprintDuplicateQuestions": "default",
    "TwitterSemEval2015": "default",
    "TwitterURLCorpus": "default",
    "AskUbuntuDupQuestions": "default",
    "MindSmallReranking": "default",
    "SciDocsRR": "default",
    "StackOverflowDupQuestions": "default",
    "BIOSSES": "default",
    "SICK-R": "default",
    "STS12": "default",
    "STS13": "default",
    "STS14": "default",
    "STS15": "default",
    "STS16": "default",
    "STS17": "en-en",
    "STSBenchmark": "default",
}
# Among several English subsets of a task, the one that is meant when none is named.
_PREFERRED_SUBSETS: Final = ("default", "en", "en-en", "eng", "eng-eng")


@dataclass(frozen=True)
class TaskPlan:
    """One task as it will be scored.

    Attributes:
        name: the mteb task's name, or the table's.
        kind: mteb's type, one of `tables.KINDS`.
        metric: the main score, which is kept as the task's.
        split: what is scored.
        subset: the one subset; "default" where a task has no others.
        revision: of the data on the hub, or "local:" and a fingerprint of the files.
        source: "hub:" and the dataset's id, or the local path.
        build: returns a new mteb task object with its data loaded, each time as if it were the
            first: a clustering task carries random state, so that one object scored twice gives two
            numbers. The data are loaded once. Raises `RunError` if they cannot be had and
            `InputError` if their columns do not fit.
        notes: what was done to the data, in sentences.
    """

    name: str
    kind: str
    metric: str
    split: str
    subset: str
    revision: str
    source: str
    build: Callable[[], Any] = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()


def resolve(
    names: Sequence[str],
    *,
    task_data: Path | None = None,
    tables: Any = (),
) -> tuple[TaskPlan, ...]:
    """Return what will be scored for names of tasks and for local tables.

    A name is one of mteb's, with a subset after a colon if not the English one is meant ("STS17",
    "STS17:es-es"); "paper32" for the tasks of the paper; a folder in `task_data`; or the path of a
    table. A kind after a colon decides what a table is scored as ("mine.csv:clustering").

    A folder in `task_data` called after a task ("STSBenchmark", "STS17-en-en") replaces the hub for
    it. One that has a task's name and more ("ArxivClusteringS2S-mini") is scored by that task's
    class, under its own name; any other is a plain table. Local data are taken whole, in the columns
    that mteb's class reads: where it draws a subset of the hub's (ToxicConversationsClassification),
    the folder must hold that subset to give the published number.

    Args:
        names: what to score.
        task_data: a folder with a folder of parquet, jsonl, csv or tsv files a task.
        tables: one or several files, folders or objects for `tables.read_table`, or tables already
            read.

    Raises:
        InputError: a name nobody knows, a type of task that is not scored, data that do not fit.
    """
    if task_data is not None and not task_data.is_dir():
        raise InputError(
            f"expected a folder with a folder for each task, found none at {task_data}."
        )
    plans = [plan for name in _expanded(names) for plan in [_resolve_one(name, task_data)]]
    plans += [plan_table(_table_of(each)) for each in listed_tables(tables)]
    if not plans:
        raise InputError("expected at least one task or table to score, got none.")
    unique: dict[str, TaskPlan] = {}
    for plan in plans:
        if unique.setdefault(plan.name, plan) != plan:
            raise InputError(
                f"two different tasks are called {plan.name!r} (from {unique[plan.name].source} and "
                f"{plan.source}); rename one, or score them in two runs."
            )
    return tuple(unique.values())


def _table_of(given: Any) -> Table:
    if isinstance(given, Table):
        return given
    if isinstance(given, str) and not Path(given).expanduser().exists():
        path, _, kind = given.rpartition(":")
        if path and Path(path).expanduser().exists():
            return read_table(path, kind=kind)
    return read_table(given)


def _expanded(names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        names = names.split(",")
    expanded: list[str] = []
    for name in (name.strip() for name in names):
        if name == PAPER32:
            expanded += [f"{task}:{subset}" for task, subset in PAPER32_TASKS.items()]
        else:
            expanded.append(name)
    return expanded


def _resolve_one(name: str, task_data: Path | None) -> TaskPlan:
    base, _, detail = name.partition(":")
    path = Path(base).expanduser()
    if path.suffix.lower() in SUFFIXES or (path.name != base and path.exists()):
        return plan_table(read_table(path, kind=detail or None))
    require_extra()
    registry = _registry()
    if base in registry:
        return _plan_task(base, detail, _folder_of(base, detail, task_data))
    folder = task_data / base if task_data else None
    if folder is None or not folder.is_dir():
        raise _unknown(base, registry, task_data)
    scored = {name: cls for name, cls in registry.items() if _refusal(cls.metadata) is None}
    task, variant = _variant_of(base, scored)
    if task and variant in registry[task].metadata.hf_subsets:
        return _plan_task(task, variant, folder)
    if task and not detail:
        return _plan_task(task, "", folder, name=base)
    return plan_table(read_table(folder, kind=detail or None))


def _registry() -> dict[str, Any]:
    from mteb.get_tasks import TASK_LIST

    return {cls.metadata.name: cls for cls in TASK_LIST}


def _unknown(name: str, registry: Mapping[str, Any], task_data: Path | None) -> InputError:
    folders = (
        sorted(path.name for path in task_data.iterdir() if path.is_dir()) if task_data else []
    )
    return unknown_name("task", name, dict.fromkeys([*folders, PAPER32, *registry]))


def _variant_of(folder: str, registry: Mapping[str, Any]) -> tuple[str, str]:
    """Return the task after which a folder is called and the rest of its name.

    >>> _variant_of("STS17-en-en", {"STS17": None})
    ('STS17', 'en-en')
    """
    for end in range(len(folder) - 1, 0, -1):
        if folder[end] in "-_" and folder[:end] in registry:
            return folder[:end], folder[end + 1 :]
    return "", ""


def _folder_of(name: str, subset: str, task_data: Path | None) -> Path | None:
    """Return the folder that holds a task's data, or None where the hub is to be asked."""
    if task_data is None:
        return None
    subset = subset or english_subset(name, _registry()[name].metadata)
    for folder in (name, f"{name}-{subset}", f"{name}_{subset}"):
        if (task_data / folder).is_dir():
            return task_data / folder
    if variants := sorted(path.name for path in task_data.glob(f"{name}-*") if path.is_dir()):
        raise InputError(
            f"there is no folder {name!r} in {str(task_data)!r}, but {', '.join(variants)}; name that "
            "one, and the same class of mteb scores it under its own name."
        )
    return None


# --- tasks of mteb -----------------------------------------------------------------------------


def english_subset(name: str, metadata: Any) -> str:
    """Return the English subset of a task, or its only one.

    Raises:
        InputError: several subsets are as good as each other.
    """
    subsets = metadata.hf_subsets_to_langscripts
    if len(subsets) == 1:
        return str(next(iter(subsets)))
    english = [
        str(subset)
        for subset, languages in subsets.items()
        if all(language.startswith("eng-") for language in languages)
    ]
    for preferred in _PREFERRED_SUBSETS:
        if preferred in english:
            return preferred
    if len(english) == 1:
        return english[0]
    raise InputError(
        f"{name} has the subsets {', '.join(english or subsets)}; name one, as {name}:"
        f"{next(iter(english or subsets))}."
    )


def _plan_task(task: str, subset: str, folder: Path | None, name: str = "") -> TaskPlan:
    metadata = _registry()[task].metadata
    if refusal := _refusal(metadata):
        raise InputError(refusal)
    if subset and subset not in metadata.hf_subsets:
        raise unknown_name(f"subset of {task}:", subset, metadata.hf_subsets)
    subset = subset or english_subset(task, metadata)
    split = "test" if "test" in metadata.eval_splits else str(metadata.eval_splits[-1])
    revision, source = str(metadata.dataset["revision"]), f"hub:{metadata.dataset['path']}"
    load: Callable[[], Any] = partial(loaded_from_hub, task, split, subset)
    if folder is not None:
        splits = _splits_of(_registry()[task], split)
        files = _local_files(folder, splits, subset)
        revision = f"local:{fingerprint([file for part in files.values() for file in part])}"
        source = str(folder)
        load = partial(loaded_locally, name or task, task, split, subset, files, revision)
    return TaskPlan(
        name=name or task,
        kind=str(metadata.type),
        metric=str(metadata.main_score),
        split=split,
        subset=subset,
        revision=revision,
        source=source,
        build=Builder(load),
    )


def _refusal(metadata: Any) -> str | None:
    """Return why tasks of this kind are not scored, or None."""
    if metadata.type in KINDS and list(metadata.modalities) == ["text"]:
        return None
    return (
        f"{metadata.name} is a task of type {metadata.type} on {', '.join(metadata.modalities)}; what "
        f"can be scored are texts, of type {', '.join(KINDS)}."
    )


def _splits_of(task: Any, split: str) -> tuple[str, ...]:
    """Return the splits that a task reads: what is scored and, for a classifier, what trains it."""
    train = getattr(task, "train_split", None)
    return tuple(dict.fromkeys((train, split))) if train else (split,)


def _local_files(folder: Path, splits: Sequence[str], subset: str) -> dict[str, list[Path]]:
    files = {split: split_files(folder, split, subset) for split in splits}
    if missing := [split for split, found in files.items() if not found]:
        names = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise InputError(
            f"expected a file {missing[0]} ({', '.join(SUFFIXES)}) in {str(folder)!r}, found {names}."
        )
    return files


# --- tables of the user ------------------------------------------------------------------------


def plan_table(table: Table) -> TaskPlan:
    """Return how a table will be scored: by mteb's own class for its kind."""
    require_extra()
    return TaskPlan(
        name=table.name,
        kind=table.kind,
        metric=MAIN_SCORES[table.kind],
        split="test",
        subset="default",
        revision=f"local:{table.fingerprint}",
        source=table.source,
        build=Builder(partial(loaded_table, table)),
        notes=table.notes,
    )
