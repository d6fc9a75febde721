"""One pass over the texts and their views -> every measure at every layer -> a run.

The pass leaves pooled vectors and per-text numbers in a store; the measures of a site are then made
from the store, one site at a time. Both steps keep what they finish, so a killed run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from layerscope.augmentation import AugmentationSettings, View, views
from layerscope.data import Texts
from layerscope.errors import InputError, RunError
from layerscope.extraction import extract, sites_of
from layerscope.measuring import Cell, Measurement, measure_site, run_frames
from layerscope.metrics import catalogue
from layerscope.metrics.catalogue import Measure
from layerscope.metrics.inputs import Convention
from layerscope.models import Backbone
from layerscope.provenance import versions
from layerscope.reduction import FINITE, Column, Reduction, key
from layerscope.settings import FirstToken, NonFinite, ScanSettings
from layerscope.sinks import SINK_RATIO, first_token_ratio
from layerscope.states import Site
from layerscope.store import Array, StateStore
from layerscope.table import Run
from layerscope.tokenization import (
    TokenBatch,
    TokenizedText,
    length_limit,
    pad,
    padding_id,
    plan_batches,
    tokenize,
)

Progress = Callable[[str, int, int], None]


def silent(_stage: str, _done: int, _total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Prepared:
    """Texts and views as tokens, with what was decided about them before the pass.

    Attributes:
        settings: those given, with the first-token policy decided.
        sites: where the model is read.
        measures: what is computed.
        texts: item -> tokens, for the kept texts and then, text by text, their views.
        kept: which of the given texts are measured.
        viewed: which of the kept texts have views, by their place among the kept.
        notes: what a reader of the record should know.
        facts: numbers for the record.
    """

    settings: ScanSettings
    sites: tuple[Site, ...]
    measures: tuple[Measure, ...]
    texts: tuple[TokenizedText, ...]
    kept: tuple[int, ...]
    viewed: tuple[int, ...]
    notes: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def plain(self) -> int:
        """Number of kept texts: items below it are texts, the others views."""
        return len(self.kept)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Prompt measures with their conventions."""
        return tuple(
            (measure, convention)
            for measure in self.measures
            if measure.level == "prompt"
            for convention in conventions_of(measure, self.settings)
        )

    @property
    def reference(self) -> bool:
        """Whether the vectors that the authors' code pools are needed."""
        return Convention.REFERENCE in self.settings.conventions

    def view_items(self, place: int) -> range:
        """Items of the views of the `place`-th text that has views."""
        count = self.settings.views
        return range(self.plain + place * count, self.plain + (place + 1) * count)


def conventions_of(measure: Measure, settings: ScanSettings) -> tuple[Convention | None, ...]:
    """Return the asked conventions that a measure has, or (None,) if it has none at all."""
    if not measure.conventions:
        return (None,)
    return tuple(c for c in settings.conventions if c in measure.conventions)


def prepare(
    backbone: Backbone, texts: Texts, settings: ScanSettings, progress: Progress = silent
) -> Prepared:
    """Choose sites and measures, tokenize texts and views, and decide which tokens count.

    Raises:
        InputError: an unknown measure, layer or stage; too few texts, or none long enough.
    """
    sites = sites_of(backbone, settings.layers, settings.stages)
    measures = _chosen_measures(settings)
    limit = length_limit(backbone.tokenizer, backbone.model.config, settings.max_length)
    tokenized = tokenize(backbone.tokenizer, texts.texts, limit)
    settings, ratio, notes = _decide_first_token(backbone, tokenized, settings)
    kept = [i for i, text in enumerate(tokenized) if any(_counted(text, settings))]
    _refuse_too_few(texts, len(kept))
    plain = [tokenized[i] for i in kept]
    viewed: list[int] = []
    copies: list[View] = []
    if settings.views and any(measure.level == "view" for measure in measures):
        viewed, copies = _make_views([texts.texts[i] for i in kept], settings, progress)
    copied = tokenize(backbone.tokenizer, [copy.text for copy in copies], limit)
    viewed, copied = _with_counted_views(viewed, copied, settings)
    if copies and len(viewed) < len(kept):
        notes.append(
            f"{len(kept) - len(viewed)} texts are too short for {settings.views} distinct views; "
            "the view measures leave them out."
        )
    return Prepared(
        settings=settings,
        sites=sites,
        measures=measures,
        texts=(*plain, *copied),
        kept=tuple(kept),
        viewed=tuple(viewed),
        notes=tuple(notes),
        facts={
            "first_token_ratio": ratio,
            "dropped_short": len(tokenized) - len(kept),
            "truncated": sum(text.truncated for text in plain),
            "tokens": sum(len(text.ids) for text in plain),
            "longest": max(len(text.ids) for text in plain),
            "mean_edit_distance": _mean_distance(copies),
        },
    )


def _chosen_measures(settings: ScanSettings) -> tuple[Measure, ...]:
    chosen = catalogue.select(settings.metrics)
    if settings.views:
        return chosen
    views_needed = [measure.name for measure in chosen if measure.level == "view"]
    if settings.metrics and views_needed:
        names = ", ".join(views_needed)
        raise InputError(f"augmented views are needed for {names}, but the number of views is 0.")
    return tuple(measure for measure in chosen if measure.level != "view")


def _refuse_too_few(texts: Texts, kept: int) -> None:
    if len(texts) < 2:
        raise InputError(
            f"expected at least 2 distinct texts to measure layers on, got {len(texts)} from "
            f"{texts.name}; give more texts."
        )
    if kept < 2:
        raise InputError(
            f"all but {kept} of {len(texts)} texts from {texts.name} have no token that counts; give "
            "longer texts, or count special tokens (--special-tokens include)."
        )


def _counted(text: TokenizedText, settings: ScanSettings) -> list[bool]:
    return text.counted(
        special_tokens=settings.special_tokens,
        first_token=settings.first_token is not FirstToken.DROP,
    )


def _decide_first_token(
    backbone: Backbone, tokenized: Sequence[TokenizedText], settings: ScanSettings
) -> tuple[ScanSettings, float | None, list[str]]:
    """Measure position 0 against the rest, and leave it out if it is an attention sink."""
    ratio = first_token_ratio(backbone, tokenized)
    if settings.first_token is not FirstToken.AUTO:
        return settings, ratio, []
    if ratio is None or ratio < SINK_RATIO:
        return settings.with_first_token(FirstToken.KEEP), ratio, []
    note = (
        f"the first token's norm reaches {ratio:.0f} x the median of the others (an attention sink): "
        "it is left out of every measure; --first-token keep counts it."
    )
    return settings.with_first_token(FirstToken.DROP), ratio, [note]


def _make_views(
    texts: Sequence[str], settings: ScanSettings, progress: Progress
) -> tuple[list[int], list[View]]:
    """Return which texts allow that many distinct views, and all of their views in a row."""
    style = _augmentation(settings)
    viewed: list[int] = []
    copies: list[View] = []
    for place, text in enumerate(texts):
        progress("making views", place, len(texts))
        try:
            copies.extend(views(text, settings.views, settings=style, seed=settings.seed))
        except InputError:  # too short for so many
            continue
        viewed.append(place)
    progress("making views", len(texts), len(texts))
    if len(viewed) < min(3, len(texts)):
        raise InputError(
            f"only {len(viewed)} of {len(texts)} texts allow {settings.views} distinct views; give "
            "longer texts, or fewer --views (0 for none)."
        )
    return viewed, copies


def _with_counted_views(
    viewed: list[int], copied: list[TokenizedText], settings: ScanSettings
) -> tuple[list[int], list[TokenizedText]]:
    """Leave out texts of which a view has no token that counts, so that it has no mean."""
    count = settings.views
    kept = [
        number
        for number in range(len(viewed))
        if all(any(_counted(view, settings)) for view in copied[number * count :][:count])
    ]
    views_kept = [view for number in kept for view in copied[number * count :][:count]]
    return [viewed[number] for number in kept], views_kept


def _augmentation(settings: ScanSettings) -> AugmentationSettings:
    authors = settings.augmentation == "authors"
    return AugmentationSettings.authors() if authors else AugmentationSettings()


def _mean_distance(copies: Sequence[View]) -> float | None:
    if not copies:
        return None
    return float(np.mean([copy.relative_distance for copy in copies]))


# --- the pass ----------------------------------------------------------------------------------


def run_pass(
    backbone: Backbone, prepared: Prepared, store: StateStore, progress: Progress = silent
) -> None:
    """Run the model over every text and view that the store does not hold yet.

    Raises:
        RunError: states that are not finite, or a text that does not fit in memory.
    """
    settings = prepared.settings
    finished = store.finished()
    total = sum(len(text.ids) for text in prepared.texts)
    done = sum(len(prepared.texts[item].ids) for item in finished)
    base = Reduction(
        settings.pooling,
        reference=prepared.reference,
        alpha=settings.alpha,
        non_finite=settings.non_finite,
    )
    phases = (
        (range(prepared.plain), replace(base, columns=prepared.columns)),
        (range(prepared.plain, len(prepared.texts)), base),
    )
    for items, reduction in phases:
        progress("reading layers", done, total)
        try:
            for found, by_site in _results(backbone, prepared, items, finished, reduction):
                store.add(np.asarray(found), _rows(by_site))
                done += sum(len(prepared.texts[item].ids) for item in found)
                progress("reading layers", done, total)
        finally:  # an interrupt or a failure loses nothing that was computed
            store.flush()


def _rows(by_site: dict[Site, dict[str, Array]]) -> dict[str, Array]:
    return {
        key(site, kind): rows for site, kinds in by_site.items() for kind, rows in kinds.items()
    }


def _results(
    backbone: Backbone,
    prepared: Prepared,
    items: range,
    finished: set[int],
    reduction: Reduction,
) -> Iterator[tuple[tuple[int, ...], dict[Site, dict[str, Array]]]]:
    try:
        for result in extract(
            backbone, _batches(backbone, prepared, items, finished), prepared.sites, reduction
        ):
            yield result.items, result.by_site
    except RunError as error:
        if "NaN or infinite" not in str(error):
            raise
        raise RunError(
            f"{backbone.info.name} in {backbone.info.dtype} gave hidden states that are NaN or "
            "infinite; try --dtype float32, or --non-finite drop to leave such texts out."
        ) from error


def _batches(
    backbone: Backbone, prepared: Prepared, items: range, finished: set[int]
) -> Iterator[TokenBatch]:
    """Yield the planned batches that are not finished; the plan itself never depends on those."""
    texts = prepared.texts
    counted = [_counted(text, prepared.settings) for text in texts]
    pad_id = padding_id(backbone.tokenizer, backbone.model.config)
    plan = plan_batches([len(texts[item].ids) for item in items], prepared.settings.batch_tokens)
    for group in plan:
        batch = [items[place] for place in group]
        if not finished.issuperset(batch):
            yield pad(batch, texts, counted, pad_id=pad_id, device=backbone.device)


# --- the measures ------------------------------------------------------------------------------


def measure(
    prepared: Prepared, store: StateStore, folder: Path | None = None, progress: Progress = silent
) -> tuple[list[Cell], Array]:
    """Make every measure at every site from what the pass left.

    Args:
        prepared: what was decided before the pass.
        store: what the pass left.
        folder: where finished sites are kept for a resumed run; None keeps none.
        progress: told after every site.

    Returns:
        The cells, and which of the kept texts (by place) they were made of.
    """
    good = _good_texts(prepared, store)
    viewed = np.array(
        [p for p in range(len(prepared.viewed)) if good[prepared.viewed[p]]], dtype=int
    )
    cells: list[Cell] = []
    texts = np.flatnonzero(good)
    measurement = Measurement(
        measures=prepared.measures,
        columns=prepared.columns,
        conventions=lambda record: conventions_of(record, prepared.settings),
        texts=texts,
        width=prepared.plain,
        views=np.array([list(prepared.view_items(p)) for p in viewed], dtype=int),
        view_texts=np.array([prepared.viewed[p] for p in viewed], dtype=int),
        reference=prepared.reference,
        alpha=prepared.settings.alpha,
        seed=prepared.settings.seed,
    )
    for number, site in enumerate(prepared.sites):
        progress("measuring layers", number, len(prepared.sites))
        cells.extend(measure_site(measurement, site, store, folder))
    progress("measuring layers", len(prepared.sites), len(prepared.sites))
    return cells, texts


def _good_texts(prepared: Prepared, store: StateStore) -> Array:
    """Which kept texts have finite states at every site, in themselves and in all of their views."""
    good = np.ones(prepared.plain, dtype=bool)
    if prepared.settings.non_finite is NonFinite.RAISE:
        return good
    everything = np.arange(len(prepared.texts))
    for site in prepared.sites:
        finite = store.rows(key(site, FINITE), everything)
        good &= finite[: prepared.plain]
        for place, text in enumerate(prepared.viewed):
            good[text] &= finite[prepared.view_items(place)].all()
    if good.sum() < 2:
        raise RunError(
            f"only {int(good.sum())} of {prepared.plain} texts have finite states at every layer; "
            "try --dtype float32."
        )
    return good


def scan_backbone(
    backbone: Backbone,
    texts: Texts,
    settings: ScanSettings,
    *,
    folder: Path | None = None,
    progress: Progress = silent,
    load_seconds: float = 0.0,
    open_parts: Callable[[Prepared], None] = lambda _: None,
) -> Run:
    """Measure a model on texts: the whole of a scan but for loading and saving.

    Args:
        backbone: the model.
        texts: what to measure it on.
        settings: how.
        folder: where unfinished work is kept; None keeps it in a temporary folder.
        progress: told of the stage, what is done and the whole.
        load_seconds: time that loading took, for the record.
        open_parts: called once the plan is known and before the pass, to check a resumed folder.

    Raises:
        InputError: the texts or settings cannot be used with this model.
        RunError: the model or the disk failed.
    """
    started = time.perf_counter()
    prepared = prepare(backbone, texts, settings, progress)
    open_parts(prepared)
    store = StateStore(folder)
    try:
        run_pass(backbone, prepared, store, progress)
        passed = time.perf_counter()
        cells, used = measure(prepared, store, folder, progress)
    finally:
        store.close()
    table, contributions, undefined = run_frames(
        cells,
        depth=backbone.depth,
        texts=[prepared.kept[i] for i in range(prepared.plain)],
        labels={
            "model": backbone.info.name,
            "revision": backbone.info.revision,
            "data": texts.name,
            "seed": prepared.settings.seed,
        },
        perturbation=_augmentation(settings).label,
        resamples=settings.resamples,
    )
    _refuse_nothing_measured(table, undefined)
    finished = time.perf_counter()
    seconds = {
        "load": load_seconds,
        "pass": passed - started,
        "measure": finished - passed,
        "total": load_seconds + finished - started,
    }
    record = _record(backbone, texts, prepared, len(used), seconds, undefined)
    return Run(table, contributions, record)


def _refuse_nothing_measured(table: pd.DataFrame, undefined: list[dict[str, Any]]) -> None:
    if table["value"].notna().any():
        return
    why = f": {undefined[0]['reason'].rstrip('.')}" if undefined else ""
    raise RunError(f"no measure has a value at any layer{why}.")


def _record(
    backbone: Backbone,
    texts: Texts,
    prepared: Prepared,
    used: int,
    seconds: dict[str, float],
    undefined: list[dict[str, Any]],
) -> dict[str, Any]:
    facts = dict(prepared.facts)
    notes = list(prepared.notes)
    if facts["truncated"]:
        notes.append(
            f"{facts['truncated']} texts were cut to the length limit of {facts['longest']} tokens."
        )
    if used < prepared.plain:
        notes.append(
            f"{prepared.plain - used} texts with states that are not finite were left out."
        )
    data = {
        "name": texts.name,
        "fingerprint": texts.fingerprint,
        "texts": used,
        "dropped_duplicates": texts.dropped_duplicates,
        "dropped_empty": texts.dropped_empty,
        "total_read": texts.total_read,
        "with_views": len(prepared.viewed),
    }
    ratio = facts.pop("first_token_ratio")
    distance = facts.pop("mean_edit_distance")
    return {
        "model": backbone.info.as_dict(),
        "data": data | facts,
        "settings": prepared.settings.as_dict() | {"first_token_ratio": ratio},
        "augmentation": {
            "label": _augmentation(prepared.settings).label,
            "mean_edit_distance": distance,
        },
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "times": {name: round(value, 3) for name, value in seconds.items()},
        "undefined": undefined,
        "notes": notes,
    }


# --- arrays instead of a model -------------------------------------------------------------------


def scan_arrays(vectors: torch.Tensor, settings: ScanSettings, progress: Progress = silent) -> Run:
    """Measure pooled vectors that come from elsewhere, as layers 0..L.

    Args:
        vectors: (layer, sample, dim) for dataset measures, or (layer, sample, view, dim), the pooled
            vectors of augmented copies, for view measures.
        settings: which measures and conventions; what concerns models and texts has no effect.
        progress: told after every layer.

    Raises:
        InputError: another shape, or a measure that needs what arrays do not have.
    """
    if vectors.ndim not in (3, 4) or not vectors.is_floating_point():
        raise InputError(
            "expected floating-point vectors (layer, sample, dim) or (layer, sample, view, dim), got "
            f"{vectors.dtype} {tuple(vectors.shape)}."
        )
    layers, samples = vectors.shape[:2]
    if layers < 1 or samples < 2:
        raise InputError(f"expected at least 1 layer and 2 samples, got {layers} and {samples}.")
    level = "dataset" if vectors.ndim == 3 else "view"
    measures = _array_measures(settings, level)
    items = np.arange(samples * (1 if level == "dataset" else vectors.shape[2]))
    groups = items.reshape(samples, -1)
    store = StateStore()
    sites = [Site(layer) for layer in range(layers)]
    wide = vectors if vectors.dtype == torch.float64 else vectors.float()
    flat = wide.detach().reshape(layers, len(items), -1).cpu().numpy()
    store.add(items, {key(site, "pooled"): flat[site.layer] for site in sites})
    measurement = Measurement(
        measures=measures,
        columns=(),
        conventions=lambda record: tuple(
            c for c in conventions_of(record, settings) if c is not Convention.REFERENCE
        ),
        texts=np.arange(samples),
        width=samples,
        views=groups,
        view_texts=np.arange(samples),
        reference=False,
        alpha=settings.alpha,
        seed=settings.seed,
    )
    cells: list[Cell] = []
    try:
        for number, site in enumerate(sites):
            progress("measuring layers", number, layers)
            cells.extend(measure_site(measurement, site, store))
    finally:
        store.close()
    progress("measuring layers", layers, layers)
    table, contributions, undefined = run_frames(
        cells,
        depth=max(1, layers - 1),
        texts=range(samples),
        labels={"model": "arrays", "revision": "", "data": "arrays", "seed": settings.seed},
        perturbation="given",
        resamples=settings.resamples,
    )
    _refuse_nothing_measured(table, undefined)
    record = {
        "model": {"name": "arrays", "blocks": layers - 1, "dim": vectors.shape[-1]},
        "data": {"name": "arrays", "texts": samples},
        "settings": settings.as_dict(),
        "versions": versions(),
        "undefined": undefined,
        "notes": ["measured on given arrays: no model was run"],
    }
    return Run(table, contributions, record)


def _array_measures(settings: ScanSettings, level: str) -> tuple[Measure, ...]:
    chosen = catalogue.select(settings.metrics)
    fitting = tuple(measure for measure in chosen if measure.level == level)
    if settings.metrics and len(fitting) < len(chosen):
        others = ", ".join(measure.name for measure in chosen if measure.level != level)
        axes = "(layer, sample, dim)" if level == "dataset" else "(layer, sample, view, dim)"
        raise InputError(f"arrays {axes} do not allow {others}.")
    return fitting
