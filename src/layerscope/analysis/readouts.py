"""Every readout of a declared family and the baselines, scored by crop retrieval on the same texts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from layerscope.analysis.measure import Measurement, ViewSet
from layerscope.analysis.plan import Prepared
from layerscope.analysis.reduce import POOLED, key
from layerscope.analysis.samples import CROPS_OF_IMAGES, ENOUGH, counted
from layerscope.analysis.threads import one_thread
from layerscope.config import Pooling
from layerscope.data.images import Picture
from layerscope.data.views import SpanConfig, SpanKind, ViewKind, view_kind, views_of
from layerscope.errors import InputError, UndefinedError
from layerscope.metrics.crop_retrieval import LEAST_TEXTS, CropRetrieval
from layerscope.metrics.readouts import (
    Floats,
    Readout,
    Rows,
    Weighting,
    embedding_filter,
    loes_layers,
)
from layerscope.models.backbone import Backbone
from layerscope.results.readouts import Candidate, Costs, ReadoutTable
from layerscope.results.resampling import bootstrap_limits, simultaneous_lows
from layerscope.states.extract import Progress, Site, batches, extract, silent
from layerscope.states.store import StateStore

MAPS: Final = ("none", "z-score", "abtt-1", "whitening-0.5")
GREEDY_MAPS: Final = 2  # maps, those of the best single layers, that sets are grown with
MOST_LAYERS: Final = 6  # in a grown set
LOES_LAYERS: Final = 4
_TIMED_TOKENS: Final = 1024  # of a batch that the speed is measured on


def layer_sets(sites: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the declared sets of several layers, by name.

    >>> layer_sets(range(6))["last two thirds"]
    (2, 3, 4, 5)
    """
    given, count = tuple(sites), len(sites)
    sets = {
        "all": given,
        "last 4": given[-4:],
        "upper half": given[count // 2 :],
        "last two thirds": given[count // 3 :],
        "first and last": (given[0], given[-1]),
    }
    return {name: layers for name, layers in sets.items() if len(set(layers)) > 1}


def family(sites: Sequence[int], maps: Iterable[str] = MAPS) -> tuple[Readout, ...]:
    """Return the declared readouts: each site, and each set with equal and with unit weights, by map.

    Args:
        sites: in the order of depth, the model's own output last.
        maps: kinds of maps, see `metrics.readouts`.
    """
    weightings: tuple[Weighting, ...] = ("equal", "unit")
    sets: list[tuple[int, ...]] = [(site,) for site in sites]
    sets += layer_sets(sites).values()
    found = [Readout(*each) for each in itertools.product(sets, maps, weightings)]
    return tuple({readout.key: readout for readout in found}.values())


def baselines(sites: Sequence[int]) -> dict[str, Readout]:
    """Return the baselines that are readouts, by name; sites as in `family`."""
    given, last = tuple(sites), len(sites) - 1
    return {
        "last": Readout((given[-1],)),
        "middle": Readout((given[last // 2],)),
        "two thirds": Readout((given[round(2 * last / 3)],)),
        "mean of the last 4": Readout(given[-4:]),
        "WhiteningBERT": Readout(tuple(dict.fromkeys((given[0], given[-1]))), "whitening-1"),
    }


def compare_readouts(
    vectors: Mapping[int, Rows],
    *,
    more: Collection[Readout] = (),
    maps: Sequence[str] = MAPS,
    blocks: Mapping[int, int] | None = None,
    embedding: Rows | None = None,
    seed: int = 0,
    resamples: int = 1000,
    as_served: bool = False,
) -> ReadoutTable:
    """Score the declared family, sets grown from it and the baselines.

    Sets are grown from the best single layer of each of the two maps that serve single layers best:
    the site that raises the score most is added while the rise is beyond its noise, whose limit allows
    for the number of sites tried.

    Args:
        vectors: site -> pooled vectors of two disjoint crops of each text (2, text, dim), in the order
            of depth; the last site is the model's own output.
        more: the user's own readouts.
        maps: that single sites and declared sets are followed by.
        blocks: site -> blocks that must run for it; by default the site's own number.
        embedding: the output embedding (token, dim) for EmbedFilter, where the model has a head.
        seed: of the split into folds and of the resampling.
        resamples: of the texts, for limits.
        as_served: see `CropRetrieval`; it adds the map `center`.

    Raises:
        InputError: see `CropRetrieval`; or the model's own output has no score.
    """
    retrieval = CropRetrieval(vectors, seed=seed, as_served=as_served)
    sites = tuple(vectors)
    maps = tuple(dict.fromkeys((*maps, "center"))) if as_served else tuple(maps)
    named = baselines(sites)
    scored = _Scored(retrieval)
    scored.add(*family(sites, maps), *named.values(), *more)
    for name in _best_maps(scored, maps):
        _grow(scored, sites, name, seed, resamples)
    extra = _other_baselines(retrieval, embedding)
    return _table(scored, named, extra, tuple(more), blocks or {}, seed, resamples)


class _Scored:
    """The contributions (text,) of the readouts that have been scored."""

    def __init__(self, retrieval: CropRetrieval) -> None:
        self.retrieval = retrieval
        self.rows: dict[Readout, Floats] = {}
        self.left_out: dict[str, str] = {}
        self._keys: set[object] = set()

    def add(self, *readouts: Readout) -> None:
        """Score readouts that have not been; those of the same layers and weights at once."""
        groups: dict[tuple[object, str], list[Readout]] = {}
        for readout in readouts:
            if readout.key not in self._keys:
                self._keys.add(readout.key)
                key = frozenset(readout.layers), readout.weighting
                groups.setdefault(key, []).append(readout)
        for group in groups.values():
            try:
                self._score(group)
            except UndefinedError:  # one map may be undefined and the others not
                for readout in group:
                    self._score_alone(readout)

    def _score(self, group: list[Readout]) -> None:
        found = self.retrieval.contributions(group[0], [readout.map for readout in group])
        for readout in group:
            if np.isnan(found[readout.map]).all():
                self.left_out[str(readout)] = "all of its vectors are equal"
            else:
                self.rows[readout] = found[readout.map]

    def _score_alone(self, readout: Readout) -> None:
        try:
            self._score([readout])
        except UndefinedError as error:
            self.left_out[str(readout)] = str(error)

    def score(self, readout: Readout) -> float:
        return float(np.nanmean(self.rows[readout])) if readout in self.rows else -np.inf


def _best_maps(scored: _Scored, maps: Sequence[str]) -> list[str]:
    def best(name: str) -> float:
        return max(
            (scored.score(each) for each in scored.rows if _single(each) and each.map == name),
            default=-np.inf,
        )

    return sorted(maps, key=best, reverse=True)[:GREEDY_MAPS]


def _single(readout: Readout) -> bool:
    return len(readout.layers) == 1


def _grow(scored: _Scored, sites: tuple[int, ...], name: str, seed: int, resamples: int) -> None:
    """Add sites to the best one of a map while the score rises beyond its noise."""
    singles = [each for each in scored.rows if _single(each) and each.map == name]
    if not singles:
        return
    current = max(singles, key=scored.score)
    while len(current.layers) < min(MOST_LAYERS, len(sites)):
        left = [site for site in sites if site not in current.layers]
        grown = [Readout((*current.layers, site), name, "unit") for site in left]
        scored.add(*grown)
        grown = [each for each in scored.rows if any(each.key == other.key for other in grown)]
        if not grown:
            return
        best = max(grown, key=scored.score)
        rows = np.stack([scored.rows[each] for each in (current, *grown)])
        if not simultaneous_lows(rows, 0, seed, resamples)[1 + grown.index(best)] > 0:
            return
        current = best


def _other_baselines(
    retrieval: CropRetrieval, embedding: Rows | None
) -> Iterator[tuple[str, str, tuple[int, ...], Floats]]:
    """Yield the baselines that are no readouts: name, candidate's name, layers, contributions."""
    own = retrieval.sites[-1]
    taken = loes_layers(retrieval.fitting_rows(), LOES_LAYERS)
    if taken:
        joined = retrieval.of_layers(lambda rows: np.concatenate([rows[s] for s in taken], -1))
        yield "LOES", f"LOES: {', '.join(map(str, taken))} concatenated", taken, joined
    if embedding is not None:
        matrix = embedding_filter(embedding).astype(np.float32)
        filtered = retrieval.of_layers(lambda rows: rows[own] @ matrix.T)
        yield "EmbedFilter", f"EmbedFilter of {own}", (own,), filtered


def _table(
    scored: _Scored,
    named: Mapping[str, Readout],
    extra: Iterable[tuple[str, str, tuple[int, ...], Floats]],
    more: Iterable[Readout],
    blocks: Mapping[int, int],
    seed: int,
    resamples: int,
) -> ReadoutTable:
    entries: list[tuple[str, Readout | None, tuple[int, ...]]] = [
        (str(readout), readout, readout.layers) for readout in scored.rows
    ]
    rows = list(scored.rows.values())
    places = {readout.key: place for place, readout in enumerate(scored.rows)}
    known = {name: places[each.key] for name, each in named.items() if each.key in places}
    if "last" not in known:
        raise InputError("the vectors of the last site are all equal, so the output has no score.")
    for name, title, layers, row in extra:
        known[name] = len(rows)
        entries.append((title, None, layers))
        rows.append(row)
    contributions = np.stack(rows)
    low, high = bootstrap_limits(contributions, seed, resamples)
    scores = np.nanmean(contributions, -1)
    candidates = tuple(
        Candidate(
            name,
            readout,
            max(blocks.get(layer, layer) for layer in layers),
            float(scores[place]),
            float(low[place]),
            float(high[place]),
        )
        for place, (name, readout, layers) in enumerate(entries)
    )
    retrieval = scored.retrieval
    return ReadoutTable(
        candidates,
        contributions,
        known["last"],
        known,
        retrieval.galleries,
        retrieval.chance,
        left_out=scored.left_out,
        asked=tuple(entries[places[each.key]][0] for each in more if each.key in places),
    )


# --- a scan's readouts -------------------------------------------------------------------------------


def own_sites(backbone: Backbone) -> tuple[Site, ...]:
    """Return the sites that readouts read, numbered as transformers' `hidden_states` usually are.

    Number k is the output of block k, but for the last one: what the model gives, after its final norm
    where there is one.
    """
    depth = backbone.depth
    last = Site(depth, "final_norm") if backbone.final_norm is not None else Site(depth)
    return (*(Site(layer) for layer in range(depth)), last)


def images_to_fit_on(pictures: Sequence[Picture], seed: int = 0) -> list[Picture]:
    """Return both crops of each image, as a scan takes them."""
    return views_of(pictures, CROPS_OF_IMAGES, 2, seed, lambda: None).made


def texts_to_fit_on(texts: Sequence[str], seed: int = 0) -> tuple[list[str], str]:
    """Return both crops of each text, or the texts where too few allow crops; and what they are."""
    crops = views_of(texts, SpanConfig(kind=SpanKind.CROPS), 2, seed, lambda: None).made
    if len(crops) >= 2 * min(ENOUGH, len(texts)):
        return crops, f"{len(crops):,} crops of 20 words"
    return list(texts), f"{len(texts):,} texts"


def scan_readouts(
    backbone: Backbone,
    prepared: Prepared,
    measurement: Measurement,
    store: StateStore,
    progress: Progress = silent,
) -> ReadoutTable | str:
    """Compare the readouts of a scanned model on its crops, or return why there are none."""
    if obstacle := _obstacle(backbone, prepared, measurement.views):
        return obstacle
    settings, sites, crops = prepared.settings, own_sites(backbone), _crops(measurement.views)
    progress("comparing readouts", 0, 1)
    pairs = crops[0].items[:, :2].T
    vectors = {
        number: np.stack([store.rows(key(site, POOLED), items) for items in pairs])
        for number, site in enumerate(sites)
    }
    try:
        with one_thread():
            found = compare_readouts(
                vectors,
                more=[Readout.parse(name) for name in settings.readouts],
                seed=settings.seed,
                resamples=settings.resamples,
            )
    except InputError as error:
        return str(error)
    finally:
        progress("comparing readouts", 1, 1)
    return replace(
        found,
        crops=crops[0].perturbation,
        blocks=backbone.depth,
        costs=_costs(backbone, prepared, pairs[0]),
    )


def refuse_own_readouts(backbone: Backbone, prepared: Prepared) -> None:
    """Refuse, before the pass, readouts of the user's own that the scan could not compare.

    Raises:
        InputError: a readout of layers that the model lacks, or a scan that compares none.
    """
    for name in prepared.settings.readouts:
        highest = max(Readout.parse(name).layers)
        if highest > backbone.depth:
            raise InputError(
                f"expected layers from 0 to {backbone.depth} in the readout '{name}', got {highest}."
            )
    if prepared.settings.readouts and (obstacle := _obstacle(backbone, prepared, prepared.views)):
        raise InputError(f"your readouts cannot be compared: {obstacle}; leave --readouts out.")


def _crops(views: Sequence[ViewSet]) -> list[ViewSet]:
    return [each for each in views if view_kind(each.perturbation) is ViewKind.CROPS]


def _obstacle(backbone: Backbone, prepared: Prepared, views: Sequence[ViewSet]) -> str:
    """Return why a scan compares no readouts, or nothing."""
    crops = _crops(views)
    if not crops or all(measure.name != "retrieval" for measure in prepared.measures):
        return "readouts are compared by crop retrieval, which was not measured"
    if prepared.settings.pooling is Pooling.MAX:
        return "the maximum over tokens is not linear, so layers cannot be averaged before it"
    if not set(own_sites(backbone)) <= set(prepared.sites):
        return "readouts are compared where every layer is read"
    if len(crops[0].texts) < LEAST_TEXTS:
        return f"readouts need crops of at least {LEAST_TEXTS} texts, got {len(crops[0].texts)}"
    return ""


def _costs(backbone: Backbone, prepared: Prepared, crops: Sequence[int]) -> Costs:
    """Return what serving costs: weights by blocks, and the time of typical texts of one batch.

    Args:
        backbone: the model.
        prepared: the scan's texts.
        crops: the items whose crops were compared, timed where no whole texts were read.
    """
    items = range(prepared.plain) if prepared.items.start == 0 else crops
    by_length = sorted(items, key=lambda item: len(prepared.texts[item].ids))
    middle = by_length[len(by_length) // 2]
    most = max(1, _TIMED_TOKENS // max(1, len(prepared.texts[middle].ids)))
    start = max(0, len(by_length) // 2 - most // 2)
    texts = [prepared.texts[item] for item in by_length[start : start + most]]
    marks = [counted(text, prepared.settings) for text in texts]

    def timed(site: Site) -> float:
        planned = list(batches(backbone, texts, marks, prepared.settings.batch_tokens))
        started = time.perf_counter()
        for _ in extract(backbone, planned, [site], lambda _states: None):
            pass
        return (time.perf_counter() - started) / len(texts)

    first, *_, last = own_sites(backbone)
    every = timed(last)
    return Costs(_weight_bytes(backbone), (min(timed(first), every), every), backbone.info.dim)


def _weight_bytes(backbone: Backbone) -> tuple[int, ...]:
    """Return the bytes of weights with the first 0, 1, ... all blocks; shared ones count once."""
    own = [{id(w): w.nbytes for w in block.parameters()} for block in backbone.blocks]
    every = {id(w): w.nbytes for w in backbone.model.parameters()}
    in_blocks = {name for block in own for name in block}
    kept = {name: size for name, size in every.items() if name not in in_blocks}
    found = [sum(kept.values())]
    for block in own:
        kept |= block
        found.append(sum(kept.values()))
    return tuple(found)
