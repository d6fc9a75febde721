"""Every layer as an encoder that reads its vectors from a bank, scored by mteb's own evaluators."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from layerscope.analysis.threads import one_thread_each
from layerscope.data.files import write_json
from layerscope.errors import LayerscopeError, UndefinedError
from layerscope.evaluation.experiments import Experiments, layer_meta
from layerscope.evaluation.tasks import TaskPlan
from layerscope.settings import EvaluateConfig
from layerscope.states.bank import hash_of
from layerscope.states.encode import BankEncoder
from layerscope.states.extract import Progress, Site, silent
from layerscope.states.store import Array

_BATCH: Final = (
    1024  # texts that mteb hands over at a time; they are read from the bank, not encoded
)
_NOISY: Final = ("mteb", "datasets", "sentence_transformers", "huggingface_hub")


class LayerEncoder:
    """One site of a model as mteb's `EncoderProtocol`.

    The first site that is asked for a text has it run through the model, which fills the bank for all
    sites; the others only read.

    Args:
        source: the model over its bank.
        site: whose vectors to give.
        settings: prompts, pooling, length of the vectors.

    Attributes:
        seen: the distinct texts that were asked for, by their hash.
        constant: whether all vectors that were given so far are equal.
    """

    def __init__(self, source: BankEncoder, site: Site, settings: EvaluateConfig) -> None:
        self._source, self._site, self._settings = source, site, settings
        self.seen: set[bytes] = set()
        self.constant = True
        self._first: Array | None = None

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        task_metadata: Any = None,
        prompt_type: Any = None,
        **_: Any,
    ) -> Array:
        """Return one vector (text, dim) for each text in batches of texts."""
        texts = [text for batch in inputs for text in batch["text"]]
        before = self._prompt(task_metadata, prompt_type)
        if before:
            texts = [before + text for text in texts]
        self.seen.update(map(hash_of, texts))
        vectors = self._source.vectors(self._site, texts)
        self._first = vectors[0] if self._first is None else self._first
        self.constant = self.constant and bool(np.allclose(vectors, self._first, rtol=1e-5))
        return unit(vectors) if self._settings.normalize else vectors

    def _prompt(self, task: Any, prompt_type: Any) -> str:
        """Return what is put before a text: what was asked, else what the source has for such a task."""
        kind = str(getattr(prompt_type, "value", prompt_type))
        given = self._settings.query_prompt if kind == "query" else None
        given = self._settings.prompt if given is None else given
        serving = self._source.backbone.serving
        if given is not None or serving is None:
            return given or ""
        named: str | None = None
        if task is not None:
            from mteb.models.abs_encoder import get_prompt_name

            named = get_prompt_name(dict(serving.prompts), task, prompt_type)
        return serving.prompt(named, query=kind == "query", document=kind == "document")

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosine of every vector of the one with every vector of the other."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosine of each vector of the one with its counterpart in the other."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> Any:
        """The model, and as an experiment of it what no other layer or pooling shares.

        mteb keeps results by them: without the second it would give one layer's score for another.
        """
        return layer_meta(self._source.backbone.info, self._site, self._settings)


def unit(vectors: Array) -> Array:
    """Return vectors (text, dim) at unit length; one of zeros stays what it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Array = vectors / np.where(lengths > 0, lengths, 1)
    return found


@dataclass(frozen=True)
class Score:
    """The main score of one task at one site.

    Attributes:
        value: in mteb's own unit.
        n: scored examples, None if unknown.
        seed: of the task, None if it has none.
        texts: distinct texts that the task reads.
        seconds: that it took, with the encoding of the texts that the bank lacked.
    """

    value: float
    n: int | None
    seed: int | None
    texts: int
    seconds: float


@dataclass(frozen=True)
class TaskScores:
    """What came of some tasks.

    Attributes:
        scores: name of a task -> the score of each site that has one.
        failed: name of a task -> why it has none.
        undefined: name of a task -> the sites at which mteb gives no number, each with the reason.
    """

    scores: dict[str, dict[Site, Score]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    undefined: dict[str, dict[Site, str]] = field(default_factory=dict)


def score_tasks(
    source: BankEncoder,
    plans: Sequence[TaskPlan],
    sites: Sequence[Site],
    settings: EvaluateConfig,
    *,
    parts: Path | None = None,
    known: Mapping[str, Mapping[Site, Score]] | None = None,
    experiments: Experiments | None = None,
    progress: Progress = silent,
) -> TaskScores:
    """Score every site on every task.

    Args:
        source: the model over its bank.
        plans: the tasks.
        sites: where the model is read.
        settings: prompts, pooling, length of vectors.
        parts: where finished scores are kept for a resumed run; None keeps none.
        known: name of a task -> scores that need not be made again.
        experiments: where mteb's results of each layer are written; a score whose result is not there
            is made again.
        progress: called after every score.

    Raises:
        LayerscopeError: the model or the disk failed, which no other task would mend.
    """
    outcome = TaskScores()
    total = len(plans) * len(sites)
    with quiet():
        for number, plan in enumerate(plans):
            done = dict((known or {}).get(plan.name, {})) | _finished(parts, plan, sites)
            if experiments is not None:
                done = {s: score for s, score in done.items() if experiments.holds(plan, s)}

            def shown(place: int, before: int = number * len(sites)) -> None:
                progress("scoring layers", before + place, total)

            try:
                undefined = _score_sites(
                    source, plan, sites, settings, done,
                    parts=parts, experiments=experiments, shown=shown,
                )  # fmt: skip
            except _TaskError as error:
                outcome.failed[plan.name] = str(error)
                continue
            outcome.scores[plan.name] = {site: done[site] for site in sites if site in done}
            if undefined:
                outcome.undefined[plan.name] = undefined
    progress("scoring layers", total, total)
    return outcome


def _score_sites(
    source: BankEncoder,
    plan: TaskPlan,
    sites: Sequence[Site],
    settings: EvaluateConfig,
    done: dict[Site, Score],
    *,
    parts: Path | None,
    experiments: Experiments | None,
    shown: Callable[[int], None],
) -> dict[Site, str]:
    """Add to `done` the scores that it lacks, and return why sites have none.

    Raises:
        _TaskError: no site has one.
    """
    undefined: dict[Site, str] = {}
    for place, site in enumerate(sites):
        shown(place)
        if site in done:
            continue
        try:
            done[site] = _score(source, plan, site, settings, experiments)
        except UndefinedError as error:
            undefined[site] = str(error)
        else:
            _keep(parts, plan, site, done[site])
    if len(undefined) == len(sites):
        raise _TaskError(next(iter(undefined.values())))
    return undefined


class _TaskError(Exception):
    """One task cannot be scored; the message is the reason that the record keeps."""


def _score(
    source: BankEncoder,
    plan: TaskPlan,
    site: Site,
    settings: EvaluateConfig,
    experiments: Experiments | None,
) -> Score:
    """Score one site on one task with mteb's own evaluator, on a task object of its own."""
    started = time.perf_counter()
    encoder = LayerEncoder(source, site, settings)
    try:
        task = plan.build()
    except Exception as error:  # whatever the hub or a file raises
        raise _TaskError(_reason(error)) from error
    try:
        with one_thread_each():
            found = task.evaluate(
                encoder,
                plan.split,
                subsets_to_run=[plan.subset],
                encode_kwargs={"batch_size": _BATCH, "show_progress_bar": False},
            )
        value = float(found[plan.subset][plan.metric])
    except LayerscopeError:  # ours: the model or the disk
        raise
    except Exception as error:
        raise _TaskError(f"at {site}: {_reason(error)}") from error
    if math.isnan(value):
        why = f"mteb's {plan.metric} is not a number"
        if encoder.constant:  # as of the first token's embedding, which is the same for all texts
            why += ", because all vectors are equal there"
        raise UndefinedError(f"at {site}: {why}")
    seconds = round(time.perf_counter() - started, 3)
    if experiments is not None:
        experiments.write(plan, site, task, found, seconds)
    return Score(
        value=value,
        n=_examples(task, plan),
        seed=getattr(task, "seed", None),
        texts=len(encoder.seen),
        seconds=seconds,
    )


def _reason(error: Exception) -> str:
    """Return an error's first line; of an error that is not layerscope's, with its type before it."""
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, LayerscopeError) else f"{type(error).__name__}: {first}"


def _examples(task: Any, plan: TaskPlan) -> int | None:
    """Return how many examples were scored: rows, or queries of a ranking."""
    data = task.dataset.get(plan.subset, task.dataset)
    rows = data[plan.split]
    rows = rows["queries"] if isinstance(rows, dict) else rows
    nested = len(rows) and any(isinstance(value, list) for value in rows[0].values())
    return None if nested else len(rows)


# --- finished scores ---------------------------------------------------------------------------


def _part(parts: Path, plan: TaskPlan, site: Site) -> Path:
    """Return the file of one score; other data or another metric would give it another name."""
    facts = [plan.name, plan.metric, plan.split, plan.subset, plan.revision]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    short = re.sub(r"[^\w.-]+", "-", plan.name)
    return parts / f"score-{short}-{digest}-{site}.json"


def _keep(parts: Path | None, plan: TaskPlan, site: Site, score: Score) -> None:
    if parts is not None:
        write_json(_part(parts, plan, site), asdict(score))


def _finished(parts: Path | None, plan: TaskPlan, sites: Sequence[Site]) -> dict[Site, Score]:
    """Return the scores that an earlier run finished."""
    found: dict[Site, Score] = {}
    if parts is None:
        return found
    for site in sites:
        try:
            content = _part(parts, plan, site).read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        found[site] = Score(**json.loads(content))
    return found


# --- output of other libraries ------------------------------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars, logs and warnings of mteb and the libraries that it uses."""
    from datasets.utils import logging as bars

    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            bars.enable_progress_bar()
