"""A model with its layers told apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from layerscope.errors import InputError, NonFiniteError
from layerscope.models.architectures import (
    ARCHITECTURES,
    Padding,
    Positions,
    Tap,
    blocks_of,
    stages_of,
)
from layerscope.models.fingerprints import (
    config_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from layerscope.models.structure import infer_architecture


@dataclass(frozen=True)
class ModelInfo:
    """What a run's record says of a model."""

    name: str
    revision: str
    architecture: str
    model_class: str
    blocks: int
    dim: int
    parameters: int
    dtype: str
    device: str
    final_norm: bool
    weights_fingerprint: str
    tokenizer_fingerprint: str
    config_fingerprint: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for `run.json`."""
        return asdict(self)


@dataclass(frozen=True)
class Backbone:
    """A model with its layers told apart.

    Attributes:
        model: the module to call with `input_ids` and `attention_mask`; never has a head.
        whole: the model as it came, which holds `model` and perhaps a head.
        blocks: the block of layer 1..L; one shared by several layers stands several times.
        final_norm: the norm after block L, or None.
        stages: sub-block stage -> where to read it in a block (empty if unknown).
        positions: "given" if `position_ids` counting from 0 are to be passed.
        padding: the sides on which masked padding leaves states as they are, see `Architecture`.
        mask: whether an `attention_mask` is to be passed.
    """

    model: nn.Module
    whole: nn.Module
    tokenizer: Any
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    stages: dict[str, Tap]
    positions: Positions
    padding: Padding
    mask: bool
    info: ModelInfo = field(repr=False)

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the inputs go: the device of the embeddings."""
        return next(self.model.parameters()).device


def backbone_of(
    model: nn.Module, tokenizer: Any, *, name: str = "", revision: str = ""
) -> Backbone:
    """Tell the layers of a loaded transformers model apart.

    A model in the table of architectures is read by it; any other by its longest list of like blocks,
    which is then checked against the hidden states that the model itself reports.

    Of a `SentenceTransformer` object the transformer and its own tokenizer are taken.

    Raises:
        InputError: not a transformers model, or its blocks cannot be told apart for certain.
    """
    if is_sentence_transformer(model):
        model, tokenizer = _transformer_of(model)
    if not hasattr(model, "config"):
        raise InputError(f"expected a transformers model, got {type(model).__name__}.")
    core = _core(model)
    config: Any = getattr(core, "config", None)
    if not hasattr(config, "hidden_size"):
        raise InputError(
            f"layerscope cannot tell where {type(model).__name__} keeps its text model: what computes "
            f"its states, a {type(core).__name__}, has no config of its own with a hidden_size."
        )
    kind = str(getattr(config, "model_type", ""))
    architecture = ARCHITECTURES.get(kind) or infer_architecture(core)
    blocks = blocks_of(core, architecture)
    final_norm = core.get_submodule(architecture.final_norm) if architecture.final_norm else None
    return Backbone(
        model=core,
        whole=model,
        tokenizer=tokenizer,
        blocks=blocks,
        final_norm=final_norm,
        stages=stages_of(core, architecture),
        positions=architecture.positions,
        padding=architecture.padding,
        mask=architecture.mask,
        info=ModelInfo(
            name=name or name_of(model),
            revision=revision,
            architecture=kind,
            model_class=type(core).__name__,
            blocks=len(blocks),
            dim=int(config.hidden_size),
            parameters=sum(parameter.numel() for parameter in core.parameters()),
            dtype=str(next(core.parameters()).dtype).removeprefix("torch."),
            device=str(next(core.parameters()).device),
            final_norm=final_norm is not None,
            weights_fingerprint=weights_fingerprint(core),
            tokenizer_fingerprint=tokenizer_fingerprint(tokenizer) if tokenizer else "",
            config_fingerprint=config_fingerprint(config),
        ),
    )


def is_sentence_transformer(model: object) -> bool:
    """Whether an object is a `SentenceTransformer`, seen without importing that library."""
    return any(
        kind.__name__ == "SentenceTransformer"
        and kind.__module__.startswith("sentence_transformers.")
        for kind in type(model).__mro__
    )


def name_of(model: nn.Module) -> str:
    """Return what a loaded model is called: where its config was loaded from, else its class."""
    model = _transformer_of(model)[0] if is_sentence_transformer(model) else model
    return str(getattr(model.config, "name_or_path", "")) or type(model).__name__


def _transformer_of(source: Any) -> tuple[nn.Module, Any]:
    """Return the transformers model that a `SentenceTransformer` starts with, and its tokenizer."""
    first = next(iter(source), None)
    model = getattr(first, "auto_model", None)
    if not isinstance(model, nn.Module):
        raise InputError(
            "expected a SentenceTransformer whose first module is a Transformer, got one that starts "
            f"with {type(first).__name__}, which has no layers."
        )
    return model, getattr(first, "tokenizer", None)


def non_finite_states(backbone: Backbone, where: str = "", more: str = "") -> NonFiniteError:
    """Return the error for hidden states that are NaN or infinite, with what can be done about it.

    Args:
        backbone: the model that gave them.
        where: the place in it, for the message.
        more: what else to try where the weights are sound.
    """
    info = backbone.info
    said = f"{info.name} in {info.dtype} gave hidden states that are NaN or infinite{where}"
    damaged = [
        name
        for name, weight in backbone.model.named_parameters()
        if not weight.is_meta and not bool(weight.float().isfinite().all())
    ]
    if damaged:
        return NonFiniteError(
            f"{said}, as are {len(damaged)} of its weights (such as {damaged[0]!r}): the checkpoint is "
            "damaged; save or download it again."
        )
    wider = "float32" if info.dtype in ("float16", "bfloat16") else "float64"
    return NonFiniteError(f"{said}; try --dtype {wider}{more}.")


def _core(model: nn.Module) -> nn.Module:
    """Return what computes the hidden states: no head, the encoder of a pair, the text of a many."""
    core: Any = getattr(model, "base_model", model)
    if hasattr(core, "get_encoder") and _is_pair(core):
        core = core.get_encoder()
    language = getattr(core, "language_model", None)
    core = language if isinstance(language, nn.Module) else core
    inner = getattr(core, "model", None)
    # Llama 4 keeps a model with a head where others keep the one without.
    headed = hasattr(core, "lm_head") and isinstance(inner, nn.Module) and hasattr(inner, "config")
    return inner if headed and isinstance(inner, nn.Module) else core


def _is_pair(core: Any) -> bool:
    """Whether this is an encoder with a decoder, or cut out of one: T5's then deny it in the config."""
    both = all(isinstance(getattr(core, part, None), nn.Module) for part in ("encoder", "decoder"))
    alone = type(core).__name__.endswith("EncoderModel")
    return both or alone or bool(getattr(core.config, "is_encoder_decoder", False))
