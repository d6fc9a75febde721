"""What mteb scores some vectors on the labelled tasks; what was scored before is read from its file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from benchmarks import corpora
from benchmarks.readouts import vectors
from layerscope.data.files import write_json
from layerscope.evaluation import run as evaluation
from layerscope.evaluation.tasks import TaskPlan
from layerscope.settings import EvaluateConfig
from layerscope.states.encode import BankEncoder
from layerscope.states.extract import Site
from layerscope.states.store import Array

SETS = {"development": corpora.DEVELOPMENT, "untouched": corpora.UNTOUCHED}
VectorsOf = Callable[[Sequence[str]], Array]


class _Given(BankEncoder):
    """A source of vectors for mteb that a function makes."""

    def __init__(self, vectors_of: VectorsOf) -> None:
        self._vectors_of = vectors_of
        info = SimpleNamespace(
            name="readout", revision="", dtype="float32", weights_fingerprint="none", dim=1
        )
        self.backbone: Any = SimpleNamespace(info=info, serving=None)

    def vectors(self, site: Site, texts: Sequence[str]) -> Array:  # noqa: ARG002
        return self._vectors_of(texts)


@cache
def task_plans() -> dict[str, TaskPlan]:
    """Return how mteb scores each subset; the data are loaded once a process."""
    return corpora.plans(vectors.RUNS / "tasks")


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
    file = vectors.folder_of(model) / "scores" / _file_name(name)
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
