"""Where a layer is in a smaller model, and which layers a model can be cut at."""

from __future__ import annotations

from dataclasses import dataclass, replace

from layerscope.errors import InputError
from layerscope.export import formats, sentence, shorten, verify
from layerscope.export.shorten import OutputPath
from layerscope.models import blocks
from layerscope.models.backbone import Backbone
from layerscope.settings import CutConfig
from layerscope.states.extract import Site


@dataclass(frozen=True)
class Place:
    """Where a layer is in a smaller model.

    Attributes:
        site: the state that is wanted, in the source.
        kept: the blocks to keep, counted from 0.
        output: where in the smaller model's output it is.
        notes: what there is to know.
    """

    site: Site
    kept: tuple[int, ...]
    output: OutputPath
    notes: tuple[str, ...] = ()


def refuse_model(backbone: Backbone, settings: CutConfig) -> None:
    """Raise an InputError for a model that cannot be cut, or not for this format."""
    blocks.refuse_surgery(backbone)
    shorten.refuse_quantized(backbone)
    shorten.refuse_own_code(backbone)
    if settings.format == "sentence-transformers":
        sentence.require_extra()
    if settings.format == "onnx":
        formats.require_onnx()
    if settings.format != "transformers":
        if backbone.tokenizer is None:
            raise InputError(
                f"{backbone.info.model_class} reads images; its cut is saved with --format transformers."
            )
        shorten.refuse_decoder(backbone, settings.format)
        shorten.refuse_processor(backbone, settings.format)


def refuse_no_layer(layer: int) -> None:
    """Raise an InputError for the layer that no cut can give, before a model is loaded."""
    if layer == 0:
        raise InputError(
            "layer 0 is the embeddings, before any block; a cut keeps at least block 1: expected a layer "
            "from 1 on, got 0."
        )


def refuse_layer(backbone: Backbone, layer: int) -> None:
    """Raise an InputError for a layer that a cut cannot give."""
    refuse_no_layer(layer)
    if not 0 < layer <= backbone.depth:
        raise InputError(
            f"expected a layer from 1 to {backbone.depth} (the last block of {backbone.info.name}), got "
            f"{layer}."
        )


def possible_layer(backbone: Backbone, settings: CutConfig) -> int:
    """Return a layer that the model can be cut at: asked before a scan chooses one.

    The middle layer is tried first, so that a model that can be cut costs one trial.

    Raises:
        InputError: there is none.
    """
    middle = max(1, backbone.depth // 2)
    refusals = []
    for layer in sorted(range(1, backbone.depth + 1), key=lambda layer: abs(layer - middle)):
        try:
            place_of(backbone, layer, settings)
        except InputError as error:
            refusals.append(error)
        else:
            return layer
    raise refusals[0]


def place_of(backbone: Backbone, layer: int, settings: CutConfig) -> Place:
    """Find a layer in the model cut after it, or with a pointer in the whole model.

    The smaller model is built and run on a short input, so that what it would give is known now.

    Raises:
        InputError: the architecture cannot end there, or transformers does not hand this state out.
    """
    keeps_norm = settings.final_norm == "keep" and backbone.final_norm is not None
    site = Site(layer, "final_norm" if keeps_norm else "block")
    whole = settings.kind == "pointer"
    if whole and keeps_norm and layer < backbone.depth:
        raise InputError(
            f"a pointer finds states that the whole model computes, which never norms layer {layer}; "
            "pass --final-norm drop, or cut."
        )
    found = _found(backbone, range(backbone.depth if whole else layer), site, settings)
    if not whole:
        found = found or _before_another(backbone, site, settings)
    if found is None:
        raise InputError(_hidden(backbone, site))
    return found


def _hidden(backbone: Backbone, site: Site) -> str:
    kind, layer = backbone.info.model_class, site.layer
    if backbone.final_norm is not None and site.stage == "block":
        return (
            f"{kind} in transformers returns layer {layer} after its final norm "
            "only; pass --final-norm keep, or choose an earlier layer."
        )
    return (
        f"{kind} of {layer} of its {backbone.depth} blocks in transformers returns another state than "
        f"the source has at layer {layer}, so it cannot be cut there; choose another layer or read it "
        "from the whole model."
    )


def _found(backbone: Backbone, kept: range, site: Site, settings: CutConfig) -> Place | None:
    small = shorten.smaller(backbone, kept, head=settings.head)
    if settings.format != "transformers":
        shorten.refuse_padding(backbone, small, settings.format)
    output = shorten.find_output(backbone, small, verify.probed_state(backbone, site))
    return None if output is None else Place(site, tuple(kept), output)


def _before_another(backbone: Backbone, site: Site, settings: CutConfig) -> Place | None:
    """Find the layer before one more block, where transformers does not return the last block's state."""
    if site.layer == backbone.depth:
        return None
    try:
        found = _found(backbone, range(site.layer + 1), site, settings)
    except InputError:  # that block cannot be the last one
        return None
    note = (
        f"{backbone.info.model_class} in transformers gives its last block's state after the final "
        f"norm only, so block {site.layer + 1} is kept as well and layer {site.layer} is read before it."
    )
    return None if found is None else replace(found, notes=(note,))
