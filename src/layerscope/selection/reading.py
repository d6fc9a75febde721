"""Curves over layers, read from a results table of one model on one set of texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pandas as pd

from layerscope.augmentation import ViewKind, view_kind
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE, Measure
from layerscope.table import BLOCK

PAPER: Final = "paper"
NORMALIZED: Final = "normalized"
REFERENCE: Final = "reference"

# Which views a measure is meant on where a run has several kinds: those of its paper.
_OWN_VIEWS: Final = {"retrieval": ViewKind.CROPS}
_PAPER_VIEWS: Final = ViewKind.CHARACTERS


def layer_name(layer: int, stage: str = BLOCK) -> str:
    """Return the layer's name: "k" for the output of block k, "final_norm" after the final norm."""
    return stage if stage != BLOCK else str(layer)


def number_of_blocks(table: pd.DataFrame) -> int:
    """Return L, read from layer / depth so that it holds where the pass stopped early.

    Raises:
        InputError: If the table has no row with a layer.
    """
    layers = table["layer"].dropna()
    if layers.empty:
        raise InputError("expected a results table with layers, got one without rows")
    deep = table[table["depth"].fillna(0) > 0]
    if deep.empty:
        return int(layers.max())
    return round(float((deep["layer"].astype(float) / deep["depth"].astype(float)).median()))


def of_measure(
    table: pd.DataFrame,
    metric: str,
    convention: str,
    stage: str = BLOCK,
    perturbation: str | None = None,
) -> pd.DataFrame:
    """Return the defined rows of one measure at one stage, indexed by layer in ascending order.

    Of a measure made on several kinds of views, those of one perturbation, by default on its own kind.

    Raises:
        InputError: If a layer has two values, which means the table holds more than one run.
    """
    rows = table[
        (table["metric"] == metric)
        & (table["convention"].fillna("") == convention)
        & (table["stage"] == stage)
        & table["other_layer"].isna()
        & table["value"].notna()
    ]
    labels = rows["perturbation"].fillna("")
    wanted = perturbation_of(metric, labels.unique()) if perturbation is None else perturbation
    rows = rows[labels == wanted]
    if rows["layer"].duplicated().any():
        raise InputError(
            f"expected one value of {metric!r} a layer, got several: "
            "the table holds more than one model, data set or perturbation; select one run first"
        )
    return rows.set_index("layer").sort_index()


def perturbation_of(metric: str, labels: Iterable[str], wanted: ViewKind | str = "") -> str | None:
    """Return which of the perturbations that a measure was made on is meant; None for none.

    Args:
        metric: Name of the measure.
        labels: Perturbations in the table.
        wanted: The kind of views, or their whole label; "" leaves it to the measure.

    >>> perturbation_of("dime", ["crops of 20 words", "characters p=0.3"])
    'characters p=0.3'

    Raises:
        InputError: If several are meant equally.
    """
    found = [label for label in labels if wanted in ("", label, view_kind(label))]
    if len(found) > 1:
        own = _OWN_VIEWS.get(metric, _PAPER_VIEWS)
        found = [label for label in found if view_kind(label) is own] or found
    if len(found) > 1:
        raise InputError(
            f"expected one kind of views for {metric!r}, got several: {', '.join(found)}; "
            "the table holds more than one run, or a rule must name the kind that it needs."
        )
    return found[0] if found else None


def perturbations(table: pd.DataFrame, metric: str, convention: str) -> tuple[str, ...]:
    """Return what the views were that a measure was made on, in the order of the table."""
    rows = table[(table["metric"] == metric) & (table["convention"].fillna("") == convention)]
    return tuple(str(label) for label in rows["perturbation"].fillna("").unique())


def measured(
    table: pd.DataFrame, measures: Iterable[Measure] = CATALOGUE
) -> tuple[tuple[Measure, str], ...]:
    """Return each measure of single layers that the table holds, once a convention."""
    single = table[table["other_layer"].isna()]
    pairs = set(zip(single["metric"], single["convention"].fillna(""), strict=True))
    return tuple(
        (measure, convention)
        for measure in measures
        if measure.level != "pair"
        for convention in (*(str(name) for name in measure.conventions), "")
        if (measure.name, convention) in pairs
    )


def of_path(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the defined rows of a measure of several layers, indexed by the layer they are told of.

    For measures with one value a layer: steps of blocks, angles at a layer, layers against the final
    one. Empty where it was not measured.

    Raises:
        InputError: If a layer has two values.
    """
    rows = table[(table["metric"] == metric) & (table["level"] == "pair") & table["value"].notna()]
    if rows["layer"].duplicated().any():
        raise InputError(f"expected one value of {metric!r} a layer, got several")
    return rows.set_index("layer").sort_index()
