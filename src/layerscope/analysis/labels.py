"""Readouts of a scanned run compared by a few labelled rows in place of crops."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from layerscope.analysis.readouts import images_to_fit_on, own_sites, texts_to_fit_on
from layerscope.config import Pooling
from layerscope.data.images import Picture
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
        texts: of each row; of pairs the first ones; keys of images.
        second: of pairs the second ones; None for texts with labels.
        values: (row,) codes of labels; of pairs how alike they are.
        pictures: key -> image; empty for texts.
    """

    name: str
    texts: tuple[str, ...]
    values: Floats
    second: tuple[str, ...] | None = None
    pictures: Mapping[str, Picture] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class RowVectors:
    """What a model makes of labelled rows: site -> pooled vectors (row, dim).

    Attributes:
        first: of the texts; of pairs the first ones.
        fitted_on: of texts without labels, on which maps are fitted.
        second: of pairs the second ones; None for texts with labels.
    """

    first: Vectors
    fitted_on: Vectors
    second: Vectors | None = None


def score_labels(rows: LabelledRows, vectors: RowVectors, readout: Readout) -> Floats:
    """Return the part (row,) of the labels' score that each row has under a readout.

    Raises:
        UndefinedError: there is no score.
    """
    fitted = fit(readout, vectors.fitted_on)
    first = fitted.apply(vectors.first)
    if vectors.second is None:
        return left_out_right(first, rows.values.astype(np.int64))
    return rank_agreement(first, fitted.apply(vectors.second), rows.values)


def row_vectors(
    backbone: Backbone,
    settings: Mapping[str, Any],
    rows: LabelledRows,
    texts: Sequence[str] = (),
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> RowVectors:
    """Read labelled rows with the model, as a scan with some settings pools.

    Args:
        backbone: the model.
        settings: of the scan's record, in which the first token is decided.
        rows: the labels.
        texts: without labels, on whose crops maps are fitted; of images it is they themselves.
        seed: of the crops.
        progress: called with the tokens that went through the model.
    """
    names = TokenPolicy.model_fields
    policy = TokenPolicy(**{name: settings[name] for name in names})
    pooling, prompt = Pooling(settings["pooling"]), str(settings.get("prompt") or "")
    sites = own_sites(backbone)
    cropped = {each.key: each for each in images_to_fit_on(list(rows.pictures.values()), seed)}
    crops = list(cropped) or texts_to_fit_on(texts, seed)[0]
    with tempfile.TemporaryDirectory(prefix="layerscope-") as room:
        opened = open_bank(Path(room, "bank"), backbone, policy)
        source = BankEncoder(
            backbone, opened, pooling, poolings=(pooling,), sites=sites,
            pictures={**rows.pictures, **cropped}, progress=progress,
        )  # fmt: skip

        def read(given: Sequence[str]) -> Vectors:
            prompted = [prompt + text for text in given]
            return {number: source.vectors(site, prompted) for number, site in enumerate(sites)}

        second = None if rows.second is None else read(rows.second)
        return RowVectors(read(rows.texts), read(crops), second)


def compare_on_labels(
    rows: LabelledRows,
    vectors: RowVectors,
    scanned: ReadoutTable,
    *,
    seed: int = 0,
    resamples: int = 1000,
    progress: Progress = silent,
) -> ReadoutTable:
    """Score the readouts of a scan by labels.

    Args:
        rows: the labels.
        vectors: of their texts.
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
            found = score_labels(rows, vectors, readout)
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
