"""Everything that is decided before the pass: sites, measures, tokens, views, which tokens count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from layerscope.augmentation import AugmentationSettings, View, mean_edit_distance, views
from layerscope.data import Texts
from layerscope.errors import InputError
from layerscope.extraction import sites_of
from layerscope.metrics import catalogue
from layerscope.metrics.catalogue import Measure
from layerscope.metrics.inputs import Convention
from layerscope.models import Backbone
from layerscope.reduction import Column
from layerscope.settings import FirstToken, ScanSettings
from layerscope.sinks import SINK_RATIO, first_token_ratio
from layerscope.states import Site
from layerscope.tokenization import TokenizedText, length_limit, tokenize

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
    def crossings(self) -> bool:
        """Whether tokens are compared before and after each block."""
        return any(measure.crosses_blocks for measure in self.measures)

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
    measures, notes = _with_whole_stacks(measures, sites, backbone.depth, settings)
    limit = length_limit(backbone.tokenizer, backbone.model.config, settings.max_length)
    tokenized = tokenize(backbone.tokenizer, texts.texts, limit)
    settings, ratio, told = _decide_first_token(backbone, tokenized, settings)
    notes += told
    kept = [i for i, text in enumerate(tokenized) if any(counted(text, settings))]
    _refuse_too_few(texts, len(kept))
    plain = [tokenized[i] for i in kept]
    viewed: list[int] = []
    copies: list[View] = []
    if settings.views and any(measure.level == "view" for measure in measures):
        viewed, copies = _make_views([texts.texts[i] for i in kept], settings, progress)
    distances = _distances([kept[place] for place in viewed], copies, settings.views)
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
            "views_truncated": sum(text.truncated for text in copied),
            "edit_distance": distances,
        },
    )


def _distances(texts: Sequence[int], copies: Sequence[View], count: int) -> dict[str, Any]:
    """Return how far views are from their texts: relative edit distance, on average and by text."""
    if not copies:
        return {"mean": None, "by_text": {}}
    groups = (copies[place * count : (place + 1) * count] for place in range(len(texts)))
    by_text = {str(i): round(mean_edit_distance(g), 4) for i, g in zip(texts, groups, strict=True)}
    return {"mean": mean_edit_distance(copies), "by_text": by_text}


def _chosen_measures(settings: ScanSettings) -> tuple[Measure, ...]:
    chosen = catalogue.select(settings.metrics)
    if settings.views:
        return chosen
    views_needed = [measure.name for measure in chosen if measure.level == "view"]
    if settings.metrics and views_needed:
        names = ", ".join(views_needed)
        raise InputError(f"augmented views are needed for {names}, but the number of views is 0.")
    return tuple(measure for measure in chosen if measure.level != "view")


def _with_whole_stacks(
    measures: tuple[Measure, ...], sites: Sequence[Site], depth: int, settings: ScanSettings
) -> tuple[tuple[Measure, ...], list[str]]:
    """Leave out measures of several layers where not every layer is read; say so in a note."""
    between = [measure.name for measure in measures if measure.level == "pair"]
    if not between or {Site(layer) for layer in range(depth + 1)} <= set(sites):
        return measures, []
    if settings.metrics:
        raise InputError(
            f"{', '.join(between)} need the output of every block, layers 0 to {depth}; leave "
            "--layers out, or these measures."
        )
    note = (
        "measures of several layers (Frenet, NRS, GFMI, ...) were left out: they need every layer."
    )
    return tuple(measure for measure in measures if measure.level != "pair"), [note]


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


def counted(text: TokenizedText, settings: ScanSettings) -> list[bool]:
    """For each token of a text, whether it counts under the settings."""
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
    style = augmentation(settings)
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
        if all(any(counted(view, settings)) for view in copied[number * count :][:count])
    ]
    views_kept = [view for number in kept for view in copied[number * count :][:count]]
    return [viewed[number] for number in kept], views_kept


def augmentation(settings: ScanSettings) -> AugmentationSettings:
    """Return how views are made."""
    authors = settings.augmentation == "authors"
    return AugmentationSettings.authors() if authors else AugmentationSettings()
