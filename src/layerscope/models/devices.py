"""Put a model on a device, with torch's errors about it in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from layerscope.errors import InputError
from layerscope.settings import ModelOptions


def refuse_device(options: ModelOptions) -> None:
    """Refuse, before the weights are read, a device that does not exist."""
    if options.device != "auto" and not options.device_map:
        with _on(options.device):
            torch.empty(0, device=options.device)


def move(model: nn.Module, device: str) -> nn.Module:
    """Return a model on a device; `auto` is a GPU if there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with _on(device):
        return model.to(device)


@contextmanager
def _on(device: str) -> Iterator[None]:
    """Turn torch's errors about a device into an InputError of one sentence."""
    try:
        yield
    except (RuntimeError, AssertionError, ImportError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"the device {device!r} cannot be used here: {first}.") from error
