"""A scan: the pass, the measures, the record; and what it would cost in time, memory and disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layerscope.analysis.measure import (
    Cell,
    Measurement,
    dimensions_of,
    measure_dynamics,
    measure_site,
    notes_of,
    refuse_nothing_measured,
    run_frames,
)
from layerscope.analysis.plan import Prepared, conventions_of, prepare
from layerscope.analysis.readouts import refuse_own_readouts, scan_readouts
from layerscope.analysis.reduce import FINITE, Reduction, key
from layerscope.analysis.samples import counted
from layerscope.analysis.threads import one_thread, side_by_side
from layerscope.config import NonFinite
from layerscope.data.images import Images
from layerscope.data.texts import Texts
from layerscope.data.tokens import TokenBatch
from layerscope.errors import NonFiniteError, RunError
from layerscope.models.backbone import Backbone, non_finite_states, weight_bytes
from layerscope.results.display import IMAGES, in_words_of
from layerscope.results.folder import versions
from layerscope.results.table import Run
from layerscope.settings import ScanConfig
from layerscope.states.extract import Progress, Site, batches, extract, silent
from layerscope.states.store import Array, StateStore


def run_pass(
    backbone: Backbone, prepared: Prepared, store: StateStore, progress: Progress = silent
) -> None:
    """Run the model over every text and view that the store does not hold yet.

    Raises:
        RunError: states that are not finite, or a text that does not fit in memory.
    """
    settings = prepared.settings
    finished = store.finished()
    total = sum(len(prepared.texts[item].ids) for item in prepared.items)
    done = sum(len(prepared.texts[item].ids) for item in finished)
    base = Reduction(
        settings.pools,
        reference=prepared.reference,
        alpha=settings.alpha,
        non_finite=settings.non_finite,
    )
    marks = [counted(text, settings) for text in prepared.texts]
    phases = (
        (
            range(prepared.items.start, prepared.plain),
            replace(base, columns=prepared.columns, crossings=prepared.crossings),
        ),
        (range(prepared.plain, len(prepared.texts)), base),
    )
    for items, reduction in phases:
        progress("reading layers", done, total)
        planned = batches(
            backbone, prepared.texts, marks, settings.batch_tokens, items=items, finished=finished
        )
        try:
            for found, by_site in _results(backbone, planned, prepared.sites, reduction):
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
    backbone: Backbone, planned: Iterable[TokenBatch], sites: Sequence[Site], reduction: Reduction
) -> Iterator[tuple[tuple[int, ...], dict[Site, dict[str, Array]]]]:
    try:
        for result in extract(backbone, planned, sites, reduction):
            yield result.items, result.by_site
    except NonFiniteError as error:
        drop = ", or --non-finite drop to leave such texts out"
        raise non_finite_states(backbone, more=drop) from error


# --- the measures ------------------------------------------------------------------------------


def measure(
    prepared: Prepared,
    measurement: Measurement,
    store: StateStore,
    folder: Path | None = None,
    progress: Progress = silent,
) -> list[Cell]:
    """Make every measure of single layers at every site from what the pass left.

    Args:
        prepared: what was decided before the pass.
        measurement: what to measure, on which texts.
        store: what the pass left.
        folder: where finished sites are kept for a resumed run; None keeps none.
        progress: told after every site.
    """
    cells: list[Cell] = []
    made = side_by_side(lambda site: measure_site(measurement, site, store, folder), prepared.sites)
    for number, found in enumerate(made):
        progress("measuring layers", number, len(prepared.sites))
        cells.extend(found)
    progress("measuring layers", len(prepared.sites), len(prepared.sites))
    return cells


def measurement_of(prepared: Prepared, store: StateStore) -> Measurement:
    """Return what to measure, on the texts whose states are finite."""
    finite = _finite(prepared, store)
    good = _good_texts(prepared, finite)
    return Measurement(
        measures=prepared.measures,
        columns=prepared.columns,
        conventions=lambda record: conventions_of(record, prepared.settings),
        texts=np.flatnonzero(good),
        width=prepared.plain,
        views=[
            views.only(
                np.asarray(finite[views.items].all(1)) if views.corpus else good[views.texts]
            )
            for views in prepared.views
        ],
        reference=prepared.reference,
        alpha=prepared.settings.alpha,
        seed=prepared.settings.seed,
    )


def _finite(prepared: Prepared, store: StateStore) -> Array:
    """Which texts and views have finite states at every site."""
    everything = np.arange(len(prepared.texts))
    finite = np.ones(len(everything), dtype=bool)
    if prepared.settings.non_finite is NonFinite.DROP:
        for site in prepared.sites:
            finite &= store.rows(key(site, FINITE), everything)
    return finite


def _good_texts(prepared: Prepared, finite: Array) -> Array:
    """Which kept texts have finite states in themselves and in all of their views."""
    good: Array = finite[: prepared.plain].copy()
    for views in prepared.views:
        if not views.corpus:
            good[views.texts] &= finite[views.items].all(1)
    if good.sum() < 2:
        raise RunError(
            f"only {int(good.sum())} of {prepared.plain} texts have finite states at every layer; "
            "try --dtype float32."
        )
    return good


def scan_backbone(
    backbone: Backbone,
    texts: Texts,
    settings: ScanConfig,
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
        progress: called with the stage, what is done and the whole.
        load_seconds: time that loading took, for the record.
        open_parts: called once the plan is known and before the pass, to check a resumed folder.

    Raises:
        InputError: the texts or settings cannot be used with this model.
        RunError: the model or the disk failed.
    """
    started = time.perf_counter()
    prepared = prepare(backbone, texts, settings, progress)
    refuse_own_readouts(backbone, prepared)
    open_parts(prepared)
    store = StateStore(folder)
    try:
        run_pass(backbone, prepared, store, progress)
        passed = time.perf_counter()
        measurement = measurement_of(prepared, store)
        cells = measure(prepared, measurement, store, folder, progress)
        measured = time.perf_counter()
        with one_thread():
            cells += measure_dynamics(measurement, backbone.depth + 1, store, folder, progress)
        compared = time.perf_counter()
        readouts = scan_readouts(backbone, prepared, measurement, store, progress)
    finally:
        store.close()
    if settings.perturbation is not None:  # of the texts; there are no views then
        cells = [_perturbed(cell, settings.perturbation) for cell in cells]
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
        resamples=settings.resamples,
    )
    refuse_nothing_measured(table, undefined)
    finished = time.perf_counter()
    seconds = {
        "load": load_seconds,
        "pass": passed - started,
        "measure": measured - passed,
        "compare": compared - measured,
        "readouts": finished - compared,
        "total": load_seconds + finished - started,
    }
    prepared = replace(prepared, notes=(*prepared.notes, *notes_of(cells)))
    record = _record(backbone, texts, prepared, len(measurement.texts), seconds, undefined)
    record |= {"subspace_dimensions": dimensions_of(cells)}
    if isinstance(readouts, str):
        return Run(table, contributions, record | {"readouts": {"none": readouts}})
    return Run(table, contributions, record | {"readouts": readouts.facts()}, readouts)


def _perturbed(cell: Cell, label: str) -> Cell:
    of_prefix = cell.perturbation != "none"
    return replace(cell, perturbation=f"{label}, {cell.perturbation}" if of_prefix else label)


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
        texts_cut = "1 text was" if facts["truncated"] == 1 else f"{facts['truncated']} texts were"
        notes.append(f"{texts_cut} cut to the length limit of {facts['longest']} tokens.")
    if facts["views_truncated"]:
        notes.append(f"{facts['views_truncated']} views were cut to the length limit too.")
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
    }
    ratio, asked = facts.pop("first_token_ratio"), facts.pop("asked")
    augmentation, distances = facts.pop("augmentation"), facts.pop("edit_distance_by_text")
    if isinstance(texts, Images):
        data["kind"] = texts.noun
    return {
        "model": backbone.info.as_dict(),
        "data": data | facts,
        "settings": prepared.settings.as_dict() | {"first_token_ratio": ratio},
        "asked": asked,  # as_dict of what a source may decide, before it did
        "augmentation": augmentation,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "times": {name: round(value, 3) for name, value in seconds.items()},
        "undefined": undefined,
        "notes": list(in_words_of({"data": data}, tuple(notes))),
        "edit_distance_by_text": distances,
    }


@dataclass(frozen=True)
class Estimates:
    """What a scan would take.

    Attributes:
        texts: texts that would be measured.
        forward_passes: texts and views that would go through the model.
        tokens: their tokens, padding not counted.
        sites: places in the model that would be read.
        pass_seconds: time of the one pass, extrapolated from one batch by its tokens.
        memory_bytes: weights, one batch's states at one layer, and vectors waiting for the disk.
        disk_bytes: pooled vectors while the scan runs; the finished run is far smaller.
        kind: what the texts are, texts or images.
    """

    texts: int
    forward_passes: int
    tokens: int
    sites: int
    pass_seconds: float
    memory_bytes: int
    disk_bytes: int
    kind: str = "texts"


def estimate(backbone: Backbone, prepared: Prepared) -> Estimates:
    """Time one batch of typical texts, and count the rest."""
    lengths = np.array([len(text.ids) for text in prepared.texts])
    read = prepared.items
    first = range(read.start, prepared.plain) if read.start < prepared.plain else read
    order = first.start + np.argsort(lengths[first])
    budget = prepared.settings.batch_tokens
    typical = order[len(order) // 2 :][: max(1, budget // max(1, lengths[order[len(order) // 2]]))]
    finished = set(range(len(lengths))) - set(typical.tolist())
    seconds = 0.0
    for _ in range(2):  # the first run warms up
        store = _Elsewhere(finished)
        started = time.perf_counter()
        run_pass(backbone, prepared, store)
        seconds = time.perf_counter() - started
        store.close()
    kinds = 2 if prepared.reference else 1
    vectors = len(read) * len(prepared.sites) * backbone.info.dim * 4 * kinds
    weights = weight_bytes(backbone.model)
    states = max(budget, int(lengths.max())) * backbone.info.dim * 8 * 6
    return Estimates(
        texts=prepared.plain,
        forward_passes=len(read),
        tokens=int(lengths[read].sum()),
        sites=len(prepared.sites),
        pass_seconds=seconds * float(lengths[read].sum() / lengths[typical].sum()),
        memory_bytes=weights + states + min(vectors, StateStore.BUDGET),
        disk_bytes=vectors,
        kind="texts" if prepared.texts[0].picture is None else IMAGES,
    )


class _Elsewhere(StateStore):
    """A store that takes everything but one batch for done."""

    def __init__(self, done: set[int]) -> None:
        super().__init__()
        self._done = done

    def finished(self) -> set[int]:
        return self._done
