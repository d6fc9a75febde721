"""`evaluate`: every layer scored on labelled tasks, and the `Evaluation` that it returns."""

from __future__ import annotations

import tempfile
import time
from collections import ChainMap
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Unpack

import pandas as pd
import torch
from torch import nn

from layerscope.api.common import (
    Model,
    Pictures,
    Result,
    Tables,
    Tasks,
    Tokenizer,
    loaded,
    plan_of,
    refuse_tokenizer,
)
from layerscope.api.keywords import EvaluateSettings
from layerscope.api.plans import ShowProgress, command, part, shown_progress
from layerscope.config import AnyPath, Exactly, Flag
from layerscope.data.files import refuse_unwritable
from layerscope.decisions.gains import task_name
from layerscope.errors import InputError, RunError
from layerscope.evaluation.datasets import require_extra
from layerscope.evaluation.estimates import EvaluationEstimates, estimate_tasks
from layerscope.evaluation.experiments import Experiments, refuse_no_results_folder
from layerscope.evaluation.images import plan_of_images
from layerscope.evaluation.probes import refuse_nothing_to_probe, run_probes
from layerscope.evaluation.results import (
    evaluation_versions,
    known_scores,
    merged,
    refuse_other_run,
)
from layerscope.evaluation.run import (
    TaskScores,
    quiet,
    score_tasks,
)
from layerscope.evaluation.tasks import TaskPlan, resolve
from layerscope.models.backbone import Backbone
from layerscope.models.serving import as_served
from layerscope.results.display import IMAGES
from layerscope.results.folder import RunFolder
from layerscope.results.table import RECORD_FILE, TASK, Run, load_run
from layerscope.settings import EvaluateConfig, ModelOptions
from layerscope.states.bank import refuse_no_bank
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.states.extract import Progress, sites_of

BANK = "bank"
_MADE_BY: Final = ("layerscope", "torch", "transformers", "mteb", "scikit-learn")


class Evaluation(Result):
    """What an evaluation found, beside what its run held before."""

    def task_rows(self) -> pd.DataFrame:
        """Return the rows of the table that are scores."""
        return self.run.table[self.run.table["level"] == TASK].reset_index(drop=True)

    def scores(self) -> pd.DataFrame:
        """Return the scores, a row a site (layer, stage) and a column a task."""
        rows = self.task_rows().assign(data=lambda frame: frame["metric"].map(task_name))
        wide = rows.pivot(index=["layer", "stage"], columns="data", values="value")
        sites = sorted(wide.index, key=lambda site: (site[0], site[1] == "final_norm"))
        return wide.loc[sites, list(dict.fromkeys(rows["data"]))]


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation that only the model can still refuse.

    Attributes:
        model: to load, or loaded.
        tasks: to score.
        config: the settings.
        place: where the run goes, or None.
        bank: folder for the pooled vectors; None for one in `place`, or a temporary one.
        mteb_results: folder for mteb's results of each layer, or None.
        tokenizer: of a loaded model.
        options: how to load the model.
        show_progress: whether, or the function that shows it.
    """

    model: str | Path | nn.Module
    tasks: tuple[TaskPlan, ...]
    config: EvaluateConfig
    place: RunFolder | None = None
    bank: Path | None = None
    mteb_results: Path | None = None
    tokenizer: Any = None
    options: ModelOptions | None = None
    show_progress: bool | Progress = True

    @property
    def _folder(self) -> Path | None:
        return self.bank or (self.place.path / BANK if self.place else None)

    def _loaded(self, progress: Progress) -> Backbone:
        images = any(plan.sees for plan in self.tasks)
        return loaded(self.model, self.tokenizer, self.options, progress, images=images)

    def estimate(self) -> EvaluationEstimates:
        """Return what the evaluation would take in time, memory and disk."""
        with shown_progress(self.show_progress) as progress:
            backbone = self._loaded(progress)
            settings, _ = as_served(self.config, backbone.serving)
            return estimate_tasks(backbone, self.tasks, settings, self._folder)

    def run(self) -> Evaluation:
        """Encode what the bank lacks, score every layer, and save the run if it has a place."""
        place = self.place
        with ExitStack() as stack:
            if place:
                stack.enter_context(place.claimed(beside=True))
            base = _finished(place)
            progress = stack.enter_context(shown_progress(self.show_progress))
            started = time.perf_counter()
            backbone = self._loaded(progress)
            if base is not None and place is not None:
                refuse_other_run(base, backbone.info, {}, str(place.path))
            settings, notes = as_served(self.config, backbone.serving)
            if place:
                place.open_parts(_identity(backbone, settings))
            folder = self._folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            run = _evaluated(
                backbone, self.tasks, settings, folder, place, base, progress, notes,
                mteb_results=self.mteb_results,
                load_seconds=time.perf_counter() - started,
            )  # fmt: skip
            if place is None:
                return Evaluation(run)
            write = place.finish if base is None else place.update
            found = Evaluation(run, place.path)
            write(run, found.page())
            return found


@command(EvaluateConfig, ModelOptions)
def evaluate(
    model: Model,
    tasks: Tasks = (),
    config: Exactly[EvaluateConfig] | None = None,
    *,
    task_data: AnyPath | None = None,
    tables: Tables = (),
    images: Pictures | None = None,
    out: AnyPath | None = None,
    bank: AnyPath | None = None,
    mteb_results: AnyPath | None = None,
    overwrite: Flag = False,
    tokenizer: Tokenizer = None,
    show_progress: ShowProgress = True,
    **settings: Unpack[EvaluateSettings],
) -> EvaluationPlan:
    """Score every layer of a model on tasks of mteb, from one pass over their texts.

    Args:
        model: a hub id, a local folder, a GGUF file, a `SentenceTransformer` or a loaded transformers
            model (give `tokenizer`).
        tasks: names of mteb's tasks, of folders in `task_data`, "paper32", or paths of tables.
        config: the settings as one object; single settings below change it.
        task_data: a folder with a folder for each task; what it holds is not asked of the hub.
        tables: one or several labelled files or tables in Python (data frames, `datasets`, dicts of
            columns): text and label, two texts and a score or label, or a ranking; or folders in the
            BEIR layout.
        images: labelled images in place of tasks, for a model of images: a folder with a subfolder for
            each class (under train and test, or halved), or a table as of `scan` with a column `label`.
        out: folder for the run, or a finished run of the same model, whose measures the scores are
            added to; None writes nothing.
        bank: folder for the pooled vectors, to share between runs; by default in `out`.
        mteb_results: folder of an `mteb.ResultCache`, to which mteb's own results are written, each layer
            as an experiment of the model; None writes none.
        overwrite: whether scores that `out` holds may be replaced.
        tokenizer: of a loaded model, which needs it, or its image processor; a model given by name has
            its own.
        show_progress: as of `scan`.
        settings: any field of `EvaluateConfig` and `ModelOptions` (how the model is loaded).

    Raises:
        InputError: something given cannot be used; the message says what and what to do.
        RunError: the model or the disk failed, or no task could be scored.
    """
    chosen, options = part(EvaluateConfig, settings, config), part(ModelOptions, settings)
    refuse_tokenizer(model, tokenizer)
    require_extra()
    with quiet():
        if images is None:
            plans = resolve(_names(tasks), task_data=_path(task_data), tables=tables)
        else:
            _refuse_of_texts(chosen, bool(_names(tasks) or tables))
            plans = (plan_of_images(images),)
    _refuse_both(plans)
    refuse_nothing_to_probe(plans, chosen)
    place = RunFolder(Path(out), overwrite) if out is not None else None
    if place:
        place.claim(beside=True)
        _finished(place)  # refused now if it cannot be read
    folder = _path(bank)
    if folder is not None:
        refuse_no_bank(folder)
    results = _path(mteb_results)
    if results is not None:
        refuse_no_results_folder(results)
    return EvaluationPlan(
        model, tuple(plans), chosen, place, folder, results, tokenizer, options, show_progress
    )


def _refuse_of_texts(settings: EvaluateConfig, tasks: bool) -> None:
    """Refuse what has a meaning for texts alone.

    Raises:
        InputError: tasks, tables or prompts beside images.
    """
    given = {
        "tasks and tables": tasks,
        "a prompt": bool(settings.prompt or settings.query_prompt),
    }
    if wrong := [name for name, asked in given.items() if asked]:
        raise InputError(f"{' and '.join(wrong)} are of texts; leave them out, or the images.")


def _refuse_both(plans: Sequence[TaskPlan]) -> None:
    """Refuse tasks of images beside tasks of texts, which no one model reads.

    Raises:
        InputError: there are both.
    """
    names = {sees: ", ".join(p.name for p in plans if p.sees == sees) for sees in (True, False)}
    if all(names.values()):
        raise InputError(
            f"{names[True]} are of images, {names[False]} are of texts; score them in two runs."
        )


def _evaluated(
    backbone: Backbone,
    plans: Sequence[TaskPlan],
    settings: EvaluateConfig,
    folder: Path,
    place: RunFolder | None,
    base: Run | None,
    progress: Progress,
    notes: Sequence[str],
    *,
    mteb_results: Path | None,
    load_seconds: float,
) -> Run:
    started = time.perf_counter()
    opened = open_bank(folder, backbone, TokenPolicy.of_config(settings))
    decided = settings.changed(
        first_token=opened.policy.first_token, max_length=opened.policy.max_length
    )
    known = {}
    if base is not None and place is not None and not place.overwrite:
        refuse_other_run(base, backbone.info, decided.deciding(), str(place.path))
        known = known_scores(base, plans)
    # Those of a task of mteb are known once it is built, so they are looked up in the plans.
    pictures = ChainMap(*[plan.pictures for plan in plans])
    source = BankEncoder(
        backbone,
        opened,
        decided.pools,
        poolings=decided.bank_poolings,
        batch_tokens=decided.batch_tokens,
        pictures=pictures,
        progress=progress,
    )
    sites = sites_of(backbone, decided.layers)
    parts = place.parts if place else None
    experiments = Experiments(mteb_results, backbone.info, decided) if mteb_results else None
    outcome = score_tasks(
        source, plans, sites, decided,
        parts=parts, known=known, experiments=experiments, progress=progress,
    )  # fmt: skip
    _refuse_nothing_scored(outcome)
    scorable = [plan for plan in plans if plan.name in outcome.scores]
    probes = run_probes(
        backbone, scorable, sites, decided, opened.policy, parts=parts, progress=progress
    )
    seconds = time.perf_counter() - started
    evaluation: dict[str, Any] = {
        "settings": decided.deciding(),
        "first_token_ratio": opened.first_token_ratio,
        "encoded": source.encoded.as_dict(),
        "bank": {"folder": str(folder), "texts": len(opened.bank), "bytes": opened.bank.size},
        "versions": evaluation_versions(),
        "threads": torch.get_num_threads(),
        "times": {
            "load": round(load_seconds, 3),
            "encode": round(source.encoded.seconds, 3),
            "score": round(seconds - source.encoded.seconds, 3),
            "total": round(load_seconds + seconds, 3),
        },
        "notes": [*notes, *source.notes],
    }
    if any(plan.sees for plan in plans):
        evaluation["kind"] = IMAGES
    return merged(base, plans, outcome, backbone.info.as_dict(), evaluation, probes)


def _refuse_nothing_scored(outcome: TaskScores) -> None:
    if not outcome.scores:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in outcome.failed.items())
        raise RunError(f"no task could be scored: {reasons}")


def _finished(place: RunFolder | None) -> Run | None:
    """Return the finished run in a folder, None if there is none."""
    if place is None or not (place.path / RECORD_FILE).is_file():
        return None
    refuse_unwritable(place.path)
    return load_run(place.path)


def _identity(backbone: Backbone, settings: EvaluateConfig) -> dict[str, Any]:
    found = evaluation_versions()
    made_by = {name: found[name] for name in _MADE_BY}
    return plan_of(backbone, made_by) | settings.deciding()


def _names(tasks: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.strip() for name in tasks if name.strip())


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given).expanduser()
