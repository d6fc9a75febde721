"""What an evaluation would take in time, memory and disk, without running it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layerscope.config import Pooling
from layerscope.data.images import Picture
from layerscope.evaluation.run import score_tasks
from layerscope.evaluation.tasks import TaskPlan
from layerscope.models.backbone import Backbone, weight_bytes
from layerscope.models.processing import read
from layerscope.results.display import IMAGES
from layerscope.settings import EvaluateConfig
from layerscope.states.bank import description, hash_of
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.states.extract import Site, groups, sites_of
from layerscope.states.store import Array

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
        kind: what the texts are, texts or images.
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
    kind: str = "texts"


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
    pictures = {key: each for plan in plans for key, each in plan.pictures.items()}
    seconds, tokens = _timed(backbone, missing, settings, pictures)
    poolings = len(Pooling) if settings.bank_poolings is None else len(settings.bank_poolings)
    dim, everywhere = backbone.info.dim, len(sites_of(backbone))
    weights = weight_bytes(backbone.model)
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
        kind=IMAGES if pictures else "texts",
    )


def texts_of_tasks(
    backbone: Backbone, plans: Sequence[TaskPlan], settings: EvaluateConfig
) -> tuple[str, ...]:
    """Return the distinct texts of tasks as a model reads them, prompts included, without labels.

    Random vectors are scored once, so that a task says itself which texts it encodes.
    """
    collector = _Collector(backbone)
    score_tasks(collector, plans, [Site(0)], settings)
    return tuple(collector.texts)


def _missing(
    backbone: Backbone, texts: Sequence[str], settings: EvaluateConfig, bank: Path | None
) -> list[str]:
    if bank is None or description(bank) is None:
        return list(texts)
    names = {hash_of(text): text for text in texts}
    opened = open_bank(bank, backbone, TokenPolicy.of_config(settings))
    return [names[name] for name in opened.bank.missing(names, settings.pools)]


def _timed(
    backbone: Backbone,
    texts: Sequence[str],
    settings: EvaluateConfig,
    pictures: Mapping[str, Picture],
) -> tuple[float, int]:
    """Return seconds and tokens of a pass over texts, from one batch of those of middle length."""
    if not texts:
        return 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        opened = open_bank(
            Path(folder) / "bank", backbone, TokenPolicy.of_config(settings)
        )  # which warms up
        samples = [pictures.get(text, text) for text in texts]
        tokenized = read(backbone, samples, opened.policy.max_length)
        lengths = [len(text.ids) for text in tokenized]
        planned = groups(backbone, lengths, settings.batch_tokens, tight=True)
        typical = [texts[item] for item in planned[len(planned) // 2]]
        encoder = BankEncoder(
            backbone,
            opened,
            settings.pools,
            poolings=settings.bank_poolings,
            batch_tokens=settings.batch_tokens,
            pictures=pictures,
        )
        encoder.fill(typical, [hash_of(text) for text in typical])
    done = encoder.encoded
    return done.seconds * sum(lengths) / max(1, done.tokens), sum(lengths)
