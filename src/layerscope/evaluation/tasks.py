"""Names of tasks, local folders and labelled tables -> plans of what is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from layerscope.data.images import Picture
from layerscope.data.tables import SUFFIXES
from layerscope.errors import InputError, unknown_name
from layerscope.evaluation.datasets import (
    MAIN_SCORES,
    Builder,
    loaded_from_hub,
    loaded_locally,
    loaded_table,
    require_extra,
)
from layerscope.evaluation.labels import KINDS
from layerscope.evaluation.retrieval import RETRIEVAL, beir_files
from layerscope.evaluation.tables import (
    Table,
    fingerprint,
    listed_tables,
    read_table,
    split_files,
)

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
# mteb's tasks of images, and the type that each is once keys stand for its images.
IMAGE_KINDS: Final = {"ImageClassification": "Classification", "ImageClustering": "Clustering"}
# Among several English subsets of a task, the one that is meant when none is named.
_PREFERRED_SUBSETS: Final = ("default", "en", "en-en", "eng", "eng-eng")


@dataclass(frozen=True)
class TaskPlan:
    """One task as it will be scored.

    Attributes:
        name: the mteb task's name, or the table's.
        kind: mteb's type, one of `tables.KINDS`, of images too.
        metric: the main score, which is kept as the task's.
        split: what is scored.
        subset: the one subset; "default" where a task has no others.
        revision: of the data on the hub, or "local:" and a fingerprint of the files.
        source: "hub:" and the dataset's id, or the local path.
        build: returns a new mteb task object with its data loaded, each time as if it were the
            first: a clustering task carries random state, so that one object scored twice gives two
            numbers. The data are loaded once. Raises `RunError` if they cannot be loaded and
            `InputError` if their columns do not fit.
        notes: what was done to the data, in sentences.
        sees: whether the task is of images, whose keys are its texts.
        pictures: key -> image; those of a task of mteb once it is built.
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
    sees: bool = False
    pictures: dict[str, Picture] = field(default_factory=dict, repr=False, compare=False)


def resolve(
    names: Sequence[str],
    *,
    task_data: Path | None = None,
    tables: Any = (),
) -> tuple[TaskPlan, ...]:
    """Return a plan for each named task and each local table.

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
        task_data: a folder with a folder of parquet, jsonl, csv or tsv files a task; a retrieval has the
            layout of BEIR there.
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
    kind = str(metadata.type)
    sees, pictures = kind in IMAGE_KINDS, dict[str, Picture]()
    load: Callable[[], Any] = partial(
        loaded_from_hub, task, split, subset, pictures if sees else None
    )
    if sees and folder is not None:
        raise InputError(f"{task} is a task of images; give local ones by --images.")
    if folder is not None:
        splits = _splits_of(_registry()[task], split)
        if metadata.type == RETRIEVAL:
            files = beir_files(folder, split)
        else:
            files = _local_files(folder, splits, subset)
        revision = f"local:{fingerprint([file for part in files.values() for file in part])}"
        source = str(folder)
        load = partial(loaded_locally, name or task, task, split, subset, files, revision)
    return TaskPlan(
        name=name or task,
        kind=IMAGE_KINDS.get(kind, kind),
        metric=str(metadata.main_score),
        split=split,
        subset=subset,
        revision=revision,
        source=source,
        build=Builder(load),
        sees=sees,
        pictures=pictures,
    )


def _refusal(metadata: Any) -> str | None:
    """Return why tasks of this kind are not scored, or None."""
    if parts := getattr(metadata, "tasks", None):
        names = ",".join(task.metadata.name for task in parts)
        return f"{metadata.name} is a mean of several tasks; name them: {names}."
    known = {"text": KINDS, "image": IMAGE_KINDS}
    if metadata.type in known.get(", ".join(metadata.modalities), ()):
        return None
    return (
        f"{metadata.name} is a task of type {metadata.type} on {', '.join(metadata.modalities)}; what "
        f"can be scored are texts, of type {', '.join(KINDS)}, and images, of type "
        f"{' or '.join(IMAGE_KINDS)}."
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
