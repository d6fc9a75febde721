"""What a model is called with: token ids or pixel values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import InputError


def reads_images(model: object) -> bool:
    """Whether a model reads pixels rather than tokens."""
    return getattr(model, "main_input_name", "input_ids") == "pixel_values"


def noise_pixels(model: nn.Module, seed: int = 0) -> Tensor:
    """Return one image of noise (1, channel, height, width) of the size in the model's config.

    Raises:
        InputError: the config names no size.
    """
    config: Any = model.config
    size = getattr(config, "image_size", None)
    if size is None:
        raise InputError(
            f"{type(model).__name__} names no image_size in its config, so its layers cannot be told "
            "apart by a trial image."
        )
    height, width = size if isinstance(size, list | tuple) else (size, size)
    shape = (1, getattr(config, "num_channels", 3), height, width)
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    weight = next(model.parameters())
    return pixels.to(weight.device, weight.dtype)


def inputs_of(
    model: nn.Module, ids: Tensor, real: Tensor | None = None, positions: Tensor | None = None
) -> dict[str, Any]:
    """Return the arguments to call a model with.

    Args:
        model: the model.
        ids: (text, token) token ids.
        real: (text, token), True where a token is not padding; None passes no mask.
        positions: (text, token) position ids; None passes none.
    """
    inputs: dict[str, Any] = {"input_ids": ids}
    if real is not None:
        inputs["attention_mask"] = real.long()
    if positions is not None:
        inputs["position_ids"] = positions
    if hasattr(model.config, "use_cache"):
        inputs["use_cache"] = False
    return inputs
