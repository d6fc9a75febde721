"""Build a smaller model, and find the wanted state in its output.

The source is never touched: the new model is built without weights from the sliced config and takes
the source's tensors, renumbered, as they are.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn

from layerscope.data.tokens import TokenizedText
from layerscope.errors import InputError
from layerscope.models.backbone import Backbone, probe
from layerscope.models.blocks import (
    bare,
    block_path,
    carried_entries,
    kept_weights,
    refuse_surgery,
)
from layerscope.models.configs import block_config_of, kept_config, read_again
from layerscope.models.inputs import reads_images
from layerscope.models.modes import evaluating

OutputPath = tuple[str | int, ...]
LAST: Final[OutputPath] = ("last_hidden_state",)
# The largest difference that is let through, as a share of a token's own length. Both sides read a text
# by itself and on the same kind of device, so what is left is rounding.
LIMITS: Final = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}


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
        head: whether the head is kept, if the source was loaded with one.

    Raises:
        InputError: the model is quantized, or cannot do without some of these blocks.
    """
    refuse_quantized(backbone)
    refuse_own_code(backbone)
    refuse_surgery(backbone, kept)
    kind, source, state = _parts(backbone, head=head)
    core: Any = backbone.model
    path = f"encoder.{block_path(core, backbone)}"
    if kind is type(source):  # else an encoder by itself, in the class that is made for it
        path = block_path(source, backbone)
    config = kept_config(source.config, kept, core.config)
    part = block_config_of(config, core.config)
    for name, value in carried_entries(backbone, kept).items():
        setattr(part, name, value)
    fresh = _built(kind, read_again(config), source)
    needed = fresh.state_dict()
    weights = kept_weights(state, needed, path, kept, backbone.depth)
    if "shared.weight" in needed and kind is not type(source):
        weights["shared.weight"] = weights["encoder.embed_tokens.weight"]
    _refuse_mismatch(backbone, kind, needed, weights)
    fresh.load_state_dict(weights, assign=True)
    target: Any = fresh
    target.tie_weights()
    target.config.dtype = next(core.parameters()).dtype
    if getattr(source, "generation_config", None) is not None:
        target.generation_config = source.generation_config
    if runs_here(fresh):
        _settle_cache(backbone, target, kept)
    return fresh


def _built(kind: Any, config: Any, source: nn.Module) -> nn.Module:
    """Build the model; an encoder by itself may ask for a config that says so (T5Gemma's does)."""
    try:
        return bare(kind, config, source, buffers=True)
    except ValueError:
        if kind is type(source) or not getattr(config, "is_encoder_decoder", False):
            raise
        config.is_encoder_decoder = False
        return bare(kind, config, source, buffers=True)


def _refuse_mismatch(
    backbone: Backbone, kind: Any, needed: dict[str, Tensor], weights: dict[str, Tensor]
) -> None:
    for name in sorted(needed.keys() | weights.keys()):
        if name not in needed or name not in weights or needed[name].shape != weights[name].shape:
            raise InputError(
                f"the blocks of {backbone.info.name} that stay do not make up a {kind.__name__}: {name} "
                f"{'fits nowhere' if name in weights else 'is lacking'}; choose other blocks."
            )


def runs_here(model: nn.Module) -> bool:
    """Whether a model that shares weights can be run as it is: they are on one device, and there."""
    devices = {weight.device for weight in model.parameters()}
    return len(devices) == 1 and next(iter(devices)).type != "meta"


def core_of(model: Any) -> Any:
    """Return what computes the hidden states in a saved model, as `reload` finds it."""
    core = model.base_model
    if reads_images(model) and "pixel_values" not in inspect.signature(core.forward).parameters:
        return model
    if hasattr(core, "encoder") and hasattr(core, "decoder"):
        return core.get_encoder()
    inner: Any = core if hasattr(core, "lm_head") else getattr(core, "language_model", None)
    return inner.model if hasattr(inner, "lm_head") else core  # Llama 4 has heads further inside


def stock_output(model: Any, inputs: dict[str, Tensor]) -> Any:
    """Run a saved model as anybody would, and return what it gives.

    Raises:
        InputError: it does not give its states by name.
    """
    device = next(model.parameters()).device
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device != device:
                module._buffers[name] = buffer.to(device)
    core = core_of(model)
    with evaluating(model):
        output = core(**inputs, output_hidden_states=True)
    if not hasattr(output, "last_hidden_state"):
        raise InputError(
            f"{type(core).__name__} in transformers returns a {type(output).__name__} without a "
            "last_hidden_state, in which no layer could be found again; it cannot be saved."
        )
    return output


def _settle_cache(backbone: Backbone, model: Any, kept: Sequence[int]) -> None:
    """See that the smaller model runs; one without attention (Qwen3-Next's start) has no cache.

    Raises:
        InputError: transformers cannot run it.
    """
    inputs = probe(backbone)
    try:
        stock_output(model, inputs)
    except InputError:
        raise
    except Exception:  # whatever the model's own code raises
        configs = {id(each): each for each in (model.config, core_of(model).config)}
        for config in configs.values():
            config.use_cache = False
        try:
            stock_output(model, inputs)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"transformers cannot run {backbone.info.model_class} with {len(kept)} of its "
                f"{backbone.depth} blocks ({first.rstrip('.')}); choose other blocks."
            ) from error


def _parts(backbone: Backbone, *, head: bool) -> tuple[Any, Any, dict[str, Tensor]]:
    """Return the class to build, the module whose config it gets, and the weights by its names.

    The text model of a model that reads pictures too is saved by itself: a cut gives one of its layers.
    """
    core, whole = backbone.model, backbone.whole
    encoder = _encoder_class(core)
    if encoder is not None and not head:
        state = {f"encoder.{name}": weight for name, weight in core.state_dict().items()}
        return encoder, core if type(whole.config) is type(core.config) else whole, state
    base = core is getattr(whole, "base_model", None) and _is_exported(core)  # DPR's is not
    alone = base or core is whole or _is_stock(core)
    source = core if alone and not head else whole
    return type(source), source, source.state_dict()


def _is_stock(core: Any) -> bool:
    """Whether transformers loads this module by itself, from its own config."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kinds: Any = MODEL_MAPPING.get(type(core.config), None)
    listed = kinds if isinstance(kinds, tuple) else (kinds,)
    return type(core) in listed and _is_exported(core)


def _is_exported(core: Any) -> bool:
    """Whether transformers finds the class of a module again by the name in a saved config."""
    import transformers

    return hasattr(transformers, type(core).__name__)


def refuse_decoder(backbone: Backbone, kind: str) -> None:
    """Raise an InputError for an encoder that transformers loads only with its decoder (BART's)."""
    base = getattr(backbone.whole, "base_model", backbone.whole)
    pair = hasattr(base, "encoder") and hasattr(base, "decoder")
    if pair and _encoder_class(backbone.model) is None:
        raise InputError(
            f"the encoder of {type(base).__name__} is saved with its decoder, which {kind} would run as "
            "well; choose --format transformers."
        )


def refuse_processor(backbone: Backbone, kind: str) -> None:
    """Raise an InputError where sentence-transformers would look for a processor of pictures."""
    from transformers.models.auto import processing_auto

    core = backbone.model
    alone = core is backbone.whole or _is_stock(core) or _encoder_class(core) is not None
    config: Any = core.config if alone else backbone.whole.config
    names: Any = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
    wanted = names.get(config.model_type)
    if kind == "sentence-transformers" and wanted is not None:
        raise InputError(
            f"sentence-transformers loads a {config.model_type} with its {wanted}, which a cut of the "
            "text model does not have; choose --format transformers."
        )


def refuse_other_tokens(backbone: Backbone, small: Any, texts: Sequence[TokenizedText]) -> None:
    """Raise an InputError where the saved tokenizer would read texts in other tokens.

    Transformers chooses a tokenizer's class by the model in the same folder.

    Args:
        backbone: the source.
        small: the model to be saved.
        texts: some texts as the source reads them, of no tokens but the tokenizer's own.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = backbone.tokenizer
    words = [tokenizer.decode(text.ids, skip_special_tokens=True) for text in texts]
    with tempfile.TemporaryDirectory(prefix="layerscope-") as room:
        small.config.save_pretrained(room)
        tokenizer.save_pretrained(room)
        again: Any = AutoTokenizer.from_pretrained(room)
    if any(again(text)["input_ids"] != tokenizer(text)["input_ids"] for text in words):
        raise InputError(
            f"transformers would read the tokenizer of {backbone.info.name} beside a "
            f"{small.config.model_type} as a {type(again).__name__}, which makes other tokens of the "
            f"texts than this {type(tokenizer).__name__}; it cannot be saved with this model."
        )


def refuse_padding(backbone: Backbone, small: Any, kind: str) -> None:
    """Raise an InputError for a model whose states of a text change with its padding.

    Vectors of a batch would then differ from those of each text by itself, which were measured.
    """
    if not runs_here(small):
        return
    ids = probe(backbone)["input_ids"]
    pad = int(getattr(backbone.tokenizer, "pad_token_id", None) or 0)
    before = getattr(backbone.tokenizer, "padding_side", "right") == "left"
    filler, ones = torch.full_like(ids[:, :3], pad), torch.ones_like(ids)
    pair = (filler, ids) if before else (ids, filler)
    marks = (filler * 0, ones) if before else (ones, filler * 0)
    inputs = {"input_ids": torch.cat(pair, 1), "attention_mask": torch.cat(marks, 1)}
    alone = stock_output(small, {"input_ids": ids, "attention_mask": ones}).last_hidden_state[0]
    padded = stock_output(small, inputs).last_hidden_state[0]
    padded = padded[3:] if before else padded[: ids.shape[1]]
    limit = LIMITS.get(backbone.info.dtype, LIMITS["float32"])
    if padded.shape != alone.shape or not _near(padded, alone, limit):
        raise InputError(
            f"{backbone.info.model_class} gives a text other states when padding stands beside it, as "
            f"{kind} puts it there; choose --format transformers and read texts one by one."
        )


def _encoder_class(core: nn.Module) -> Any:
    """Return the class for the encoder of a pair by itself, where transformers has one (the T5s)."""
    import transformers

    name = type(core).__name__
    for ending in ("Stack", "Encoder"):
        if name.endswith(ending):
            return getattr(transformers, name.removesuffix(ending) + "EncoderModel", None)
    return None


def find_output(backbone: Backbone, small: Any, wanted: Tensor) -> OutputPath | None:
    """Find where a smaller model returns a state of the source.

    By looking, on a short input, as anybody would run it: `last_hidden_state` if it is there, else a
    place in `hidden_states` (whose last entry is normed unless the config says
    `tie_last_hidden_states: false`), else None. So a model that would give something else once it is
    loaded is known before it is written.

    Args:
        backbone: the source.
        small: the model to be saved, see `smaller`.
        wanted: the state (token, dim) that the source has for `probe`.
    """
    if not runs_here(small):  # its parts are on several devices: as the source reports it
        return _reported_by(backbone, backbone.model, wanted)
    return _reported_by(backbone, small, wanted)


def _reported_by(backbone: Backbone, model: Any, wanted: Tensor) -> OutputPath | None:
    limit = LIMITS.get(backbone.info.dtype, LIMITS["float32"])
    with _raw_last(model):
        output = stock_output(model, probe(backbone))
    reported = [output.last_hidden_state, *(output.hidden_states or ())]
    for index in (0, *reversed(range(1, len(reported)))):
        came = reported[index][0]
        if came.shape == wanted.shape and _near(came, wanted, limit):
            return LAST if index == 0 else ("hidden_states", index - 1)
    return None


def hidden_places(
    backbone: Backbone, small: Any, wanted: Mapping[int, Tensor], *, normed_last: bool
) -> dict[int, int] | None:
    """Return where in a smaller model's `hidden_states` some states are; None if one is not there.

    Args:
        backbone: the source.
        small: the model to be saved, see `smaller`.
        wanted: layer -> the state (token, dim) that the source has for `probe`.
        normed_last: whether the last entry is the one after the final norm.
    """
    limit = LIMITS.get(backbone.info.dtype, LIMITS["float32"])
    model = small if runs_here(small) else backbone.model
    with nullcontext() if normed_last else _raw_last(model):
        states = stock_output(model, probe(backbone)).hidden_states or ()
    found = {}
    for layer, state in wanted.items():
        alike = [
            index
            for index, came in enumerate(states)
            if came[0].shape == state.shape and _near(came[0], state, limit)
        ]
        if not alike:
            return None
        found[layer] = layer if layer in alike else alike[0]
    return found


def _near(came: Tensor, wanted: Tensor, limit: float) -> bool:
    came, wanted = came.float().cpu(), wanted.float().cpu()
    lengths = wanted.norm(dim=-1)
    return bool(((came - wanted).norm(dim=-1) <= limit * lengths.clamp(min=lengths.median())).all())


def give_raw_last(model: Any) -> None:
    """Make transformers leave the last entry of `hidden_states` as it is, before the final norm."""
    for config in (model.config, core_of(model).config):
        config.tie_last_hidden_states = False


@contextmanager
def _raw_last(model: Any) -> Iterator[None]:
    configs = (model.config, core_of(model).config)
    before = [dict(vars(config)) for config in configs]
    give_raw_last(model)
    try:
        yield
    finally:
        for config, entries in zip(configs, before, strict=True):
            vars(config).clear()
            vars(config).update(entries)
