"""Probes on the classifications of an evaluation, made or found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerscope.encoding import TokenPolicy
from layerscope.errors import InputError
from layerscope.evaluation.probes import ProbeScore, ProbeSettings, probe
from layerscope.evaluation.settings import EvaluationSettings
from layerscope.evaluation.tasks import TaskPlan
from layerscope.files import write_json
from layerscope.models import Backbone
from layerscope.preparation import Progress, silent
from layerscope.states import Site


@dataclass(frozen=True)
class Probed:
    """The probes of one classification.

    Attributes:
        facts: how they were made, for the record.
        scores: one a site and kind.
    """

    facts: dict[str, Any]
    scores: tuple[ProbeScore, ...]


def refuse_nothing_to_probe(plans: Sequence[TaskPlan], settings: EvaluationSettings) -> None:
    """Refuse probes where no task has classes.

    Raises:
        InputError: none of the tasks is a classification.
    """
    if settings.probes and not _classifications(plans):
        raise InputError(
            "probes are trained on classes, and none of the tasks is a Classification; name one, or "
            "leave --probe out."
        )


def _classifications(plans: Sequence[TaskPlan]) -> list[TaskPlan]:
    return [plan for plan in plans if plan.kind == "Classification"]


def run_probes(
    backbone: Backbone,
    plans: Sequence[TaskPlan],
    sites: Sequence[Site],
    settings: EvaluationSettings,
    policy: TokenPolicy,
    *,
    parts: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Probed]:
    """Train the probes that the settings ask for on every classification among the tasks.

    Args:
        backbone: the model.
        plans: the tasks.
        sites: where the model is read.
        settings: kinds of probes and their seed.
        policy: which tokens count, decided.
        parts: where finished probes are kept for a resumed run; None keeps none.
        progress: told of the tokens read and the probes trained.
    """
    if not settings.probes:
        return {}
    chosen = ProbeSettings(
        kinds=settings.probes,
        policy=policy,
        batch_tokens=settings.batch_tokens,
        seed=settings.seed,
    )
    found: dict[str, Probed] = {}
    for plan in _classifications(plans):
        facts = _facts(plan, chosen)
        part = None if parts is None else parts / f"probe-{_digest(plan.name, facts, sites)}.json"
        if part is not None and part.exists():
            kept = json.loads(part.read_text(encoding="utf-8"))
            scores = [ProbeScore(**score) for score in kept]
        else:
            scores = probe(backbone, plan, chosen, sites=sites, progress=progress)
            if part is not None:
                write_json(part, [asdict(score) for score in scores])
        found[plan.name] = Probed(facts | {"majority": scores[0].majority}, tuple(scores))
    return found


def _facts(plan: TaskPlan, settings: ProbeSettings) -> dict[str, Any]:
    return {
        "split": plan.split,
        "subset": plan.subset,
        "revision": plan.revision,
        "kinds": list(settings.kinds),
        "train_texts": settings.train_texts,
        "test_texts": settings.test_texts,
        "max_tokens": settings.max_tokens,
        "special_tokens": settings.policy.special_tokens,
        "first_token": settings.policy.first_token.value,
        "seed": settings.seed,
    }


def _digest(task: str, facts: Mapping[str, Any], sites: Sequence[Site]) -> str:
    """Name the kept probes of a task; two tasks may share the revision of one data set."""
    said = json.dumps([task, dict(facts), [str(site) for site in sites]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:12]
