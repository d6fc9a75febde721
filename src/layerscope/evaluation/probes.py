"""Probes trained on the states of every layer from one pass: linear, attention, nearest neighbors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from layerscope.config import Config, Count, FirstToken, Natural, Several
from layerscope.data.files import write_json
from layerscope.data.images import Picture
from layerscope.data.tokens import TokenizedText, length_limit
from layerscope.errors import InputError
from layerscope.evaluation.classifiers import (
    Codes,
    attention_predictions,
    linear_predictions,
    nearest_predictions,
    student_limits,
    wilson_limits,
)
from layerscope.evaluation.datasets import require_extra
from layerscope.evaluation.labels import label_codes
from layerscope.evaluation.tables import Table
from layerscope.evaluation.tasks import TaskPlan
from layerscope.evaluation.token_store import KeptTokens, TokenStore
from layerscope.models.backbone import Backbone
from layerscope.models.processing import read
from layerscope.settings import PROBES, EvaluateConfig, Probe
from layerscope.states.encode import TokenPolicy, sample_ratio
from layerscope.states.extract import Progress, Site, batches, extract, silent, sites_of
from layerscope.states.pooling import decided


class ProbeConfig(Config):
    """Everything that decides the accuracies, besides model and texts."""

    kinds: Several[Probe] = PROBES
    """Kinds of probes: "linear", "attention" (over tokens), "knn" (nearest neighbors)."""
    train_texts: Count = 2000
    """At most so many texts to train on, a seeded subset."""
    test_texts: Count = 1000
    """At most so many to test on."""
    max_tokens: Count = 128
    """At most so many tokens of a text."""
    policy: TokenPolicy = TokenPolicy()
    """Which tokens count; its length limit holds besides `max_tokens`."""
    batch_tokens: Count = 4096
    """Padded tokens in one forward pass."""
    seed: Natural = 0
    """Of the subsets, of what is held out, of the probes' start and order."""
    seeds: Count = 1
    """Probes of each kind, each trained on four fifths of the texts, drawn by its own seed; one probe is
    trained on all."""


@dataclass(frozen=True)
class ProbeScore:
    """What one probe found at one site.

    Attributes:
        layer: 0 is the embedding output.
        stage: "block" or "final_norm".
        kind: "linear", "attention" or "knn".
        accuracy: share of the test texts that were classified right, 0 to 1; the mean over seeds.
        low, high: its 95 % limits: of one seed Wilson's over test texts, of several Student's over
            seeds.
        n: test texts.
        majority: accuracy of always saying the class that is most frequent in train.
    """

    layer: int
    stage: str
    kind: str
    accuracy: float
    low: float
    high: float
    n: int
    majority: float


@dataclass(frozen=True)
class Labelled:
    """Texts, or images, with the codes of their classes, to train on and to test on."""

    train: tuple[str | Picture, ...]
    train_labels: Codes
    test: tuple[str | Picture, ...]
    test_labels: Codes

    @property
    def majority(self) -> float:
        """Accuracy of always saying the class that is most frequent in train."""
        return float((self.test_labels == np.bincount(self.train_labels).argmax()).mean())


def probe(
    backbone: Backbone,
    source: TaskPlan | Table | Labelled,
    settings: ProbeConfig | None = None,
    *,
    sites: Sequence[Site] | None = None,
    progress: Progress = silent,
) -> list[ProbeScore]:
    """Train and test probes on every site's token states, which one pass over the texts leaves.

    Args:
        backbone: the model.
        source: a classification: a task, a table, or texts already chosen.
        settings: sizes, kinds of probes, which tokens count.
        sites: where the model is read; by default every layer and the final norm.
        progress: called with the tokens read and the probes trained.

    Returns:
        The scores, site by site, in the order of the sites and of `settings.kinds`.

    Raises:
        InputError: no classification, or fewer than 2 classes to train on.
        RunError: states that are not finite, a text that does not fit in memory, a full disk.
    """
    require_extra()
    settings = settings or ProbeConfig()
    sites = sites or sites_of(backbone)
    data = source if isinstance(source, Labelled) else labelled(source, settings)
    tokenized, marks = _tokenized(backbone, data, settings)
    store = TokenStore([sum(mark) for mark in marks])
    try:
        _read(backbone, tokenized, marks, store, settings, sites, progress)
        return _scores(store, data, settings, sites, progress)
    finally:
        store.close()


# --- texts -------------------------------------------------------------------------------------


def labelled(source: TaskPlan | Table, settings: ProbeConfig) -> Labelled:
    """Return seeded subsets of a classification's texts, those without any character left out.

    Raises:
        InputError: another kind of task, no split to train on, or fewer than 2 classes in it.
    """
    if source.kind != "Classification":
        raise InputError(
            f"probes are trained on classes, {source.name} is a {source.kind}; name a Classification."
        )
    columns = _of_table(source) if isinstance(source, Table) else _of_task(source)
    (train, train_labels), (test, test_labels) = columns
    codes, _ = label_codes([train_labels, test_labels], source.name)
    generator = np.random.default_rng(settings.seed)
    kept, codes_kept = _subset(train, codes[0], settings.train_texts, generator)
    tested, codes_tested = _subset(test, codes[1], settings.test_texts, generator)
    if len(set(codes_kept.tolist())) < 2 or not tested:
        raise InputError(f"{source.name} leaves fewer than 2 classes to train on, or none to test.")
    pictures = source.pictures if isinstance(source, TaskPlan) else {}
    return Labelled(
        tuple(pictures.get(text, text) for text in kept), codes_kept,
        tuple(pictures.get(text, text) for text in tested), codes_tested,
    )  # fmt: skip


_Column = tuple[Sequence[str], Sequence[Any]]


def _of_table(table: Table) -> tuple[_Column, _Column]:
    train, test = (
        (frame["text"].tolist(), frame["label"].tolist())
        for frame in (table.splits["train"], table.splits["test"])
    )
    return train, test


def _of_task(plan: TaskPlan) -> tuple[_Column, _Column]:
    task = plan.build()
    data = task.dataset.get(plan.subset, task.dataset)
    if task.train_split == plan.split:
        raise InputError(f"{plan.name} has one split for training and testing; probes need two.")
    train, test = data[task.train_split], data[plan.split]
    text, label = task.input_column_name, task.label_column_name
    return (train[text], train[label]), (test[text], test[label])


def _subset(
    texts: Sequence[str], codes: Sequence[int], most: int, generator: np.random.Generator
) -> tuple[tuple[str, ...], Codes]:
    usable = [place for place, text in enumerate(texts) if text.strip()]
    chosen = sorted(generator.permutation(usable)[:most].tolist())
    return tuple(texts[place] for place in chosen), np.array([codes[p] for p in chosen], np.int64)


# --- one pass ----------------------------------------------------------------------------------


def _tokenized(
    backbone: Backbone, data: Labelled, settings: ProbeConfig
) -> tuple[list[TokenizedText], list[list[bool]]]:
    """Return the texts as tokens, those to train on first, and which of their tokens count."""
    policy = settings.policy
    asked = min(policy.max_length, settings.max_tokens)
    limit = length_limit(backbone.tokenizer, backbone.model.config, asked)
    if policy.first_token is FirstToken.AUTO:
        ratio = sample_ratio(backbone, limit)
        policy = policy.changed(first_token=decided(policy.first_token, ratio))
    texts = read(backbone, (*data.train, *data.test), limit)
    return texts, [policy.counted(text) for text in texts]


def _read(
    backbone: Backbone,
    tokenized: Sequence[TokenizedText],
    marks: Sequence[Sequence[bool]],
    store: TokenStore,
    settings: ProbeConfig,
    sites: Sequence[Site],
    progress: Progress,
) -> None:
    """Run the model over the texts once and keep what the probes need of every site."""
    done, total = 0, sum(len(text.ids) for text in tokenized)
    planned = batches(backbone, tokenized, marks, settings.batch_tokens)
    keep = KeptTokens("attention" in settings.kinds, backbone)
    for result in extract(backbone, planned, sites, keep):
        store.add(result.items, result.by_site)
        done += sum(len(tokenized[item].ids) for item in result.items)
        progress("reading tokens", done, total)
    store.flush()


# --- training ----------------------------------------------------------------------------------


def _scores(
    store: TokenStore,
    data: Labelled,
    settings: ProbeConfig,
    sites: Sequence[Site],
    progress: Progress,
) -> list[ProbeScore]:
    found: list[ProbeScore] = []
    total = len(sites) * len(settings.kinds)
    for site in sites:
        for kind in settings.kinds:
            progress("training probes", len(found), total)
            shares = _accuracies(kind, store, site, data, settings)
            share, n = float(np.mean(shares)), len(data.test)
            low, high = (
                student_limits(shares) if len(shares) > 1 else wilson_limits(round(share * n), n)
            )
            found.append(
                ProbeScore(site.layer, site.stage, kind, share, low, high, n, data.majority)
            )
    progress("training probes", total, total)
    return found


def _accuracies(
    kind: Probe, store: TokenStore, site: Site, data: Labelled, settings: ProbeConfig
) -> list[float]:
    """Return the accuracy of a kind of probe with each seed."""
    cut, labels = len(data.train), data.train_labels
    means = store.means(site) if kind in _OF_MEANS else None
    tokens = None if means is not None else store.tokens(site, cut)
    found = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        kept = _fitted_on(labels, seed) if settings.seeds > 1 else np.arange(cut)
        if means is not None:
            predicted = _OF_MEANS[kind](means[kept], labels[kept], means[cut:])
        elif tokens is not None:  # it holds a fifth out by itself
            predicted = attention_predictions(tokens[0], labels, tokens[1], seed)
        found.append(float((predicted == data.test_labels).mean()))
    return found


_OF_MEANS: Final = {"linear": linear_predictions, "knn": nearest_predictions}


def _fitted_on(labels: Codes, seed: int) -> Codes:
    """Return which texts a probe is trained on: four fifths, with at least one of each class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    _, first = np.unique(labels[order], return_index=True)
    some = np.setdiff1d(np.arange(len(labels)), first)[: max(0, 4 * len(labels) // 5 - len(first))]
    return np.sort(order[np.concatenate([first, some])])


@dataclass(frozen=True)
class Probed:
    """The probes of one classification.

    Attributes:
        facts: how they were made, for the record.
        scores: one a site and kind.
    """

    facts: dict[str, Any]
    scores: tuple[ProbeScore, ...]


def refuse_nothing_to_probe(plans: Sequence[TaskPlan], settings: EvaluateConfig) -> None:
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
    settings: EvaluateConfig,
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
        progress: called with the tokens read and the probes trained.
    """
    if not settings.probes:
        return {}
    chosen = ProbeConfig(
        kinds=settings.probes,
        policy=policy,
        batch_tokens=settings.batch_tokens,
        seed=settings.seed,
        seeds=settings.probe_seeds,
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


def _facts(plan: TaskPlan, settings: ProbeConfig) -> dict[str, Any]:
    return {
        "split": plan.split,
        "subset": plan.subset,
        "revision": plan.revision,
        "kinds": list(settings.kinds),
        "train_texts": settings.train_texts,
        "test_texts": settings.test_texts,
        "max_tokens": settings.max_tokens,
        "special_tokens": bool(settings.policy.special_tokens),
        "first_token": settings.policy.first_token.value,
        "seed": settings.seed,
        "seeds": settings.seeds,
    }


def _digest(task: str, facts: Mapping[str, Any], sites: Sequence[Site]) -> str:
    """Name the kept probes of a task; two tasks may share the revision of one data set."""
    said = json.dumps([task, dict(facts), [str(site) for site in sites]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:12]
