"""Classifiers of a layer's states: linear and nearest neighbors on means, attention over tokens."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from layerscope.analysis.threads import one_thread_each

Floats = NDArray[np.float32]
Codes = NDArray[np.int64]

_EPOCHS: Final = 100
_PATIENCE: Final = 10  # epochs without a better held-out loss
_HELD_OUT: Final = 5  # one in so many train texts decides when to stop
_BATCH: Final = 32  # texts in one step
_RATE: Final = 1e-2
_DECAY: Final = 1e-2
_Z95: Final = 1.959964
_NEIGHBORS: Final = 20
_TEMPERATURE: Final = 0.07


def linear_predictions(train: Floats, labels: Codes, test: Floats) -> Codes:
    """Return the classes that a logistic regression on standardized vectors predicts.

    Args:
        train: (text, dim) vectors.
        labels: (text,) codes of their classes.
        test: (text, dim) vectors to classify.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with one_thread_each(), warnings.catch_warnings():
        # Past a thousand steps what still moves is the length of the weights, not the answers.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train.astype(np.float64), labels)
    return np.asarray(model.predict(test.astype(np.float64)), np.int64)


def nearest_predictions(train: Floats, labels: Codes, test: Floats) -> Codes:
    """Return the classes that the 20 nearest neighbors by cosine vote for, close ones with more weight.

    A neighbor's weight is exp(cosine / 0.07), as for DINO (Caron et al. 2021); arguments as of
    `linear_predictions`.
    """
    from sklearn.preprocessing import normalize

    cosines = normalize(test) @ normalize(train).T
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :_NEIGHBORS]
    weights = np.exp(np.take_along_axis(cosines, nearest, axis=1) / _TEMPERATURE)
    votes = np.zeros((len(test), int(labels.max()) + 1))
    np.add.at(votes, (np.arange(len(test))[:, None], labels[nearest]), weights)
    return np.asarray(votes.argmax(axis=1), np.int64)


def attention_predictions(
    train: Sequence[Tensor], labels: Codes, test: Sequence[Tensor], seed: int
) -> Codes:
    """Return the classes that a linear head on attention-pooled tokens predicts.

    With z a token's standardized state, a text's vector is the sum of softmax(q . z / sqrt(dim)) z
    over its tokens, q learned and first 0 (the mean). Adam with weight decay minimizes the cross
    entropy; a fifth of the train texts is held out, and the parameters of its least loss are kept.

    Args:
        train: for each text its states (token, dim) float32.
        labels: (text,) codes of their classes.
        test: for each text to classify its states.
        seed: of what is held out, of the start and of the order of texts.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train), generator=generator).tolist()
    held, kept = order[: len(train) // _HELD_OUT], order[len(train) // _HELD_OUT :]
    targets = torch.from_numpy(labels)
    model = _AttentionProbe([train[item] for item in kept], int(labels.max()) + 1, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    best, waited, state = math.inf, 0, model.state_dict()
    for _ in range(_EPOCHS):
        shuffled = torch.randperm(len(kept), generator=generator).tolist()
        for start in range(0, len(kept), _BATCH):
            items = [kept[place] for place in shuffled[start : start + _BATCH]]
            loss = _loss(model, train, targets, items)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            judged = float(_loss(model, train, targets, held or kept))
        waited += 1
        if judged < best:
            best, waited = judged, 0
            state = {name: value.clone() for name, value in model.state_dict().items()}
        if waited == _PATIENCE:
            break
    model.load_state_dict(state)
    with torch.no_grad():
        logits = [model(test[start : start + _BATCH]) for start in range(0, len(test), _BATCH)]
    return np.asarray(torch.cat(logits).argmax(dim=1).numpy(), np.int64)


def _loss(
    model: _AttentionProbe, texts: Sequence[Tensor], targets: Tensor, items: Sequence[int]
) -> Tensor:
    logits = model([texts[item] for item in items])
    return torch.nn.functional.cross_entropy(logits, targets[items])


class _AttentionProbe(torch.nn.Module):
    """One learned query over standardized tokens, then a linear head.

    The standardization is folded into the query and the head's input, so that the states themselves
    are only ever multiplied, never copied.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, texts: Sequence[Tensor], classes: int, generator: torch.Generator) -> None:
        super().__init__()
        tokens = sum(len(text) for text in texts)
        center = torch.stack([text.double().sum(dim=0) for text in texts]).sum(dim=0) / tokens
        squares = [(text.double() - center).square().sum(dim=0) for text in texts]
        spread = (torch.stack(squares).sum(dim=0) / tokens).sqrt()
        # What never varies says nothing: it stays 0 after centering.
        spread = torch.where(spread > 0, spread, 1.0)
        self.register_buffer("center", center.float())
        self.register_buffer("spread", spread.float())
        dim = len(center)
        self.query = torch.nn.Parameter(torch.zeros(dim))
        weight = torch.randn(classes, dim, generator=generator) * 0.01
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(torch.zeros(classes))

    def forward(self, texts: Sequence[Tensor]) -> Tensor:
        """Return the logits (text, class) of texts given as states (token, dim)."""
        states = pad_sequence(list(texts), batch_first=True)
        lengths = torch.tensor([len(text) for text in texts])
        padding = torch.arange(states.shape[1]) >= lengths[:, None]
        scores = states @ (self.query / self.spread) / math.sqrt(len(self.query))
        weights = scores.masked_fill(padding, -torch.inf).softmax(dim=1)
        pooled = ((weights[:, None] @ states)[:, 0] - self.center) / self.spread
        return pooled @ self.weight.T + self.bias


def wilson_limits(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % limits of a share by Wilson's score interval (Wilson 1927).

    >>> [round(limit, 3) for limit in wilson_limits(90, 100)]
    [0.826, 0.945]
    """
    share, square = right / total, _Z95**2 / total
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # Rounding must not put a share of 0 or 1 outside its own limits.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def student_limits(shares: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % limits of the mean of some shares by Student's t, cut to 0 and 1.

    >>> [round(limit, 3) for limit in student_limits([0.8, 0.9, 0.85])]
    [0.726, 0.974]
    """
    from scipy.stats import t

    middle = float(np.mean(shares))
    half = float(np.std(shares, ddof=1) / math.sqrt(len(shares)) * t.ppf(0.975, len(shares) - 1))
    return max(0.0, middle - half), min(1.0, middle + half)
