"""Readouts of a scanned run compared by a few labelled rows in place of crops."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerscope.analysis.readouts import own_sites, texts_to_fit_on
from layerscope.config import FirstToken, Pooling
from layerscope.errors import InputError, UndefinedError
from layerscope.metrics.labelled import left_out_right, rank_agreement
from layerscope.metrics.readouts import Floats, Readout, fit
from layerscope.models.backbone import Backbone
from layerscope.results.readouts import Candidate, ReadoutTable
from layerscope.results.resampling import bootstrap_limits
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.states.extract import Progress, silent

Vectors = Mapping[int, Floats]


@dataclass(frozen=True)
class LabelledRows:
    """Rows of one labelled table.

    Attributes:
        name: of the table.
        texts: of each row; of pairs the first ones.
        second: of pairs the second ones; None for texts with labels.
        values: (row,) codes of labels; of pairs how alike they are.
    """

    name: str
    texts: tuple[str, ...]
    values: Floats
    second: tuple[str, ...] | None = None


def score_labels(rows: LabelledRows, vectors: Vectors, second: Vectors, fitted_on: Vectors,
                 readout: Readout) -> Floats:  # fmt: skip
    """Return the part (row,) of the labels' score that each row has under a readout.

    Args:
        rows: the labels.
        vectors: site -> pooled vectors (row, dim) of the texts.
        second: of the second texts of pairs; anything else otherwise.
        fitted_on: site -> pooled vectors that the map is fitted on, without labels.
        readout: which.

    Raises:
        UndefinedError: there is no score.
    """
    fitted = fit(readout, fitted_on)
    if rows.second is None:
        return left_out_right(fitted.apply(vectors), rows.values.astype(np.int64))
    return rank_agreement(fitted.apply(vectors), fitted.apply(second), rows.values)


def label_table(
    backbone: Backbone,
    settings: Mapping[str, Any],
    rows: LabelledRows,
    texts: Sequence[str],
    scanned: ReadoutTable,
    *,
    seed: int = 0,
    resamples: int = 1000,
    progress: Progress = silent,
) -> ReadoutTable:
    """Read labelled rows with the model, and score the readouts of a scan on them.

    Args:
        backbone: the model.
        settings: of the scan's record, in which the first token is decided.
        rows: the labels.
        texts: without labels, whose crops maps are fitted on.
        scanned: the readouts that crops were found with.
        seed: of the crops and of the resampling of rows.
        resamples: their number.
        progress: called with tokens, then with readouts.

    Raises:
        InputError: see `compare_on_labels`.
    """
    crops, _ = texts_to_fit_on(texts, seed)
    with site_vectors(backbone, settings, progress) as vectors_of:
        vectors = vectors_of(rows.texts)
        second = vectors if rows.second is None else vectors_of(rows.second)
        fitted_on = vectors_of(crops)
    return compare_on_labels(
        rows, vectors, second, fitted_on, scanned,
        seed=seed, resamples=resamples, progress=progress,
    )  # fmt: skip


def compare_on_labels(
    rows: LabelledRows,
    vectors: Vectors,
    second: Vectors,
    fitted_on: Vectors,
    scanned: ReadoutTable,
    *,
    seed: int = 0,
    resamples: int = 1000,
    progress: Progress = silent,
) -> ReadoutTable:
    """Score the readouts of a scan by labels.

    Args:
        rows: see `score_labels`, as are the vectors.
        vectors: of the texts.
        second: of the second texts of pairs.
        fitted_on: what maps are fitted on.
        scanned: the readouts that crops were found with.
        seed: of the resampling of rows.
        resamples: their number.
        progress: called after every readout.

    Raises:
        InputError: the model's own output has no score on these rows.
    """
    known = [(each, each.readout) for each in scanned.candidates if each.readout is not None]
    kept: list[tuple[Candidate, Floats]] = []
    left_out: dict[str, str] = {}
    for place, (candidate, readout) in enumerate(known):
        progress("comparing on labels", place, len(known))
        try:
            found = score_labels(rows, vectors, second, fitted_on, readout)
        except UndefinedError as error:
            left_out[candidate.name] = str(error)
        else:
            kept.append((candidate, found))
    progress("comparing on labels", len(known), len(known))
    own = scanned.candidates[scanned.own].name
    if own in left_out:
        raise InputError(
            f"the labels of {rows.name!r} say nothing of the model's own output ({left_out[own]})."
        )
    contributions = np.stack([found for _, found in kept])
    low, high = bootstrap_limits(contributions, seed, resamples)
    candidates = tuple(
        Candidate(
            candidate.name,
            candidate.readout,
            candidate.highest,
            float(found.mean()),
            float(low[place]),
            float(high[place]),
        )
        for place, (candidate, found) in enumerate(kept)
    )
    places = {each.name: place for place, each in enumerate(candidates)}
    names = {name: scanned.candidates[place].name for name, place in scanned.baselines.items()}
    count = len(rows.values)
    return ReadoutTable(
        candidates,
        contributions,
        places[own],
        {name: places[each] for name, each in names.items() if each in places},
        (count, count),
        chance=_chance(rows),
        crops=f"labelled rows of {rows.name!r}",
        blocks=scanned.blocks,
        left_out=left_out,
        asked=tuple(name for name in scanned.asked if name in places),
        costs=scanned.costs,
    )


def _chance(rows: LabelledRows) -> float:
    """Return the score of the best guess that reads no text."""
    if rows.second is not None:
        return 0.0
    return float(np.unique(rows.values, return_counts=True)[1].max() / len(rows.values))


@contextmanager
def site_vectors(
    backbone: Backbone, settings: Mapping[str, Any], progress: Progress = silent
) -> Iterator[VectorsOf]:
    """Give pooled vectors of texts at every site of readouts, as a scan with those settings pools.

    Args:
        backbone: the model.
        settings: of the scan's record, in which the first token is decided.
        progress: called with the tokens that went through the model.
    """
    policy = TokenPolicy(
        special_tokens=settings["special_tokens"],
        first_token=FirstToken(settings["first_token"]),
        max_length=settings["max_length"],
    )
    with tempfile.TemporaryDirectory(prefix="layerscope-") as room:
        pooling = Pooling(settings["pooling"])
        opened = open_bank(Path(room, "bank"), backbone, policy)
        source = BankEncoder(backbone, opened, pooling, poolings=(pooling,), progress=progress)
        yield VectorsOf(source, str(settings.get("prompt") or ""))


@dataclass(frozen=True)
class VectorsOf:
    """Vectors of texts at every site of readouts, with a prompt before each text."""

    source: BankEncoder
    prompt: str

    def __call__(self, texts: Sequence[str]) -> dict[int, Floats]:
        """Return site -> vectors (text, dim)."""
        read = [self.prompt + text for text in texts]
        return {
            number: self.source.vectors(site, read)
            for number, site in enumerate(own_sites(self.source.backbone))
        }
