"""Scores -> rows of the long table and a record, alone or added to an existing run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import pandas as pd

from layerscope.errors import InputError
from layerscope.evaluation.probes import Probed
from layerscope.evaluation.run import Score, TaskScores
from layerscope.evaluation.tasks import TaskPlan
from layerscope.models.backbone import OLDER, ModelInfo, is_older_fingerprint
from layerscope.results.folder import versions
from layerscope.results.table import TASK, Run, conform, no_contributions
from layerscope.states.extract import Site

_IDENTITY: Final = ("type", "metric", "split", "subset", "revision", "mteb")


def metric_of(plan: TaskPlan) -> str:
    """Return the name of a task's main score in the table."""
    return f"mteb/{plan.name}/{plan.metric}"


def task_rows(
    plan: TaskPlan, scores: Mapping[Site, Score], model: Mapping[str, Any]
) -> pd.DataFrame:
    """Return the rows of one task; `model` is the record's: name, revision, blocks."""
    return _rows(
        plan.name,
        model,
        [
            _place(site.layer, site.stage, model)
            | {
                "metric": metric_of(plan),
                "value": score.value,
                "n": score.n,
                "seed": score.seed,
            }
            for site, score in scores.items()
        ],
    )


def probe_rows(name: str, probed: Probed, model: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of one classification's probes; `model` is the record's."""
    return _rows(
        name,
        model,
        [
            _place(score.layer, score.stage, model)
            | {
                "metric": f"probe/{name}/{score.kind}_accuracy",
                "value": score.accuracy,
                "low": score.low,
                "high": score.high,
                "n": score.n,
                "seed": probed.facts["seed"],
            }
            for score in probed.scores
        ],
    )


def _place(layer: int, stage: str, model: Mapping[str, Any]) -> dict[str, Any]:
    return {"layer": layer, "depth": layer / model["blocks"], "stage": stage}


def _rows(data: str, model: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows of one data set's scores, with what all of them say alike."""
    alike = {"data": data, "perturbation": "none", "level": TASK, "convention": ""}
    whose = {"model": model["name"], "revision": model["revision"]}
    return conform(pd.DataFrame(rows).assign(**whose, **alike))


def task_facts(
    plan: TaskPlan,
    scores: Mapping[Site, Score],
    undefined: Mapping[Site, str],
    spent: float = 0.0,
) -> dict[str, Any]:
    """Return what the record says of a task.

    Args:
        plan: the task.
        scores: of its sites.
        undefined: sites without a score, with the reason.
        spent: seconds of earlier runs.
    """
    return _identity(plan) | {
        "source": plan.source,
        "texts": max(score.texts for score in scores.values()),
        "seconds": round(spent + sum(score.seconds for score in scores.values()), 3),
        "notes": [*plan.notes, *(f"no score {reason}." for reason in undefined.values())],
    }


def _identity(plan: TaskPlan) -> dict[str, Any]:
    """What must be the same for two scores of one name to be scores of one thing."""
    found = (plan.kind, plan.metric, plan.split, plan.subset, plan.revision, version("mteb"))
    return dict(zip(_IDENTITY, found, strict=True))


def known_scores(run: Run, plans: Sequence[TaskPlan]) -> dict[str, dict[Site, Score]]:
    """Return the scores that a run holds already of the same tasks on the same data."""
    found: dict[str, dict[Site, Score]] = {}
    table = run.table[run.table["level"] == TASK]
    for plan in plans:
        facts = run.record.get("tasks", {}).get(plan.name, {})
        if {name: facts.get(name) for name in _IDENTITY} != _identity(plan):
            continue
        rows = table[table["metric"] == metric_of(plan)].to_dict("records")
        found[plan.name] = {
            Site(int(row["layer"]), str(row["stage"])): Score(
                float(row["value"]), _whole(row["n"]), _whole(row["seed"]), int(facts["texts"]), 0.0
            )
            for row in rows
        }
    return found


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def refuse_other_run(run: Run, model: ModelInfo, deciding: Mapping[str, Any], where: str) -> None:
    """Refuse to add scores to a run of another model or other settings.

    Raises:
        InputError: which of them differ.
    """
    found = run.record.get("model", {})
    name = found.get("name", "another model")
    if is_older_fingerprint(found.get("weights_fingerprint")):
        raise InputError(f"{where!r} holds a run {OLDER}; scan again into another --out folder.")
    if found.get("weights_fingerprint") != model.weights_fingerprint:
        raise InputError(
            f"{where!r} holds a run of {name}, whose weights or dtype are others than this model's; "
            "choose another --out folder."
        )
    for part in ("tokenizer", "config"):
        if found.get(f"{part}_fingerprint") != getattr(model, f"{part}_fingerprint"):
            raise InputError(
                f"{where!r} holds a run of {name} with another {part}; choose another --out folder."
            )
    made_with = run.record.get("evaluation", {}).get("settings")
    if made_with is None:
        return
    differing = [name for name in deciding if made_with.get(name) != deciding[name]]
    if differing:
        listed = ", ".join(
            f"{name.replace('_', ' ')} ({made_with.get(name)} there, {deciding[name]} now)"
            for name in differing
        )
        raise InputError(
            f"{where!r} holds scores made with another {listed}; pass --overwrite to replace them, or "
            "choose another --out folder."
        )


def merged(
    base: Run | None,
    plans: Sequence[TaskPlan],
    outcome: TaskScores,
    model: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    probes: Mapping[str, Probed] | None = None,
) -> Run:
    """Return a run with these scores, added to another run of the same model.

    Args:
        base: a run of the same model; None makes a run of the scores alone.
        plans: the tasks that were asked for.
        outcome: what came of them.
        model: the record's facts of the model.
        evaluation: how the scores were made.
        probes: name of a classification -> its probes.
    """
    old = base or Run(conform(_nothing()), no_contributions(), _empty_record(model, evaluation))
    labels = old.record["model"]
    by_name = {plan.name: plan for plan in plans}
    frames = [task_rows(by_name[name], found, labels) for name, found in outcome.scores.items()]
    probes = probes or {}
    frames += [probe_rows(name, probed, labels) for name, probed in probes.items()]
    kept = _probes_of_the_same_data(old.record.get("probes", {}), plans)
    replaced = {metric for frame in frames for metric in frame["metric"]}
    replaced |= {
        metric
        for name in old.record.get("probes", {}).keys() - kept.keys()
        for metric in old.table["metric"]
        if str(metric).startswith(f"probe/{name}/")
    }
    made_alike = old.record.get("evaluation", {}).get("settings") == evaluation["settings"]
    is_task = old.table["level"] == TASK
    dropped = old.table["metric"].isin(replaced) if made_alike else is_task
    tasks = dict(old.record.get("tasks", {})) if made_alike else {}
    for name, found in outcome.scores.items():
        spent = float(tasks.get(name, {}).get("seconds", 0.0))
        undefined = outcome.undefined.get(name, {})
        tasks[name] = task_facts(by_name[name], found, undefined, spent)
    failures = {
        entry["task"]: entry["reason"]
        for entry in old.record.get("failed_tasks", ())
        if entry["task"] not in outcome.scores
    } | outcome.failed
    record = old.record | {
        "tasks": tasks,
        "failed_tasks": [{"task": task, "reason": why} for task, why in failures.items()],
        "evaluation": dict(evaluation),
    }
    kept = kept if made_alike else {}
    record.pop("probes", None)
    if probes or kept:
        record["probes"] = kept | {name: probed.facts for name, probed in probes.items()}
    if not old.record.get("data"):  # nothing but scores is in it
        record |= {name: evaluation[name] for name in ("versions", "threads", "times")}
    table = pd.concat([old.table[~dropped], *frames], ignore_index=True)
    return Run(conform(table), old.contributions, record, old.readouts)


def _probes_of_the_same_data(
    probes: Mapping[str, Mapping[str, Any]], plans: Sequence[TaskPlan]
) -> dict[str, Any]:
    """Return the facts of probes but for those of a task that reads other data now."""
    now = {
        plan.name: {"split": plan.split, "subset": plan.subset, "revision": plan.revision}
        for plan in plans
    }
    return {
        name: facts
        for name, facts in probes.items()
        if all(facts.get(part) == value for part, value in now.get(name, {}).items())
    }


def _nothing() -> pd.DataFrame:
    return pd.DataFrame({"metric": [], "value": []})


def _empty_record(model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": dict(model),
        "data": {},
        "settings": {},
        "versions": evaluation["versions"],
        "threads": evaluation["threads"],
        "times": evaluation["times"],
        "undefined": [],
        "notes": [],
    }


def evaluation_versions() -> dict[str, str]:
    """Return the versions of everything that can change a score."""
    found = versions()
    for package in ("mteb", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
