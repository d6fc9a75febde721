"""Linear and attention probes trained on the token states of every layer from one pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerscope.config import Config, Count, FirstToken, Natural, Several
from layerscope.data.files import write_json
from layerscope.data.tokens import TokenizedText, length_limit, tokenize
from layerscope.errors import InputError
from layerscope.evaluation.classifiers import (
    Codes,
    Floats,
    attention_predictions,
    linear_predictions,
    wilson_limits,
)
from layerscope.evaluation.datasets import require_extra
from layerscope.evaluation.labels import label_codes
from layerscope.evaluation.tables import Table
from layerscope.evaluation.tasks import TaskPlan
from layerscope.models.backbone import Backbone
from layerscope.settings import PROBES, EvaluateConfig, Probe
from layerscope.states.encode import TokenPolicy, refuse_non_finite, sample_ratio
from layerscope.states.extract import (
    Progress,
    Site,
    TokenStates,
    batches,
    extract,
    silent,
    sites_of,
)
from layerscope.states.pooling import decided, mean
from layerscope.states.store import Array, StateStore


class ProbeConfig(Config):
    """Everything that decides the accuracies, besides model and texts."""

    kinds: Several[Probe] = PROBES
    """Kinds of probes: "linear", "attention" or both."""
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


@dataclass(frozen=True)
class ProbeScore:
    """What one probe found at one site.

    Attributes:
        layer: 0 is the embedding output.
        stage: "block" or "final_norm".
        kind: "linear" or "attention".
        accuracy: share of the test texts that were classified right, 0 to 1.
        low, high: its 95 % Wilson interval over test texts (training is not repeated).
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
    """Texts with the codes of their classes, to train on and to test on."""

    train: tuple[str, ...]
    train_labels: Codes
    test: tuple[str, ...]
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
    store = _TokenStore([sum(mark) for mark in marks])
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
    return Labelled(kept, codes_kept, tested, codes_tested)


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


class _TokenStore:
    """The states of some texts' tokens by site, on disk: as float16 with a scale for each token.

    Half the disk of float32. The scale, the largest entry of a token's state, is what makes it safe:
    at an attention sink single entries pass float16's range, while relative to the largest of their
    token entries lose less than 0.1 %.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - np.asarray(lengths)
        self._means, self._tokens = StateStore(), StateStore()

    def add(self, items: Sequence[int], by_site: Mapping[Site, Mapping[str, Array]]) -> None:
        """Keep what `_Kept` made of a batch of texts."""
        places = [np.arange(self.starts[item], self.ends[item]) for item in items]
        means = {str(site): rows["mean"] for site, rows in by_site.items()}
        self._means.add(np.asarray(items), means)
        tokens = {
            f"{site} {kind}": rows[kind]
            for site, rows in by_site.items()
            for kind in ("state", "scale")
            if kind in rows
        }
        if tokens:
            self._tokens.add(np.concatenate(places), tokens)

    def flush(self) -> None:
        """Write what waits."""
        self._means.flush()
        self._tokens.flush()

    def means(self, site: Site) -> Floats:
        """Return a site's mean over the tokens that count, (text, dim)."""
        return self._means.rows(str(site), np.arange(len(self.ends)))

    def tokens(self, site: Site, cut: int) -> tuple[_Texts, _Texts]:
        """Return a site's states of the tokens that count, for the first `cut` texts and the others."""
        every = np.arange(self.ends[-1])
        states = torch.from_numpy(self._tokens.rows(f"{site} state", every))
        scales = torch.from_numpy(self._tokens.rows(f"{site} scale", every))
        spans = list(zip(self.starts.tolist(), self.ends.tolist(), strict=True))
        return _Texts(states, scales, spans[:cut]), _Texts(states, scales, spans[cut:])

    def close(self) -> None:
        """Remove the files."""
        self._means.close()
        self._tokens.close()


@dataclass(frozen=True)
class _Texts(Sequence[Tensor]):
    """For each text its states (token, dim), made float32 when they are asked for."""

    states: Tensor
    scales: Tensor
    spans: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return _Texts(self.states, self.scales, self.spans[item])
        start, end = self.spans[item]
        return self.states[start:end].float() * self.scales[start:end, None]


@dataclass(frozen=True)
class _Kept:
    """The reducer that extraction calls: the mean of the tokens that count and, if wanted, each."""

    tokens: bool
    backbone: Backbone

    def __call__(self, tokens: TokenStates) -> dict[str, Array]:
        rows = {"mean": mean(tokens.states, tokens.counted.to(tokens.states.dtype)).float()}
        refuse_non_finite(rows["mean"], tokens.site, self.backbone)
        if self.tokens:
            states = tokens.states[tokens.counted].float()
            scale = states.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            rows |= {"state": (states / scale[:, None]).half(), "scale": scale}
        return {kind: value.cpu().numpy() for kind, value in rows.items()}


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
    texts = tokenize(backbone.tokenizer, (*data.train, *data.test), limit)
    return texts, [policy.counted(text) for text in texts]


def _read(
    backbone: Backbone,
    tokenized: Sequence[TokenizedText],
    marks: Sequence[Sequence[bool]],
    store: _TokenStore,
    settings: ProbeConfig,
    sites: Sequence[Site],
    progress: Progress,
) -> None:
    """Run the model over the texts once and keep what the probes need of every site."""
    done, total = 0, sum(len(text.ids) for text in tokenized)
    planned = batches(backbone, tokenized, marks, settings.batch_tokens)
    keep = _Kept("attention" in settings.kinds, backbone)
    for result in extract(backbone, planned, sites, keep):
        store.add(result.items, result.by_site)
        done += sum(len(tokenized[item].ids) for item in result.items)
        progress("reading tokens", done, total)
    store.flush()


# --- training ----------------------------------------------------------------------------------


def _scores(
    store: _TokenStore,
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
            predicted = _predictions(kind, store, site, data, settings.seed)
            right = int((predicted == data.test_labels).sum())
            n = len(data.test)
            low, high = wilson_limits(right, n)
            share = right / n
            found.append(
                ProbeScore(site.layer, site.stage, kind, share, low, high, n, data.majority)
            )
    progress("training probes", total, total)
    return found


def _predictions(kind: str, store: _TokenStore, site: Site, data: Labelled, seed: int) -> Codes:
    cut = len(data.train)
    if kind == "linear":
        means = store.means(site)
        return linear_predictions(means[:cut], data.train_labels, means[cut:])
    train, test = store.tokens(site, cut)
    return attention_predictions(train, data.train_labels, test, seed)


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
    }


def _digest(task: str, facts: Mapping[str, Any], sites: Sequence[Site]) -> str:
    """Name the kept probes of a task; two tasks may share the revision of one data set."""
    said = json.dumps([task, dict(facts), [str(site) for site in sites]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:12]
