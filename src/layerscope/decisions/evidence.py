"""Curves of measures over the layers of one model on one set of texts, and their resamples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.data.views import ViewKind, view_kind
from layerscope.decisions.rules import Curves, Floats, Need, Rule, middle_layer
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.results.resampling import resampled_means
from layerscope.results.table import BLOCK, FINAL_NORM, TASK, Run

Key = tuple[str, str, str]
"""Metric, convention ("" where the measure has none) and perturbation of the texts."""

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


def with_baselines(
    table: pd.DataFrame, key: Key, layer: int | None
) -> tuple[float | None, float | None, float | None]:
    """Return a measure at a layer, on the model's own output and at the middle layer.

    The output is after the final norm where the run has that stage, else of the last block. None
    where the measure is undefined or was not made.
    """
    metric, convention, perturbation = key
    normed = (table["stage"] == FINAL_NORM).any()

    def at(place: int | None, stage: str = BLOCK) -> float | None:
        values = of_measure(table, metric, convention, stage, perturbation)["value"]
        return None if place is None or place not in values.index else float(values[place])

    blocks = number_of_blocks(table)
    last = at(blocks, FINAL_NORM if normed else BLOCK)
    return at(layer), last, at(middle_layer(blocks))


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
    """Return the defined rows of a measure of several layers, indexed by layer.

    For measures with one value a layer: of the step into it, the angle at it, or it against the final
    layer. Empty where it was not measured.

    Raises:
        InputError: If a layer has two values.
    """
    rows = table[(table["metric"] == metric) & (table["level"] == "pair") & table["value"].notna()]
    if rows["layer"].duplicated().any():
        raise InputError(f"expected one value of {metric!r} a layer, got several")
    return rows.set_index("layer").sort_index()


# The convention to decide by is the first of these that a run has.
_PREFERRED: Final = (NORMALIZED, REFERENCE, PAPER)
_LEVEL: Final = 0.95


@dataclass(frozen=True)
class Evidence:
    """One model's measures of single layers on one set of texts.

    Attributes:
        model: its name.
        data: the texts' name; "" where nothing was measured.
        blocks: L.
        normed: whether the run knows the state after the final norm.
        curves: of each metric, convention and perturbation, (layer,) over 0..L.
        contributions: of the same, (layer, text); NaN where undefined. Empty if not kept.
        limited: those with limits in the table.
        record: how the run was made.
        seed: of the resampling.
        resamples: their number.
    """

    model: str
    data: str
    blocks: int
    normed: bool
    curves: Mapping[Key, Floats]
    contributions: Mapping[Key, Floats]
    limited: frozenset[Key]
    record: Mapping[str, Any]
    seed: int = 0
    resamples: int = 1000

    @property
    def conventions(self) -> tuple[str, ...]:
        """The conventions that any measure has here, the one to decide by first."""
        found = {convention for _, convention, _ in self.curves}
        return tuple(name for name in _PREFERRED if name in found)

    @property
    def convention(self) -> str:
        """The convention to decide by; "" where no measure has any."""
        return next(iter(self.conventions), "")

    def depends(self, rule: Rule, convention: str) -> bool:
        """Whether a rule looks at a measure that comes in this convention, and does not fix it."""
        names = {need.metric for need in rule.needs if need.convention is None}
        return any(metric in names and name == convention for metric, name, _ in self.curves)

    def seen_by(self, rule: Rule, convention: str | None = None) -> Curves:
        """Return what a rule sees in a convention, by default the one to decide by.

        Raises:
            InputError: a measure that it needs is missing; says which, and how to get it.
        """
        keys = self._keys(rule, convention)
        values = {need: self.curves[key] for need, key in keys.items()}
        return Curves(self.blocks, values, lambda need: self._noise(keys[need]))

    def seen_resampled(self, rule: Rule, convention: str | None = None) -> Curves | None:
        """Return the same for every resample of the texts; None if no measure has per-text numbers.

        Beside measures that have them, one without (as it has no limits) stays as it is.
        """
        keys = self._keys(rule, convention)
        if not any(key in self.contributions for key in keys.values()):
            return None
        shape = (self.resamples, self.blocks + 1)
        values = {
            need: self._resampled[key]
            if key in self.contributions
            else np.broadcast_to(self.curves[key], shape)
            for need, key in keys.items()
        }
        return Curves(self.blocks, values, lambda need: self._noise(keys[need]))

    def lacks(self, rule: Rule, convention: str | None = None) -> str:
        """Return which measure of a rule is missing, and how to get it; "" where none is."""
        chosen = convention or self.convention
        for need in rule.needs:
            try:
                if self._key(need, chosen) is None:
                    return f"{need}{self._why(need, chosen)}"
            except InputError as error:  # several kinds of views, none of them meant
                return f"{need}: {error}".rstrip(".")
        return ""

    def _keys(self, rule: Rule, convention: str | None) -> dict[Need, Key]:
        lacking = self.lacks(rule, convention)
        if lacking:
            raise InputError(f"the rule {rule.name!r} needs {lacking}.")
        keys = {need: self._key(need, convention or self.convention) for need in rule.needs}
        return {need: key for need, key in keys.items() if key is not None}

    def _key(self, need: Need, convention: str) -> Key | None:
        wanted = (convention, "") if need.convention is None else (need.convention,)
        for name in wanted:
            labels = [p for metric, c, p in self.curves if (metric, c) == (need.metric, name)]
            label = perturbation_of(need.metric, labels, need.perturbation)
            if label is not None:
                return need.metric, name, label
        return None

    def _why(self, need: Need, convention: str) -> str:
        """Return what to do about a missing measure, as far as the run tells."""
        for entry in self.record.get("undefined", ()):
            if entry.get("metric") == need.metric and need.metric not in self._metrics:
                return f", which is undefined here: {entry.get('reason', 'no reason was recorded')}"
        if not self.curves:
            return ", and this run holds no measures; make them with layerscope scan"
        if need.metric in self._metrics and not need.perturbation:
            name = need.convention or convention
            return f" in the convention {name}; scan with --convention {name}"
        if self._level(need.metric) == "view" and self._views == 0:
            return ", which this run does not have; scan with --views 2"
        if need.perturbation == ViewKind.CHARACTERS:
            return ", which this run does not have; scan with --augmentation default"
        if need.perturbation in set(ViewKind):
            return f", which this run does not have; scan with --augmentation {need.perturbation}"
        return ", which this run does not have; scan with it among the --metrics"

    @property
    def _views(self) -> int | None:
        views = self.record.get("settings", {}).get("views")
        return None if views is None else int(views)

    @staticmethod
    def _level(metric: str) -> str:
        return next((measure.level for measure in CATALOGUE if measure.name == metric), "")

    @property
    def _metrics(self) -> set[str]:
        return {metric for metric, _, _ in self.curves}

    @cached_property
    def _resampled(self) -> dict[Key, Floats]:
        """Every measure (resample, layer), all on the same resampled texts."""
        if not self.contributions:
            return {}
        stacked = np.concatenate(list(self.contributions.values()))
        means = resampled_means(stacked, self.seed, self.resamples)
        parts = np.split(means, len(self.contributions))
        return {key: part.T for key, part in zip(self.contributions, parts, strict=True)}

    @cached_property
    def _noises(self) -> dict[Key, Floats]:
        """Those asked for so far: every layer against every other takes a while."""
        return {}

    def _noise(self, key: Key) -> Floats:
        if key not in self._noises:
            self._noises[key] = self._noise_of(key)
        return self._noises[key]

    def _noise_of(self, key: Key) -> Floats:
        layers = self.blocks + 1
        if key not in self.contributions:
            bare = bool(self.contributions) or (bool(self.limited) and key not in self.limited)
            return np.full((2, layers, layers), np.nan if bare else 0.0)
        limits = [paired_limits(self._resampled[key], layer) for layer in range(layers)]
        low, high = np.stack(limits, axis=1)
        difference = self.curves[key][None, :] - self.curves[key][:, None]
        return np.stack([difference - low, high - difference])


def paired_limits(resampled: Floats, layer: int) -> tuple[Floats, Floats]:
    """Return the limits of every layer's difference from one, from resampled values.

    Args:
        resampled: (resample, layer), NaN where undefined.
        layer: the one.

    Returns:
        Lower and upper limits, each (layer,); NaN where undefined.
    """
    differences = resampled - resampled[:, [layer]]
    undefined = np.isnan(differences)
    found = np.full((2, resampled.shape[-1]), np.nan)
    tails = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    whole = np.flatnonzero(
        ~undefined.any(0)
    )  # nanquantile goes layer by layer, thirty times slower
    some = np.flatnonzero(undefined.any(0) & ~undefined.all(0))
    found[:, whole] = np.quantile(differences[:, whole], tails, axis=0)
    if len(some):
        found[:, some] = np.nanquantile(differences[:, some], tails, axis=0)
    return found[0], found[1]


def evidences(run: Run, *, seed: int = 0, resamples: int = 1000) -> tuple[Evidence, ...]:
    """Return what a run knows of each model on each set of texts.

    A run of task scores alone gives one evidence a model, without curves: fixed rules need none.

    Raises:
        InputError: the table has no layers, or several values of a measure at one layer.
    """
    table = run.table
    if table["layer"].dropna().empty:
        raise InputError("expected a results table with layers, got one without rows")
    single = (table["level"] != "pair") & table["other_layer"].isna()
    rows = table[single & (table["level"] != TASK) & (table["stage"] == BLOCK)]
    rows = rows[rows["value"].notna()]
    return tuple(
        Evidence(
            model=model,
            data=data,
            blocks=number_of_blocks(of_model),
            normed=bool((of_model["stage"] == FINAL_NORM).any()),
            curves=_curves(part, number_of_blocks(of_model)),
            contributions=_contributions(run, rows, number_of_blocks(of_model)),
            limited=frozenset(key for key, _ in _keyed(part[part["low"].notna()])),
            record=run.record,
            seed=seed,
            resamples=resamples,
        )
        for model, of_model in table.groupby(table["model"].fillna(""), sort=False)
        for data, part in _data_sets(rows[rows["model"].fillna("") == model])
    )


def _data_sets(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    if rows.empty:
        yield "", rows
    for data, part in rows.groupby(rows["data"].fillna(""), sort=False):
        yield str(data), part


def _keyed(rows: pd.DataFrame) -> Iterator[tuple[Key, pd.DataFrame]]:
    names = ["metric", "convention", "perturbation"]
    texts = rows[names].astype("string").fillna("")
    for key, part in rows.groupby([texts[name] for name in names], sort=False, observed=True):
        yield (str(key[0]), str(key[1]), str(key[2])), part


def _curves(rows: pd.DataFrame, blocks: int) -> dict[Key, Floats]:
    curves: dict[Key, Floats] = {}
    for key, part in _keyed(rows):
        if part["layer"].duplicated().any():
            raise InputError(
                f"expected one value of {key[0]!r} a layer, got several: the table holds more than "
                "one run; select one first."
            )
        curve = np.full(blocks + 1, np.nan)
        curve[part["layer"].to_numpy(dtype=int)] = part["value"].to_numpy(dtype=np.float64)
        curves[key] = curve
    return curves


def _contributions(run: Run, rows: pd.DataFrame, blocks: int) -> dict[Key, Floats]:
    """Return (layer, text) of each measure, the texts in one order for all."""
    kept = run.contributions
    if rows["model"].nunique() > 1 or rows["data"].nunique() > 1:
        return {}  # per-text numbers do not say whose they are
    kept = kept[kept["stage"] == BLOCK]
    texts = pd.Index(np.sort(kept["text"].unique()))
    found: dict[Key, Floats] = {}
    for key, part in _keyed(kept):
        matrix = np.full((blocks + 1, len(texts)), np.nan)
        where = part["layer"].to_numpy(dtype=int), texts.get_indexer(part["text"])
        matrix[where] = part["value"].to_numpy(dtype=np.float64)
        found[key] = matrix
    return found
