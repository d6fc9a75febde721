"""A model cut after a block, so that what it gives is the layer that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope import surgery
from layerscope.cutting.comparing import with_pictures, with_texts
from layerscope.cutting.placing import Place, place_of, refuse_layer
from layerscope.cutting.records import Cut, CutSettings
from layerscope.models import Backbone
from layerscope.provenance import versions
from layerscope.surgery import Plan, Story, Verification, usage_of


@dataclass(frozen=True)
class CutPlan:
    """A cut that can be made: nothing of it has been refused.

    Attributes:
        backbone: the source.
        layer: 1 to L.
        settings: how.
        place: the blocks to keep, and where the layer is.
        plan: what is to be saved, and what it must give.
        notes: what there is to know.
        weight_bytes: of what is saved.
    """

    backbone: Backbone
    layer: int
    settings: CutSettings
    place: Place
    plan: Plan
    notes: tuple[str, ...]
    weight_bytes: int


def plan_cut(
    backbone: Backbone,
    layer: int,
    settings: CutSettings,
    *,
    texts: Sequence[str],
    source: Any = None,
    processor: Any = None,
) -> CutPlan:
    """Decide everything about a cut before anything is written.

    Args:
        backbone: the source, which `refuse_model` let through; it is not changed.
        layer: as `refuse_layer` checks.
        settings: how.
        texts: real texts to compare on.
        source: the sentence-transformers model that the source is part of, or None.
        processor: the image processor of a model of images.

    Raises:
        InputError: it cannot be done.
    """
    refuse_layer(backbone, layer)
    place = place_of(backbone, layer, settings)
    plan = Plan(place.kept, place.output, (), (), format=settings.format, head=settings.head)
    notes = list(place.notes)
    if backbone.tokenizer is None:
        plan = with_pictures(backbone, plan, place.site, processor)
    else:
        plan, more = with_texts(backbone, plan, place.site, settings, texts, source)
        notes += more
    small = surgery.smaller(backbone, place.kept, head=settings.head)
    if backbone.tokenizer is not None:
        surgery.refuse_other_tokens(backbone, small, [tokens for _, tokens in plan.texts])
    weights = surgery.bytes_of(small)
    return CutPlan(backbone, layer, settings, place, plan, tuple(notes), weights)


def cut_model(
    planned: CutPlan,
    out: Path,
    *,
    evidence: Sequence[str] = (),
    overwrite: bool = False,
) -> Cut:
    """Save a planned cut, and prove in a new process that it gives the layer.

    Args:
        planned: what to do.
        out: folder for it.
        evidence: sentences for the model card.
        overwrite: whether a model that layerscope saved there may be replaced.

    Raises:
        InputError: the folder is taken.
        MismatchError: what was saved gives something else; kept as `OUT.unverified`.
        RunError: the disk is full.
    """
    backbone, layer, settings = planned.backbone, planned.layer, planned.settings
    place, plan, notes = planned.place, planned.plan, planned.notes
    record = {
        "command": "cut",
        "versions": versions(),
        "source": backbone.info.as_dict(),
        "layer": layer,
        "blocks": len(place.kept),
        "stage": place.site.stage,
        "output": list(place.output),
        "format": settings.format,
        "evidence": list(evidence),
        "notes": list(notes),
    }

    def card(verification: Verification) -> str:
        usage = usage_of(
            Path(out.name),
            settings.format,
            place.output,
            verification.reader,
            pictures=backbone.tokenizer is None,
        )
        story = _story(backbone, place, settings, verification, usage, notes, evidence)
        return surgery.model_card(backbone, story)

    shipped = surgery.ship(backbone, plan, out, overwrite=overwrite, record=record, card=card)
    return Cut(
        shipped,
        layer=layer,
        of=backbone.depth,
        blocks=len(place.kept),
        stage=place.site.stage,
        output=place.output,
        source_size=surgery.bytes_of(backbone.whole if settings.head else backbone.model),
        settings=settings,
        notes=notes,
        evidence=tuple(evidence),
        reads_pictures=backbone.tokenizer is None,
    )


def _story(
    backbone: Backbone,
    place: Place,
    settings: CutSettings,
    verification: Verification,
    usage: str,
    notes: Sequence[str],
    evidence: Sequence[str],
) -> Story:
    """Tell in a model card what was done and why."""
    name, layer, depth = backbone.info.name, place.site.layer, backbone.depth
    what = f"Layer {layer} of the {depth} of {name}: its first {layer} blocks."
    if settings.kind == "pointer":
        what = f"{name}, whole, with a pointer to its layer {layer} of {depth}."
    norm = " It is the residual stream after that block, without the final norm."
    if place.site.stage == "final_norm":
        norm = " The final norm is applied to it, as the source applies it to its last block."
    norm = norm if backbone.final_norm is not None else ""
    return Story(
        title=f"{name}, layer {layer} of {depth}",
        what=[f"{what}{norm} Made by layerscope {versions()['layerscope']}.", *notes],
        evidence=evidence or ["The layer was named by hand."],
        usage=usage,
        library=settings.format,
        verified=(
            f"Loaded in a new process by {verification.reader}, on {verification.texts} texts the "
            f"largest difference from layer {layer} of the source is {verification.largest:.1e} of its "
            f"length (limit {verification.limit:.0e}). Transformers {versions()['transformers']}."
        ),
    )
