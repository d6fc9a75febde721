"""A smaller model as a model of its own, and where it gives out the state that is wanted.

The source is never touched: the new model is built without weights from the sliced config and takes
the source's tensors, renumbered, as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from layerscope.errors import InputError
from layerscope.models import Backbone
from layerscope.states import Site
from layerscope.surgery.blocks import (
    bare,
    block_path,
    configs_of,
    given_by,
    probe,
    refuse_surgery,
    renamed,
    skipping,
)
from layerscope.surgery.configs import kept_config

OutputPath = tuple[str | int, ...]
LAST: Final[OutputPath] = ("last_hidden_state",)


def refuse_quantized(backbone: Backbone) -> None:
    """Raise an InputError for packed weights: no smaller model can take them over as they are."""
    config = getattr(backbone.whole.config, "quantization_config", None)
    read = config if isinstance(config, dict) else getattr(config, "__dict__", {})
    method = str(getattr(read.get("quant_method"), "value", read.get("quant_method")))
    if config is not None and "gguf" not in method.lower():  # a GGUF file is plain once it is read
        raise InputError(
            f"{backbone.info.name} is quantized ({method}), and a model of some of its packed blocks "
            "cannot be saved; load the checkpoint that it was made from, then quantize the result."
        )


def refuse_own_code(backbone: Backbone) -> None:
    """Raise an InputError for a model whose code came with its checkpoint: stock libraries lack it."""
    if type(backbone.model).__module__.startswith("transformers_modules"):
        raise InputError(
            f"{backbone.info.name} comes with code of its own, without which nobody could load what is "
            "saved of it; only architectures of transformers itself are saved."
        )


def smaller(backbone: Backbone, kept: Sequence[int], *, head: bool = False) -> nn.Module:
    """Return a model of some of the blocks, sharing its tensors with the source; it is for saving.

    Args:
        backbone: the source.
        kept: the blocks to keep, counted from 0, in order.
        head: whether the head comes along, where the source was loaded with one.

    Raises:
        InputError: the model is quantized, or cannot do without some of these blocks.
    """
    refuse_quantized(backbone)
    refuse_own_code(backbone)
    refuse_surgery(backbone, kept)
    kind, source, state = _parts(backbone, head=head)
    fresh = bare(kind, kept_config(source.config, kept), source)
    path = block_path(source, backbone)
    if kind is not type(source):  # an encoder by itself, in the class that is made for it
        path = f"encoder.{path}"
    fresh.load_state_dict(renamed(state, path, kept), assign=True)
    target: Any = fresh
    target.tie_weights()
    target.config.dtype = next(backbone.model.parameters()).dtype
    if getattr(source, "generation_config", None) is not None:
        target.generation_config = source.generation_config
    return fresh


def _parts(backbone: Backbone, *, head: bool) -> tuple[Any, Any, dict[str, Tensor]]:
    """Return the class to build, the module whose config it gets, and the weights by its names."""
    core, whole = backbone.model, backbone.whole
    encoder = _encoder_class(core)
    if encoder is not None and not head:
        state = {f"encoder.{name}": weight for name, weight in core.state_dict().items()}
        return encoder, core, state | {"shared.weight": state["encoder.embed_tokens.weight"]}
    alone = core is getattr(whole, "base_model", None) or core is whole
    source = core if alone and not head else whole
    return type(source), source, source.state_dict()


def refuse_decoder(backbone: Backbone, kind: str) -> None:
    """Raise an InputError for an encoder that transformers loads only with its decoder (BART's)."""
    base = getattr(backbone.whole, "base_model", backbone.whole)
    pair = hasattr(base, "encoder") and hasattr(base, "decoder")
    if pair and _encoder_class(backbone.model) is None:
        raise InputError(
            f"the encoder of {type(base).__name__} is saved with its decoder, which {kind} would run as "
            "well; choose --format transformers."
        )


def _encoder_class(core: nn.Module) -> Any:
    """Return the class for the encoder of a pair by itself, where transformers has one (the T5s)."""
    import transformers

    name = type(core).__name__
    if not name.endswith("Stack"):
        return None
    return getattr(transformers, name.removesuffix("Stack") + "EncoderModel", None)


def find_output(backbone: Backbone, kept: Sequence[int], site: Site) -> OutputPath | None:
    """Find where a stock model of some of the blocks gives out a state of the source.

    By looking, on a short input: what the model reports is compared with what the block or the norm
    itself gave. `last_hidden_state` if it is there, else a place in `hidden_states` (whose last entry
    is normed unless the config says `tie_last_hidden_states: false`), else None.

    Args:
        backbone: the source.
        kept: the blocks of the smaller model, counted from 0.
        site: the state that is wanted, by the layers of the smaller model.
    """
    gone = set(range(1, backbone.depth + 1)) - {index + 1 for index in kept}
    with skipping(backbone, gone) as small:
        for config in configs_of(small):
            config.tie_last_hidden_states = False
        reported, wanted = _reported(small, site)
    if torch.equal(reported[0], wanted):
        return LAST
    for index in reversed(range(1, len(reported))):
        if reported[index].shape == wanted.shape and torch.equal(reported[index], wanted):
            return ("hidden_states", index - 1)
    return None


def _reported(small: Backbone, site: Site) -> tuple[list[Tensor], Tensor]:
    """Return the last state and the list that the model reports, and the state a module gave."""
    module = small.final_norm if site.stage == "final_norm" else small.blocks[site.layer - 1]
    if module is None:
        raise InputError(f"{small.info.model_class} has no final norm to keep.")
    state, output = given_by(small, module, probe(small), output_hidden_states=True)
    return [output.last_hidden_state, *(output.hidden_states or ())], state
