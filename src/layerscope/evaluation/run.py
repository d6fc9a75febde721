"""Every layer as an encoder that reads its vectors from a bank, scored by mteb's own evaluators."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from layerscope.config import Pooling
from layerscope.data.files import write_json
from layerscope.data.tokens import tokenize
from layerscope.errors import LayerscopeError
from layerscope.evaluation.experiments import Experiments, layer_meta
from layerscope.evaluation.tasks import TaskPlan
from layerscope.models.backbone import Backbone
from layerscope.settings import EvaluateConfig
from layerscope.states.bank import description, hash_of
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.states.extract import Progress, Site, groups, silent, sites_of
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
    """

    def __init__(self, source: BankEncoder, site: Site, settings: EvaluateConfig) -> None:
        self._source, self._site, self._settings = source, site, settings
        self.seen: set[bytes] = set()

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        prompt_type: Any = None,
        **_: Any,
    ) -> Array:
        """Return one vector (text, dim) for each text in batches of texts."""
        texts = [text for batch in inputs for text in batch["text"]]
        before = self._prompt(prompt_type)
        if before:
            texts = [before + text for text in texts]
        self.seen.update(map(hash_of, texts))
        vectors = self._source.vectors(self._site, texts)
        return unit(vectors) if self._settings.normalize else vectors

    def _prompt(self, prompt_type: Any) -> str:
        given = self._settings.query_prompt
        is_query = str(getattr(prompt_type, "value", prompt_type)) == "query"
        return given if is_query and given is not None else self._settings.prompt

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
class Outcome:
    """What came of some tasks.

    Attributes:
        scores: name of a task -> the score of each site.
        failed: name of a task -> why it has none.
    """

    scores: dict[str, dict[Site, Score]]
    failed: dict[str, str]


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
) -> Outcome:
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
    outcome = Outcome({}, {})
    total = len(plans) * len(sites)
    with quiet():
        for number, plan in enumerate(plans):
            done = dict((known or {}).get(plan.name, {})) | _finished(parts, plan, sites)
            if experiments is not None:
                done = {s: score for s, score in done.items() if experiments.holds(plan, s)}
            try:
                for place, site in enumerate(sites):
                    progress("scoring layers", number * len(sites) + place, total)
                    if site not in done:
                        done[site] = _score(source, plan, site, settings, experiments)
                        _keep(parts, plan, site, done[site])
            except _TaskError as error:
                outcome.failed[plan.name] = str(error)
                continue
            outcome.scores[plan.name] = {site: done[site] for site in sites}
    progress("scoring layers", total, total)
    return outcome


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
        raise _TaskError(f"at {site}: mteb's {plan.metric} is not a number")
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
    """Return an error in one line; of our own the sentence, of others the type as well."""
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
    """Return where one score is kept, under a name that other data or another metric would change."""
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


# --- other people's noise ----------------------------------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """Keep bars, notes and warnings of mteb and what it uses out of ours."""
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


_FLOAT = 4


@dataclass(frozen=True)
class EvaluationEstimates:
    """What an evaluation would take.

    Attributes:
        tasks: tasks that would be scored.
        failing: tasks whose data cannot be had, with the reason.
        sites: places in the model that would be scored.
        texts: distinct texts of all tasks.
        forward_passes: those that the bank does not hold yet.
        tokens: their tokens, padding not counted.
        pass_seconds: time of the model, extrapolated from one batch by its tokens.
        score_seconds: time of mteb's scoring, extrapolated from one layer of random vectors.
        memory_bytes: weights, one batch's states at one layer, one layer's vectors of one task.
        disk_bytes: what the bank would grow by.
    """

    tasks: int
    failing: dict[str, str]
    sites: int
    texts: int
    forward_passes: int
    tokens: int
    pass_seconds: float
    score_seconds: float
    memory_bytes: int
    disk_bytes: int


class _Collector(BankEncoder):
    """A source that keeps the texts and gives random vectors: it runs no model and writes nothing."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.texts: dict[str, None] = {}
        self.most = 0
        self._generator = np.random.default_rng(0)

    def vectors(self, site: Site, texts: Sequence[str]) -> Array:  # noqa: ARG002
        self.texts.update(dict.fromkeys(texts))
        self.most = max(self.most, len(texts))
        shape = (len(texts), self.backbone.info.dim)
        return self._generator.standard_normal(shape, dtype=np.float32)


def estimate_tasks(
    backbone: Backbone, plans: Sequence[TaskPlan], settings: EvaluateConfig, bank: Path | None
) -> EvaluationEstimates:
    """Score random vectors once to learn the texts and the time, then run one batch of the texts.

    Args:
        backbone: the model.
        plans: the tasks.
        settings: those of the evaluation.
        bank: where it would keep vectors; texts that are there already cost nothing.
    """
    collector = _Collector(backbone)
    # The first layer of a task also loads its data; the second has only the scoring.
    outcome = score_tasks(collector, plans, [Site(0), Site(1)], settings)
    scoring = sum(scores[Site(1)].seconds for scores in outcome.scores.values())
    texts = list(collector.texts)
    missing = _missing(backbone, texts, settings, bank)
    sites = sites_of(backbone, settings.layers)
    seconds, tokens = _timed(backbone, missing, settings)
    poolings = len(Pooling) if settings.bank_poolings is None else len(settings.bank_poolings)
    dim, everywhere = backbone.info.dim, len(sites_of(backbone))
    weights = sum(p.numel() * p.element_size() for p in backbone.model.parameters())
    return EvaluationEstimates(
        tasks=len(plans),
        failing=outcome.failed,
        sites=len(sites),
        texts=len(texts),
        forward_passes=len(missing),
        tokens=tokens,
        pass_seconds=seconds,
        score_seconds=scoring * len(sites),
        memory_bytes=weights + (settings.batch_tokens * 8 * 6 + collector.most * 2 * _FLOAT) * dim,
        disk_bytes=len(missing) * everywhere * poolings * dim * _FLOAT,
    )


def _missing(
    backbone: Backbone, texts: Sequence[str], settings: EvaluateConfig, bank: Path | None
) -> list[str]:
    if bank is None or description(bank) is None:
        return list(texts)
    names = {hash_of(text): text for text in texts}
    opened = open_bank(bank, backbone, TokenPolicy.of_config(settings))
    return [names[name] for name in opened.bank.missing(names, settings.pooling)]


def _timed(backbone: Backbone, texts: Sequence[str], settings: EvaluateConfig) -> tuple[float, int]:
    """Return seconds and tokens of a pass over texts, from one batch of those of middle length."""
    if not texts:
        return 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        opened = open_bank(
            Path(folder) / "bank", backbone, TokenPolicy.of_config(settings)
        )  # which warms up
        tokenized = tokenize(backbone.tokenizer, texts, opened.policy.max_length)
        lengths = [len(text.ids) for text in tokenized]
        planned = groups(backbone, lengths, settings.batch_tokens, tight=True)
        typical = [texts[item] for item in planned[len(planned) // 2]]
        encoder = BankEncoder(
            backbone,
            opened,
            settings.pooling,
            poolings=settings.bank_poolings,
            batch_tokens=settings.batch_tokens,
        )
        encoder.fill(typical, [hash_of(text) for text in typical])
    done = encoder.encoded
    return done.seconds * sum(lengths) / max(1, done.tokens), sum(lengths)
