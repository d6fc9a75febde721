"""Where the layer is: the blocks to keep for it, and the place where the smaller model gives it out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from layerscope import surgery
from layerscope.cutting.records import CutSettings
from layerscope.errors import InputError
from layerscope.models import Backbone
from layerscope.states import Site
from layerscope.surgery import OutputPath


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


def refuse_model(backbone: Backbone, settings: CutSettings) -> None:
    """Raise an InputError for a model that cannot be cut, or not for this format."""
    surgery.refuse_surgery(backbone)
    surgery.refuse_quantized(backbone)
    surgery.refuse_own_code(backbone)
    if settings.format != "transformers":
        surgery.refuse_decoder(backbone, settings.format)


def refuse_no_layer(layer: int) -> None:
    """Raise an InputError for a number that is a layer of no cut, before a model is loaded."""
    if layer == 0:
        raise InputError(
            "layer 0 is the embeddings, before any block; a cut keeps at least block 1: expected a layer "
            "from 1 on, got 0."
        )
    if layer < 0:
        raise InputError(f"expected a layer from 1 on, the number of a block, got {layer}.")


def refuse_layer(backbone: Backbone, layer: int) -> None:
    """Raise an InputError for a layer that a cut cannot give."""
    refuse_no_layer(layer)
    if layer > backbone.depth:
        raise InputError(
            f"expected a layer from 1 to {backbone.depth} (the last block of {backbone.info.name}), got "
            f"{layer}."
        )


def place_of(backbone: Backbone, layer: int, settings: CutSettings) -> Place:
    """Find a layer in the model cut behind it, or with a pointer in the whole model.

    Raises:
        InputError: transformers does not hand this state out.
    """
    keeps_norm = settings.final_norm == "keep" and backbone.final_norm is not None
    site = Site(layer, "final_norm" if keeps_norm else "block")
    if settings.kind == "pointer":
        if keeps_norm and layer < backbone.depth:
            raise InputError(
                f"a pointer finds states that the whole model computes, which never norms layer {layer}; "
                "pass --final-norm drop, or cut."
            )
        found = _found(backbone, range(backbone.depth), site)
    else:
        found = _found(backbone, range(layer), site) or _before_another(backbone, site)
    if found is None:
        raise InputError(
            f"{backbone.info.model_class} in transformers gives out layer {layer} behind its final norm "
            "only; pass --final-norm keep, or choose an earlier layer."
        )
    return found


def _found(backbone: Backbone, kept: range, site: Site) -> Place | None:
    output = surgery.find_output(backbone, kept, site)
    return None if output is None else Place(site, tuple(kept), output)


def _before_another(backbone: Backbone, site: Site) -> Place | None:
    """Find it before one block more, where the last block's own state is not to be had."""
    if site.layer == backbone.depth:
        return None
    found = _found(backbone, range(site.layer + 1), site)
    note = (
        f"{backbone.info.model_class} in transformers hands out its last block's state behind the final "
        f"norm only, so block {site.layer + 1} is kept as well and layer {site.layer} is read before it."
    )
    return None if found is None else replace(found, notes=(note,))
