"""Paths of the blocks, sub-block modules and final norm of each architecture: a table and a fallback.

A path is dotted and starts at the backbone (`blocks`, `final_norm`) or at a block (`stages`). The input
of block 1 is layer 0 on every architecture, so embeddings need no path. A stage is read at the input or
the output of a module, because a residual sum often exists only as the input of the next norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from torch import nn

from layerscope.errors import InputError

Positions = Literal["given", "own"]
Padding = Literal["both", "right", "none"]

STAGES: Final = ("attn_norm", "attn", "attn_residual", "mlp_norm", "mlp", "block", "final_norm")


@dataclass(frozen=True)
class Tap:
    """A place to read a stage: the `input` or `output` of a module inside a block."""

    module: str
    side: Literal["input", "output"] = "output"


@dataclass(frozen=True)
class Architecture:
    """The layout of one family of models.

    Attributes:
        blocks: path of the list of blocks.
        final_norm: path of the norm after the last block, or None if there is none.
        stages: sub-block stage -> where to read it, in LbL's figure 15 order.
        positions: "given" if the model takes `position_ids` that count from 0; "own" if it computes
            them itself (RoBERTa's count from the padding id, T5 and Mamba have none).
        padding: the sides on which masked padding does not change the states of a text. With "none",
            only texts of one length share a batch.
        mask: whether the model takes an `attention_mask`.
    """

    blocks: str
    final_norm: str | None = None
    stages: Mapping[str, Tap] = field(default_factory=dict)
    positions: Positions = "given"
    padding: Padding = "both"
    mask: bool = True


def _stages(
    attn_norm: str, attn: str, residual: Tap | None, mlp_norm: str, mlp: str
) -> dict[str, Tap]:
    """Return the stages of a sequential block; "" or None means that a stage does not exist."""
    named = {"attn_norm": attn_norm, "attn": attn, "mlp_norm": mlp_norm, "mlp": mlp}
    taps = {stage: Tap(path) for stage, path in named.items() if path}
    if residual:
        taps["attn_residual"] = residual
    return {stage: taps[stage] for stage in STAGES if stage in taps}


def _before(norm: str) -> Tap:
    return Tap(norm, "input")


# Post-norm encoders add the residual inside the module that also norms, so the sum is the input of the
# norm, and the norm of the MLP is the block's own output; so there is no separate `mlp_norm`.
_BERT = Architecture(
    "encoder.layer",
    stages=_stages(
        "attention.output.LayerNorm",
        "attention.output.dense",
        _before("attention.output.LayerNorm"),
        "",
        "output.dense",
    ),
)
_ROBERTA = Architecture("encoder.layer", stages=_BERT.stages, positions="own")
_MPNET = Architecture(
    "encoder.layer",
    stages=_stages(
        "attention.LayerNorm", "attention.attn", _before("attention.LayerNorm"), "", "output.dense"
    ),
    positions="own",
)
_DISTILBERT = Architecture(
    "transformer.layer",
    stages=_stages("sa_layer_norm", "attention", _before("sa_layer_norm"), "", "ffn"),
)
_MODERNBERT = Architecture(
    "layers",
    "final_norm",
    _stages("attn_norm", "attn", _before("mlp_norm"), "mlp_norm", "mlp"),
)
_LLAMA = Architecture(
    "layers",
    "norm",
    _stages(
        "input_layernorm",
        "self_attn",
        _before("post_attention_layernorm"),
        "post_attention_layernorm",
        "mlp",
    ),
)
_GEMMA = Architecture(
    "layers",
    "norm",
    _stages(
        "input_layernorm",
        "self_attn",
        _before("pre_feedforward_layernorm"),
        "pre_feedforward_layernorm",
        "mlp",
    ),
)
# OLMo 2 norms the output of a sub-block, not its input: the MLP reads the residual stream itself.
_OLMO2 = Architecture(
    "layers",
    "norm",
    _stages(
        "post_attention_layernorm", "self_attn", _before("mlp"), "post_feedforward_layernorm", "mlp"
    ),
)
_GPT2 = Architecture("h", "ln_f", _stages("ln_1", "attn", _before("ln_2"), "ln_2", "mlp"))
_GPTJ = Architecture("h", "ln_f", _stages("ln_1", "attn", None, "", "mlp"))
_BLOOM = Architecture(
    "h",
    "ln_f",
    _stages(
        "input_layernorm",
        "self_attention.dense",
        _before("post_attention_layernorm"),
        "post_attention_layernorm",
        "mlp.dense_4h_to_h",
    ),
    positions="own",
)
_FALCON = Architecture("h", "ln_f", _stages("", "self_attention", None, "", "mlp"))
_NEOX = Architecture(
    "layers",
    "final_layer_norm",
    _stages("input_layernorm", "attention", None, "post_attention_layernorm", "mlp"),
)
_PHI = Architecture(
    "layers", "final_layernorm", _stages("input_layernorm", "self_attn", None, "", "mlp")
)
_OPT = Architecture(
    "decoder.layers",
    "decoder.final_layer_norm",
    _stages(
        "self_attn_layer_norm", "self_attn", _before("final_layer_norm"), "final_layer_norm", "fc2"
    ),
    positions="own",
)
_T5 = Architecture(
    "block",
    "final_layer_norm",
    _stages(
        "layer.0.layer_norm",
        "layer.0.SelfAttention",
        Tap("layer.0"),
        "layer.1.layer_norm",
        "layer.1.DenseReluDense",
    ),
    positions="own",
)
# BART's positions count from the left edge, and it takes no position ids.
_BART = Architecture(
    "layers",
    stages=_stages("self_attn_layer_norm", "self_attn", _before("self_attn_layer_norm"), "", "fc2"),
    positions="own",
    padding="right",
)
_MAMBA = Architecture("layers", "norm_f", positions="own")
_VIT = Architecture(
    "layers",
    "layernorm",
    _stages("layernorm_before", "attention", _before("layernorm_after"), "layernorm_after", "mlp"),
    positions="own",
)
_DINOV2 = Architecture(
    "encoder.layer",
    "layernorm",
    _stages("norm1", "attention", _before("norm2"), "norm2", "mlp"),
    positions="own",
)
_JAMBA = Architecture("layers", "final_layernorm")

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "albert": Architecture("encoder.albert_layer_groups"),
    "bart": _BART,
    "bert": _BERT,
    "bloom": _BLOOM,
    "camembert": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "deberta": _BERT,
    "deberta-v2": _BERT,
    "dinov2": _DINOV2,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "falcon": _FALCON,
    "falcon_mamba": _MAMBA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": _GPT2,
    "gpt_neo": _GPT2,
    "gpt_neox": _NEOX,
    "gptj": _GPTJ,
    "granite": _LLAMA,
    "jamba": _JAMBA,
    "llama": _LLAMA,
    "mamba": _MAMBA,
    "mamba2": _MAMBA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "modernbert": _MODERNBERT,
    "mpnet": _MPNET,
    "mt5": _T5,
    "olmo": _LLAMA,
    "olmo2": _OLMO2,
    "opt": _OPT,
    "phi": _PHI,
    "phi3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen2_moe": _LLAMA,
    "qwen3": _LLAMA,
    "qwen3_moe": _LLAMA,
    "roberta": _ROBERTA,
    "smollm3": _LLAMA,
    "t5": _T5,
    "umt5": _T5,
    "vit": _VIT,
    "xlm-roberta": _ROBERTA,
}


def blocks_of(backbone: nn.Module, architecture: Architecture) -> tuple[nn.Module, ...]:
    """Return the block of every layer 1..L in order; a shared block occurs once for each layer.

    Raises:
        InputError: the architecture's path does not lead to a list of blocks.
    """
    group = _module_at(backbone, architecture.blocks)
    if not isinstance(group, nn.ModuleList) or len(group) == 0:
        raise InputError(
            f"expected a list of blocks at {architecture.blocks!r} in {type(backbone).__name__}, "
            f"found {type(group).__name__}; this model does not follow its architecture's layout."
        )
    if hasattr(group[0], "albert_layers"):
        return _albert_blocks(backbone, group)
    return tuple(group)


def _albert_blocks(backbone: nn.Module, groups: nn.ModuleList) -> tuple[nn.Module, ...]:
    """Return ALBERT's blocks: each group of shared layers runs for an equal share of the depth."""
    depth = int(backbone.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    return tuple(groups[int(layer / (depth / len(groups)))] for layer in range(depth))


def parallel_residual(backbone: nn.Module) -> bool:
    """Whether attention and MLP read the same input, so that no `attn_residual` exists."""
    config = backbone.config
    kind = getattr(config, "model_type", "")
    if kind == "gpt_neox":
        return bool(getattr(config, "use_parallel_residual", True))
    return kind in {"phi", "gptj", "falcon"}


def stages_of(backbone: nn.Module, architecture: Architecture) -> dict[str, Tap]:
    """Return the sub-block stages that this model has."""
    taps = dict(architecture.stages)
    if getattr(backbone.config, "model_type", "") == "gpt_neox" and not parallel_residual(backbone):
        taps["attn_residual"] = _before("post_attention_layernorm")
    return {stage: taps[stage] for stage in STAGES if stage in taps}


def longest_block_list(backbone: nn.Module) -> str:
    """Return the path of the longest ModuleList whose members are of one class (the fallback).

    Raises:
        InputError: no such list has at least two members.
    """
    best, length = "", 1
    for path, module in backbone.named_modules():
        longer = isinstance(module, nn.ModuleList) and len(module) > length
        if longer and len({type(member) for member in module.children()}) == 1:
            best, length = path, len(list(module.children()))
    if not best:
        raise InputError(
            f"expected a model built of a list of like blocks, found none in "
            f"{type(backbone).__name__}; layerscope cannot tell its layers apart."
        )
    return best


def _module_at(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None
