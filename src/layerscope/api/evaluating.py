"""`evaluate`: every layer scored on labelled tasks, and the `Evaluation` that it returns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

from layerscope.api.common import (
    Model,
    Result,
    Tables,
    Tasks,
    Tokenizer,
    Watch,
    backbone_for,
    loaded,
    plan_of,
    refuse_tokenizer,
    unwatched,
)
from layerscope.config import AnyPath, Flag, checked
from layerscope.data.files import refuse_unwritable
from layerscope.decisions.gains import task_name
from layerscope.errors import RunError
from layerscope.evaluation.datasets import require_extra
from layerscope.evaluation.probes import refuse_nothing_to_probe, run_probes
from layerscope.evaluation.results import (
    evaluation_versions,
    known_scores,
    merged,
    refuse_other_run,
)
from layerscope.evaluation.run import (
    EvaluationEstimates,
    Outcome,
    estimate_tasks,
    quiet,
    score_tasks,
)
from layerscope.evaluation.tasks import TaskPlan, resolve
from layerscope.models.backbone import Backbone
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


@checked
def evaluate(
    model: Model,
    tasks: Tasks = (),
    *,
    task_data: AnyPath | None = None,
    tables: Tables = (),
    out: AnyPath | None = None,
    bank: AnyPath | None = None,
    overwrite: Flag = False,
    tokenizer: Tokenizer = None,
    model_options: ModelOptions | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Evaluation:
    """Score every layer of a model on tasks of mteb, from one pass over their texts.

    Args:
        model: a hub id, a local folder, a GGUF file, a `SentenceTransformer` or a loaded transformers
            model (give `tokenizer`).
        tasks: names of mteb's tasks, of folders in `task_data`, "paper32", or paths of tables.
        task_data: a folder with a folder for each task; what it holds is not asked of the hub.
        tables: one or several labelled files or tables in Python (data frames, `datasets`, dicts of
            columns): text and label, two texts and a score or label, or a ranking.
        out: folder for the run, or a finished run of the same model, beside whose measures the scores
            are put; None writes nothing.
        bank: folder for the pooled vectors, to share between runs; by default in `out`.
        overwrite: whether scores that `out` holds may be replaced.
        tokenizer: of a loaded model, which needs it; a model given by name has its own.
        model_options: how to load the model: revision, dtype, device.
        watch: opens a progress callback; None shows nothing.
        settings: any field of `EvaluateConfig`.

    Raises:
        InputError: something given cannot be used; the message says what and what to do.
        RunError: the model or the disk failed, or no task could be scored.
    """
    chosen = EvaluateConfig(**settings)
    refuse_tokenizer(model, tokenizer)
    require_extra()
    with quiet():
        plans = resolve(_names(tasks), task_data=_path(task_data), tables=tables)
    refuse_nothing_to_probe(plans, chosen)
    place = RunFolder(Path(out), overwrite) if out is not None else None
    with place.claimed(beside=True) if place else nullcontext():
        base = _finished(place)
        if bank is not None:
            refuse_no_bank(Path(bank).expanduser())
        with ExitStack() as stack:
            progress = stack.enter_context((watch or unwatched)())
            started = time.perf_counter()
            backbone = loaded(model, tokenizer, model_options, progress)
            if base is not None and place is not None:
                refuse_other_run(base, backbone.info, {}, str(place.path))
            if place:
                place.open_parts(_plan(backbone, chosen))
                folder = _path(bank) or place.path / BANK
            else:
                folder = _path(bank) or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            run = _evaluated(
                backbone, plans, chosen, folder, place, base, progress,
                load_seconds=time.perf_counter() - started, overwrite=overwrite,
            )  # fmt: skip
        if place is None:
            return Evaluation(run)
        write = place.finish if base is None else place.update
        found = Evaluation(run, place.path)
        write(run, found.page())
        return found


@checked
def estimate_evaluation(
    model: Model,
    tasks: Tasks = (),
    *,
    task_data: AnyPath | None = None,
    tables: Tables = (),
    out: AnyPath | None = None,
    bank: AnyPath | None = None,
    tokenizer: Tokenizer = None,
    model_options: ModelOptions | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> EvaluationEstimates:
    """Return what an evaluation would take in time, memory and disk; nothing is written."""
    chosen = EvaluateConfig(**settings)
    refuse_tokenizer(model, tokenizer)
    require_extra()
    with quiet():
        plans = resolve(_names(tasks), task_data=_path(task_data), tables=tables)
    folder = _path(bank) or (Path(out) / BANK if out is not None else None)
    if bank is not None and folder is not None:
        refuse_no_bank(folder)
    with (watch or unwatched)():
        backbone = backbone_for(model, tokenizer, model_options)
        return estimate_tasks(backbone, plans, chosen, folder)


def _evaluated(
    backbone: Backbone,
    plans: Sequence[TaskPlan],
    settings: EvaluateConfig,
    folder: Path,
    place: RunFolder | None,
    base: Run | None,
    progress: Progress,
    *,
    load_seconds: float,
    overwrite: bool,
) -> Run:
    started = time.perf_counter()
    opened = open_bank(folder, backbone, TokenPolicy.of_config(settings))
    decided = settings.changed(
        first_token=opened.policy.first_token, max_length=opened.policy.max_length
    )
    known = {}
    if base is not None and not overwrite:
        refuse_other_run(base, backbone.info, decided.deciding(), str(place and place.path))
        known = known_scores(base, plans)
    source = BankEncoder(
        backbone,
        opened,
        decided.pooling,
        poolings=decided.bank_poolings,
        batch_tokens=decided.batch_tokens,
        progress=progress,
    )
    sites = sites_of(backbone, decided.layers)
    parts = place.parts if place else None
    outcome = score_tasks(
        source, plans, sites, decided, parts=parts, known=known, progress=progress
    )
    _refuse_nothing_scored(outcome)
    scorable = [plan for plan in plans if plan.name in outcome.scores]
    probes = run_probes(
        backbone, scorable, sites, decided, opened.policy, parts=parts, progress=progress
    )
    seconds = time.perf_counter() - started
    evaluation = {
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
        "notes": list(source.notes),
    }
    return merged(base, plans, outcome, backbone.info.as_dict(), evaluation, probes)


def _refuse_nothing_scored(outcome: Outcome) -> None:
    if not outcome.scores:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in outcome.failed.items())
        raise RunError(f"no task could be scored: {reasons}")


def _finished(place: RunFolder | None) -> Run | None:
    """Return the finished run in a folder, None if there is none."""
    if place is None or not (place.path / RECORD_FILE).is_file():
        return None
    refuse_unwritable(place.path)
    return load_run(place.path)


def _plan(backbone: Backbone, settings: EvaluateConfig) -> dict[str, Any]:
    found = evaluation_versions()
    made_by = {name: found[name] for name in _MADE_BY}
    return plan_of(backbone, made_by) | settings.deciding()


def _names(tasks: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.strip() for name in tasks if name.strip())


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given).expanduser()
