"""Reference states of the doctor: plain calls of the model, read by plain hooks.

This module shares no code with what is checked: it uses no batches, masks or hooks of `states.extract`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import RunError
from layerscope.models.backbone import Backbone
from layerscope.models.modes import evaluating

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Call:
    """One call of a module: its input and output, each (sample, token, dim)."""

    module: nn.Module
    entered: Tensor
    left: Tensor


@dataclass(frozen=True)
class Trace:
    """One forward pass, recorded by hooks on the backbone's blocks and final norm.

    Attributes:
        blocks: every call of a block, in the order of the calls.
        norms: every call of the final norm from block 1 on (NanoChat norms its embeddings with it).
        listed: the library's own `hidden_states`, empty if it gives none.
        last: the library's `last_hidden_state`.
    """

    blocks: tuple[Call, ...]
    norms: tuple[Call, ...]
    listed: tuple[Tensor, ...]
    last: Tensor

    def states(self, backbone: Backbone, row: int = 0) -> list[Tensor]:
        """Return (token, dim) of a sample: the input of block 1, the output of each block, the output.

        The model's own output is included if the backbone has a final norm.

        Raises:
            RunError: not every block was called exactly once.
        """
        if len(self.blocks) != backbone.depth:
            raise RunError(f"{len(self.blocks)} calls of {backbone.depth} blocks were seen")
        found = [self.blocks[0].entered, *(call.left for call in self.blocks)]
        if backbone.final_norm is not None:
            found.append(self.last)
        return [state[row] for state in found]


def run(model: nn.Module, inputs: Inputs, *, listed: bool = False) -> Any:
    """Call a model as in its own documentation and return its output."""
    asked: dict[str, Any] = dict(inputs)
    if hasattr(model.config, "use_cache"):
        asked["use_cache"] = False
    if listed:
        asked["output_hidden_states"] = True
    with evaluating(model):
        return model(**asked)


def trace(backbone: Backbone, inputs: Inputs) -> Trace:
    """Run samples of one length and record the inputs and outputs of the blocks and the final norm."""
    tokens = inputs["input_ids"].shape[1] if "input_ids" in inputs else None
    blocks, norms = _Watch(tokens), _Watch(tokens)
    try:
        for block in dict.fromkeys(backbone.blocks):
            blocks.over(block)
        if backbone.final_norm is not None:
            norms.over(backbone.final_norm)
            norms.start_at(backbone.blocks[0])
        output = run(backbone.model, inputs, listed=True)
    finally:
        blocks.end()
        norms.end()
    return Trace(
        tuple(blocks.calls),
        tuple(norms.calls),
        tuple(kept(state) for state in getattr(output, "hidden_states", None) or ()),
        kept(output[0]),
    )


def kept(state: Any) -> Tensor:
    """Return a copy, safe from in-place changes, in float32 or float64; empty if not a tensor."""
    if not isinstance(state, Tensor):
        return torch.empty(0)
    wide = state.dtype if state.dtype == torch.float64 else torch.float32
    return state.detach().to("cpu", wide, copy=True)


class _Watch:
    """Hooks that record calls.

    Args:
        tokens: of each text; tokens that a model adds after them (Longformer, to whole windows) are
            left out.
    """

    def __init__(self, tokens: int | None) -> None:
        self._tokens = tokens
        self.calls: list[Call] = []
        self._entered: list[Tensor] = []
        self._handles: list[Any] = []

    def over(self, module: nn.Module) -> None:
        self._handles += [
            module.register_forward_pre_hook(self._enter, with_kwargs=True),
            module.register_forward_hook(self._leave),
        ]

    def start_at(self, module: nn.Module) -> None:
        """Discard the calls made before a module is called."""
        self._handles.append(module.register_forward_pre_hook(lambda *_: self.calls.clear()))

    def end(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given = [*args, *([kwargs["hidden_states"]] if "hidden_states" in kwargs else [])]
        self._entered.append(self._kept(given[0] if given else None))

    def _leave(self, module: nn.Module, _args: Any, output: Any) -> None:
        left = output[0] if isinstance(output, tuple | list) else output
        self.calls.append(Call(module, self._entered.pop(), self._kept(left)))

    def _kept(self, state: Any) -> Tensor:
        found = kept(state)
        return found[:, : self._tokens] if found.ndim == 3 else found


# --- comparing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """The largest difference between two readings of the same states.

    Attributes:
        size: of the worst token, as a share of its own norm or the layer's median norm, whichever is
            larger, so that one huge token hides nothing and rounding in a tiny token does not count.
        place: number of that state, from 0.
    """

    size: float
    place: int

    def __or__(self, other: Gap) -> Gap:
        """Return the larger of two."""
        return other if other.size > self.size else self


NO_GAP = Gap(0.0, 0)


def gap(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Gap:
    """Return the worst difference between two lists of states (token, dim)."""
    if len(found) != len(expected):
        return Gap(torch.inf, min(len(found), len(expected)))
    return worst(
        Gap(distance(*pair), i) for i, pair in enumerate(zip(found, expected, strict=True))
    )


def worst(gaps: Iterable[Gap]) -> Gap:
    """Return the largest gap; the first of equals."""
    found = NO_GAP
    for each in gaps:
        found |= each
    return found


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the gap size of two states (token, dim); infinite for other shapes or non-finite values."""
    if found.shape != expected.shape or found.ndim == 0 or found.numel() == 0:
        return float("inf")
    if same(found, expected):
        return 0.0
    if not bool(found.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    sizes = expected.double().norm(dim=-1)
    scale = sizes.clamp(min=max(float(sizes.median()), torch.finfo(torch.float64).tiny))
    return float(((found.double() - expected.double()).norm(dim=-1) / scale).max())


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two states are the same numbers; NaN at the same places is left to another check."""
    if one.shape != other.shape or one.numel() == 0:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
