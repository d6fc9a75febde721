"""Run a model without dropout and gradients, and restore its modes afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model without dropout and gradients; everything is restored on exit.

    Restored are the mode and the hooks of every module, the kind of attention, the autograd modes, and
    the random states of torch, numpy and Python. Enter it for one forward pass only: a generator that
    yields inside would leave its caller in these modes.

    This uses `no_grad`, not `inference_mode`: tensors created in inference mode can never be part of a
    gradient computation. That would break returned states, and later training steps on a buffer that the
    model creates in this pass and keeps (rotary angles for a longer text).
    """
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        random_states_kept(),
        modules_kept(model) as modules,
        _unmasked(modules),
    ):
        # Not `eval()`: in some models it does more (LoRA merges weights), which no flag undoes.
        for module in modules:
            if module.training:
                module.training = False
        yield


@contextmanager
def modules_kept(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield the modules of a model; on exit, restore the mode, hooks and kind of attention of each.

    transformers puts hooks of its own on a model when hidden states are first asked for, and BigBird
    changes to full attention for good at the first short text.
    """
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    hooked = {key for hooks in _hooks_of(modules) for key in hooks}
    unmarked = [module for module in modules if _RECORDING not in module.__dict__]
    attention = [
        (module, module.attention_type, dict(module._modules))
        for module in modules
        if hasattr(module.__class__, "set_attention_type")
    ]
    try:
        yield modules
    finally:
        for module in training:
            module.training = True
        for hooks in _hooks_of(modules):
            for key in hooks.keys() - hooked:
                del hooks[key]
        for module in unmarked:
            module.__dict__.pop(_RECORDING, None)
        for module, kind, children in attention:
            module.attention_type = kind
            module._modules.update(children)


@contextmanager
def _unmasked(modules: list[nn.Module]) -> Iterator[None]:
    """Let masked autoencoders read whole images in order, of which they drop random patches."""
    masking = [module for module in modules if hasattr(module.__class__, "random_masking")]
    for module in masking:
        module.__dict__["random_masking"] = _all_patches
    try:
        yield
    finally:
        for module in masking:
            module.__dict__.pop("random_masking", None)


def _all_patches(sequence: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    """Return every patch, a mask that leaves none out, and their own order, as transformers does."""
    places = torch.arange(sequence.shape[1], device=sequence.device).expand(sequence.shape[:2])
    return sequence, torch.zeros_like(places, dtype=torch.float32), places


# With this attribute, transformers marks a model that has its hooks.
_RECORDING: Final = "_output_capturing_hooks_installed"


def _hooks_of(modules: list[nn.Module]) -> list[dict[int, Any]]:
    """Return the hooks of those modules that have any."""
    before = [module._forward_pre_hooks for module in modules if module._forward_pre_hooks]
    return before + [module._forward_hooks for module in modules if module._forward_hooks]


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore the random states of torch (with GPUs in use), numpy and Python on exit."""
    python, array = random.getstate(), np.random.get_state()
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = range(torch.cuda.device_count() if in_use else 0)
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
