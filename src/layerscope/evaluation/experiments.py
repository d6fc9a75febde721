"""Every layer as an experiment of one model in a folder that `mteb.ResultCache` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from layerscope.data.files import explained_write_error, refuse_unwritable
from layerscope.errors import InputError
from layerscope.evaluation.tasks import TaskPlan
from layerscope.models.backbone import ModelInfo
from layerscope.settings import EvaluateConfig
from layerscope.states.extract import Site


def layer_meta(info: ModelInfo, site: Site, settings: EvaluateConfig) -> Any:
    """Return what mteb keeps one layer's results under: its model, and the layer as an experiment.

    mteb asks for a name with an organization; a model without one gets "layerscope". The revision is
    the commit on the hub, or the fingerprint of the weights of any other model.
    """
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    parts = [re.sub(r"[^\w.-]+", "-", part).strip("-") for part in info.name.split("/")]
    short = parts[-1] or "model"
    made = {"layer": site.layer, "stage": site.stage, "dtype": info.dtype, **settings.deciding()}
    is_commit = re.fullmatch(r"[0-9a-f]{40}", info.revision)
    return ModelMeta.create_empty(
        {
            "name": f"{(len(parts) > 1 and parts[-2]) or 'layerscope'}/{short}",
            "revision": info.revision if is_commit else info.weights_fingerprint,
            "similarity_fn_name": ScoringFunction.COSINE,
            "embed_dim": info.dim,
            # What is left to the model names nothing, but an empty prompt is a choice.
            "experiment_kwargs": {name: value for name, value in made.items() if value is not None},
        }
    )


def refuse_no_results_folder(folder: Path) -> None:
    """Refuse, before a model is loaded, a file or a folder that cannot be written to.

    Raises:
        InputError: it is one of these.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder for mteb's results, {str(folder)!r} is a file.")
    refuse_unwritable(folder)


@dataclass(frozen=True)
class Experiments:
    """Results of mteb, one experiment a layer, in a folder that may hold others.

    Attributes:
        folder: the `cache_path` of mteb's `ResultCache`.
        info: the model.
        settings: how its vectors are made.
    """

    folder: Path
    info: ModelInfo
    settings: EvaluateConfig

    def holds(self, plan: TaskPlan, site: Site) -> bool:
        """Whether a task's result at a layer is there, of the same data and version of mteb."""
        kept = self._kept(plan, site)
        return (
            kept is not None
            and kept.dataset_revision == plan.revision
            and any(
                (scores["hf_subset"], scores.get("mteb_version")) == (plan.subset, version("mteb"))
                for scores in kept.scores.get(plan.split, ())
            )
        )

    def write(
        self, plan: TaskPlan, site: Site, task: Any, scores: Mapping[str, Any], seconds: float
    ) -> None:
        """Write what `task.evaluate` returned, beside other splits and subsets of the task.

        Raises:
            RunError: the disk is full.
            InputError: the folder cannot be written to.
        """
        from mteb.results import TaskResult

        result = TaskResult.from_task_results(
            task, {plan.split: scores}, evaluation_time=seconds, date=datetime.now(UTC)
        )
        kept = self._kept(plan, site)
        if kept is not None and kept.is_mergeable(result):
            result = kept.merge(result)
        try:
            self._cache().save_to_cache(result, layer_meta(self.info, site, self.settings))
        except OSError as error:
            raise explained_write_error(error, self._path(plan, site)) from error

    def _kept(self, plan: TaskPlan, site: Site) -> Any:
        from mteb.results import TaskResult

        try:
            return TaskResult.from_disk(self._path(plan, site))
        except (OSError, ValueError):  # nothing there, or half of a file that a kill left
            return None

    def _path(self, plan: TaskPlan, site: Site) -> Path:
        meta = layer_meta(self.info, site, self.settings)
        found: Path = self._cache().get_task_result_path(plan.name, meta)
        return found

    def _cache(self) -> Any:
        from mteb.cache import ResultCache

        return ResultCache(self.folder)
