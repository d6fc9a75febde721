"""What is decided before the pass: sites, measures, tokens, views, which tokens count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layerscope.analysis.measure import ViewSet
from layerscope.analysis.prefixes import prefixes_of
from layerscope.analysis.reduce import Column
from layerscope.analysis.samples import (
    counted,
    make_views,
    notes_on,
    read_samples,
    styles,
    tokenized_views,
    view_facts,
)
from layerscope.config import Augmentation, FirstToken, NonFinite, Perturbation
from layerscope.data.images import Images
from layerscope.data.perturbations import perturbed
from layerscope.data.texts import Texts
from layerscope.data.tokens import TokenizedText, length_limit
from layerscope.errors import InputError
from layerscope.metrics import catalogue
from layerscope.metrics.measure import Measure
from layerscope.metrics.readouts import Readout
from layerscope.models.backbone import Backbone
from layerscope.models.serving import LEFT_OPEN, as_served
from layerscope.settings import Convention, PrefixConfig, ScanConfig
from layerscope.states.extract import (
    Progress,
    Site,
    check_stages,
    layer_number,
    note_on_padding,
    silent,
    sites_of,
)
from layerscope.states.pooling import decided, first_token_ratio


@dataclass(frozen=True)
class Prepared:
    """Texts and views as tokens, with what was decided about them before the pass.

    Attributes:
        settings: those given, with the first-token policy decided.
        sites: where the model is read.
        measures: what is computed.
        texts: item -> tokens, for the kept texts and then, kind by kind, views.
        kept: which of the given texts are measured.
        views: the views, by kind.
        notes: what a reader of the record should know.
        facts: numbers for the record.
        prefixes: numbers of first tokens that are measured instead of whole texts.
    """

    settings: ScanConfig
    sites: tuple[Site, ...]
    measures: tuple[Measure, ...]
    texts: tuple[TokenizedText, ...]
    kept: tuple[int, ...]
    views: tuple[ViewSet, ...]
    notes: tuple[str, ...]
    facts: dict[str, Any]
    prefixes: tuple[int, ...] = ()

    @property
    def plain(self) -> int:
        """Number of kept texts: items below it are texts, the others views."""
        return len(self.kept)

    @property
    def items(self) -> range:
        """Texts and views that the model reads: views alone where no measure is of the texts."""
        of_views = all(measure.level == "view" for measure in self.measures)
        alone = of_views and bool(self.views) and self.settings.non_finite is NonFinite.RAISE
        return range(self.plain if alone else 0, len(self.texts))

    @property
    def columns(self) -> tuple[Column, ...]:
        """Prompt measures with their conventions, of whole texts or of each prefix."""
        return tuple(
            Column(measure, convention, first)
            for first in self.prefixes or (None,)
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


def conventions_of(measure: Measure, settings: ScanConfig) -> tuple[Convention | None, ...]:
    """Return the asked conventions that a measure has, or (None,) if it has none at all."""
    if not measure.conventions:
        return (None,)
    return tuple(c for c in settings.conventions if c in measure.conventions)


def refuse_impossible(settings: ScanConfig, texts: Texts) -> None:
    """Refuse, before a model is loaded, a scan that no model could make.

    Raises:
        InputError: a stage that no architecture has, measures without the views they need, or too few
            texts.
    """
    check_stages(settings.stages)
    chosen_measures(settings)
    if len(texts) < 2:
        raise InputError(
            f"expected at least 2 distinct {texts.noun} to measure layers on, got {len(texts)} from "
            f"{texts.name}; give more {texts.noun}."
        )
    if isinstance(texts, Images):
        _refuse_of_texts(settings)


def _refuse_of_texts(settings: ScanConfig) -> None:
    """Refuse settings that have a meaning for texts alone.

    Raises:
        InputError: a prompt, a perturbation of tokens, or views that are made of words.
    """
    words = {Augmentation.AUTHORS, Augmentation.HALVES, Augmentation.CLOZE} & set(
        settings.augmentation
    )
    given = {
        "a prompt": bool(settings.prompt),
        "a perturbation": settings.perturbation is not None,
        f"the augmentation {', '.join(sorted(words))}": bool(words),
    }
    if wrong := [name for name, asked in given.items() if asked]:
        raise InputError(
            f"{' and '.join(wrong)} can be made of texts only; leave it out for images, whose views are "
            "default (augmented copies) and crops."
        )


def prepare(
    backbone: Backbone, texts: Texts, settings: ScanConfig, progress: Progress = silent
) -> Prepared:
    """Choose sites and measures, tokenize texts and views, and decide which tokens count.

    Raises:
        InputError: an unknown measure, layer or stage; too few texts, or none long enough.
    """
    refuse_impossible(settings, texts)
    asked = {name: value for name, value in settings.as_dict().items() if name in LEFT_OPEN}
    settings, served = as_served(settings, backbone.serving)
    sites = sites_of(backbone, settings.layers, settings.stages)
    if settings.layers:  # recorded as numbers from 0 on
        read = sorted({layer_number(layer, backbone.depth) for layer in settings.layers})
        settings = settings.changed(layers=tuple(read))
    measures = chosen_measures(settings)
    measures, notes = _with_whole_stacks(measures, sites, backbone.depth, settings)
    limit = length_limit(backbone.tokenizer, backbone.model.config, settings.max_length)
    samples = texts.samples
    tokenized = read_samples(backbone, samples, settings, limit)
    settings, ratio, told = _decide_first_token(backbone, tokenized, settings)
    notes += [*served, *told, *note_on_padding(backbone)]
    kept = [i for i, text in enumerate(tokenized) if any(counted(text, settings))]
    _refuse_too_few(texts, len(kept))
    plain = [tokenized[i] for i in kept]
    if settings.perturbation is not None:
        plain = perturbed(
            plain, Perturbation.parse(settings.perturbation), backbone.tokenizer, limit=limit,
            rows=getattr(backbone.model.config, "vocab_size", None), seed=settings.seed,
        )  # fmt: skip
    prefixes: tuple[int, ...] = ()
    if isinstance(settings, PrefixConfig):
        marks = [counted(text, settings) for text in plain]
        prefixes = prefixes_of(backbone, plain, marks, sites[-1], settings.every)
    wanted = settings.views and any(measure.level == "view" for measure in measures)
    chosen = styles(settings, images=isinstance(texts, Images))
    made = make_views([samples[i] for i in kept], chosen, settings, progress) if wanted else []
    sets, copied = tokenized_views(made, len(plain), settings, backbone, limit)
    notes += [
        note for each, views in zip(made, sets, strict=True) for note in notes_on(each, views)
    ]
    return Prepared(
        settings=settings,
        sites=sites,
        measures=measures,
        texts=(*plain, *copied),
        kept=tuple(kept),
        views=tuple(sets),
        notes=tuple(notes),
        prefixes=prefixes,
        facts={
            "asked": asked,
            "first_token_ratio": ratio,
            "dropped_short": len(tokenized) - len(kept),
            "truncated": sum(text.truncated for text in plain),
            "tokens": sum(len(text.ids) for text in plain),
            "longest": max(len(text.ids) for text in plain),
            "views_truncated": sum(text.truncated for text in copied),
            "augmentation": {
                views.perturbation: view_facts(each, views)
                for each, views in zip(made, sets, strict=True)
            },
            "edit_distance_by_text": {
                views.perturbation: {
                    str(kept[place]): round(distance, 4)
                    for place, distance in zip(each.views.texts, each.views.distances, strict=True)
                }
                for each, views in zip(made, sets, strict=True)
                if each.views.distances
            },
        },
    )


def check_measures(settings: ScanConfig) -> tuple[Measure, ...]:
    """Return the measures that a scan asks for.

    Raises:
        InputError: a name nobody knows, none that exists in the conventions asked for, or a readout
            that cannot be read.
    """
    for name in settings.readouts:
        Readout.parse(name)
    chosen = catalogue.select(settings.metrics)
    if settings.metrics is None or any(
        not measure.conventions or set(measure.conventions) & set(settings.conventions)
        for measure in chosen
    ):
        return chosen
    names = ", ".join(measure.name for measure in chosen)
    raise InputError(
        f"nothing is left to measure: {names} in the convention {', '.join(settings.conventions)} "
        "does not exist; see layerscope metrics."
    )


def chosen_measures(settings: ScanConfig) -> tuple[Measure, ...]:
    """Return the measures of a scan that its views and its perturbation allow.

    Raises:
        InputError: see `check_measures`, or one is asked for by name that they do not allow.
    """
    chosen = check_measures(settings)
    if settings.views and settings.perturbation is None:
        return chosen
    views_needed = [measure.name for measure in chosen if measure.level == "view"]
    if settings.metrics and views_needed:
        names = ", ".join(views_needed)
        if settings.perturbation is not None:
            raise InputError(
                f"{names} compare views of strings, and a perturbation changes tokens; leave one out."
            )
        raise InputError(f"augmented views are needed for {names}, but the number of views is 0.")
    return tuple(measure for measure in chosen if measure.level != "view")


def _with_whole_stacks(
    measures: tuple[Measure, ...], sites: Sequence[Site], depth: int, settings: ScanConfig
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
    if kept < 2:
        raise InputError(
            f"all but {kept} of {len(texts)} {texts.noun} from {texts.name} have no token that counts; "
            "give longer texts, or count special tokens (--special-tokens include)."
        )


def _decide_first_token(
    backbone: Backbone, tokenized: Sequence[TokenizedText], settings: ScanConfig
) -> tuple[ScanConfig, float | None, list[str]]:
    """Measure position 0 against the rest, and leave it out if it is an attention sink."""
    if backbone.reads_images:  # what stands first is a class token, which is special, or a patch
        return settings.changed(first_token=decided(settings.first_token, None)), None, []
    ratio = first_token_ratio(backbone, tokenized)
    chosen = decided(settings.first_token, ratio)
    if settings.first_token is not FirstToken.AUTO or chosen is FirstToken.KEEP:
        return settings.changed(first_token=chosen), ratio, []
    note = (
        f"the first token's norm reaches {ratio:.0f} x the median of the others (an attention sink): "
        "it is left out of every measure; --first-token keep counts it."
    )
    return settings.changed(first_token=chosen), ratio, [note]
