"""The attention or the MLP of a block by itself: what it weighs, and models that run without some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from layerscope.errors import InputError
from layerscope.models.backbone import Backbone
from layerscope.settings import Part

_STAGES: Final = {"attention": "attn", "mlp": "mlp"}


def refuse_parts(backbone: Backbone, part: Part) -> None:
    """Raise an InputError for a model whose blocks are not an attention followed by an MLP."""
    wanted = ("attn", "attn_residual", "mlp")
    lacking = [stage for stage in wanted if stage not in backbone.stages]
    if lacking:
        raise InputError(
            f"layerscope cannot tell attention and MLP apart in the blocks of "
            f"{backbone.info.model_class} (no stage {', '.join(lacking)}), so it drops whole blocks "
            f"only; leave --parts {part} out."
        )


def share_of_block(backbone: Backbone, part: Part) -> float:
    """Return the share of the blocks' weights that are in their attention or in the rest, the MLP."""
    whole = sum(weight.numel() for block in backbone.blocks for weight in block.parameters())
    path = backbone.stages["attn"].module.partition(".")[0]
    if path == "layer":  # T5 lists its sub-blocks
        path = ".".join(backbone.stages["attn"].module.split(".")[:2])
    attention = sum(
        weight.numel()
        for block in backbone.blocks
        for weight in block.get_submodule(path).parameters()
    )
    return (attention if part == "attention" else whole - attention) / whole


@contextmanager
def without_parts(backbone: Backbone, blocks: Iterable[int], part: Part) -> Iterator[Backbone]:
    """Run the model with zeros in place of what attention or MLP of some blocks add."""
    path = backbone.stages[_STAGES[part]].module
    handles = [
        backbone.blocks[block - 1].get_submodule(path).register_forward_hook(_zeros)
        for block in blocks
    ]
    try:
        yield backbone
    finally:
        for handle in handles:
            handle.remove()


def _zeros(_module: Any, _args: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    return (torch.zeros_like(output[0]), *output[1:])
