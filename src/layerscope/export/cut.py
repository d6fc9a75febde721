"""Plan a cut after a block (which blocks stay, what the model must give), save and verify it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from layerscope.analysis.run import Estimates
from layerscope.config import FirstToken, Pooling
from layerscope.data.tokens import TokenizedText, length_limit
from layerscope.export import formats, sentence, ship, shorten, verify
from layerscope.export.card import Story, model_card, usage_of
from layerscope.export.hub import Uploadable
from layerscope.export.locate import Place, place_of, refuse_layer
from layerscope.export.sentence import PoolingMask
from layerscope.export.ship import Plan, Shipped
from layerscope.export.shorten import OutputPath
from layerscope.export.verify import Verification
from layerscope.models.backbone import Backbone, probe
from layerscope.results.folder import versions
from layerscope.settings import CutConfig
from layerscope.states.encode import first_token_for
from layerscope.states.extract import Site

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


@dataclass(frozen=True)
class CutEstimates:
    """What a cut would take.

    Attributes:
        layer: the layer; None where a scan has yet to choose it.
        of: the blocks of the source.
        weight_bytes: of what is saved, at most.
        free_bytes: free where it is to go.
        scan: what the scan that chooses the layer would take, if there has to be one.
    """

    layer: int | None
    of: int
    weight_bytes: int
    free_bytes: int
    scan: Estimates | None = None


@dataclass(frozen=True)
class Cut(Uploadable):
    """A model that was cut and saved.

    Attributes:
        shipped: the folder, its size, and what the new process found.
        layer: the layer that it gives.
        of: the blocks of the source.
        blocks: its own blocks.
        stage: "block", or "final_norm" of that layer.
        output: where in the output of transformers the layer is.
        source_size: bytes of the source's weights.
        notes: what there is to know.
        settings: how it was made.
        evidence: sentences on why this layer.
        reads_pictures: whether it reads images rather than texts.
        readout: the name of the readout that it gives; "" for the layer as it is.
        pushed: the address of the repository that it was uploaded to; "" where it was not.
    """

    shipped: Shipped
    layer: int
    of: int
    blocks: int
    stage: str
    output: OutputPath
    source_size: int
    settings: CutConfig
    notes: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    reads_pictures: bool = False
    readout: str = ""
    pushed: str = ""

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.shipped.folder

    @property
    def usage(self) -> str:
        """Python that loads it and uses it."""
        reader, pictures = self.shipped.verification.reader, self.reads_pictures
        return usage_of(self.folder, self.settings.format, self.output, reader, pictures=pictures)


_PICTURES: Final = 4


def with_texts(
    backbone: Backbone,
    plan: Plan,
    site: Site,
    settings: CutConfig,
    texts: Sequence[str],
    source: Any,
) -> tuple[Plan, list[str]]:
    """Return the plan with the texts to compare on and what each must give; and notes."""
    compared = ship.texts_to_compare(
        backbone,
        texts,
        partial(pooled_tokens, backbone, settings, source),
        max_length=settings.max_length,
        format=settings.format,
        source=source,
    )
    counting, tokens = compared.counting, [tokens for _, tokens in compared.texts]
    expected = verify.expected_states(backbone, tokens, site)
    notes: list[str] = []
    if counting is not None:
        notes = counting.notes(backbone.tokenizer)
        if counting.prompt and compared.prompt == counting.prompt:
            plain = zip(
                verify.expected_states(backbone, compared.bare, site), compared.bare, strict=True
            )
            notes.append(counting.agreement(plain, zip(expected, tokens, strict=True)))
    elif settings.format == "sentence-transformers":
        notes = ["Pooling and prompts are the source's own; a scan pools by its own settings."]
    return (
        replace(
            plan,
            expected=expected,
            texts=compared.texts,
            counting=counting,
            source=source,
            prompt=compared.prompt,
            normalize=settings.normalize,
            max_length=compared.limit,
        ),
        notes,
    )


def pooled_tokens(
    backbone: Backbone, settings: CutConfig, source: Any, tokens: Sequence[TokenizedText]
) -> PoolingMask | None:
    """Return which tokens are pooled, as a scan pools; None where the source's own modules say."""
    if source is not None and not settings.asks_for_pooling:
        return None
    limit = length_limit(backbone.tokenizer, backbone.model.config, settings.max_length)
    policy = first_token_for(backbone, settings.first_token or FirstToken.AUTO, limit)
    return sentence.pooling_mask(
        backbone.tokenizer,
        tokens,
        settings.pooling or Pooling.MEAN,
        special_tokens=bool(settings.special_tokens),
        drop_first=policy is FirstToken.DROP,
        normalize=settings.normalize,
    )


def with_pictures(backbone: Backbone, plan: Plan, site: Site, processor: Any) -> Plan:
    """Return the plan with noise for pictures: no texts are read by a model of images."""
    pixels = torch.cat([probe(backbone, seed)["pixel_values"] for seed in range(_PICTURES)])
    states = [verify.picture_states(backbone, picture[None], site) for picture in pixels]
    return replace(plan, expected=states, pixels=pixels.cpu(), processor=processor)


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
        readout: its name, where more than one layer as it is was asked for.
    """

    backbone: Backbone
    layer: int
    settings: CutConfig
    place: Place
    plan: Plan
    notes: tuple[str, ...]
    weight_bytes: int
    readout: str = ""


@dataclass(frozen=True)
class Made:
    """A model that was made of another one, before it is cut.

    Attributes:
        backbone: the model.
        name: what it is called in the card of the cut.
        evidence: sentences for that card on how it was made.
        record: how it was made.
    """

    backbone: Backbone
    name: str
    evidence: tuple[str, ...]
    record: Mapping[str, Any]


def plan_cut(
    backbone: Backbone,
    layer: int,
    settings: CutConfig,
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
    small = shorten.smaller(backbone, place.kept, head=settings.head)
    if backbone.tokenizer is not None:
        shorten.refuse_other_tokens(backbone, small, [tokens for _, tokens in plan.texts])
    weights = formats.bytes_of(small)
    return CutPlan(backbone, layer, settings, place, plan, tuple(notes), weights)


def cut_model(
    planned: CutPlan,
    out: Path,
    *,
    evidence: Sequence[str] = (),
    results: Sequence[EvalResult] = (),
    overwrite: bool = False,
    made: Made | None = None,
) -> Cut:
    """Save a planned cut, and prove in a new process that it gives the layer.

    Args:
        planned: what to do.
        out: folder for it.
        evidence: sentences for the model card.
        results: scores of the layer for the model card.
        overwrite: whether a model that layerscope saved there may be replaced.
        made: how the model that is cut was made, where it is not the source as it was loaded.

    Raises:
        InputError: the folder is taken.
        MismatchError: what was saved gives something else; kept as `OUT.unverified`.
        RunError: the disk is full.
    """
    backbone, layer, settings = planned.backbone, planned.layer, planned.settings
    place, plan, notes = planned.place, planned.plan, planned.notes
    said = [*(() if made is None else made.evidence), *evidence]
    record = {
        "command": "cut",
        "versions": versions(),
        "source": backbone.info.as_dict(),
        "layer": layer,
        "blocks": len(place.kept),
        "stage": place.site.stage,
        "output": list(place.output),
        "readout": planned.readout or None,
        "format": settings.format,
        "evidence": said,
        "notes": list(notes),
        **({} if made is None else {"made": dict(made.record)}),
    }

    def card(verification: Verification) -> str:
        usage = usage_of(
            Path(out.name),
            settings.format,
            place.output,
            verification.reader,
            pictures=backbone.tokenizer is None,
        )
        name = backbone.info.name if made is None else made.name
        story = _story(planned, name, verification, usage, said)
        return model_card(backbone, replace(story, results=results))

    shipped = ship.ship(backbone, plan, out, overwrite=overwrite, record=record, card=card)
    return Cut(
        shipped,
        layer=layer,
        of=backbone.depth,
        blocks=len(place.kept),
        stage=place.site.stage,
        output=place.output,
        source_size=formats.bytes_of(backbone.whole if settings.head else backbone.model),
        settings=settings,
        notes=notes,
        evidence=tuple(evidence),
        reads_pictures=backbone.tokenizer is None,
        readout=planned.readout,
    )


def _story(
    planned: CutPlan, name: str, verification: Verification, usage: str, evidence: Sequence[str]
) -> Story:
    """Return the contents of the model card: what was done and why."""
    backbone, place, settings = planned.backbone, planned.place, planned.settings
    layer, depth = place.site.layer, backbone.depth
    what = f"Layer {layer} of the {depth} of {name}: its first {layer} blocks."
    if settings.kind == "pointer":
        what = f"{name}, whole, with a pointer to its layer {layer} of {depth}."
    norm = " It is the residual stream after that block, without the final norm."
    if place.site.stage == "final_norm":
        norm = " The final norm is applied to it, as the source applies it to its last block."
    norm = norm if backbone.final_norm is not None else ""
    title, compared = f"{name}, layer {layer} of {depth}", f"layer {layer} of the source"
    if planned.readout:
        title = f"{name}, readout {planned.readout}"
        what, norm = f"{title}: layers, weights and a linear map fitted without labels.", ""
        compared = "the readout of the source"
    return Story(
        title=title,
        what=[f"{what}{norm} Made by layerscope {versions()['layerscope']}.", *planned.notes],
        evidence=evidence or ["The layer was named by hand."],
        usage=usage,
        library=settings.format,
        head=settings.head,
        verified=(verification.sentence(compared) + f" Transformers {versions()['transformers']}."),
    )
