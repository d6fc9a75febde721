"""Images as a model reads them: its image processor, pixel values, and which tokens are patches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from layerscope.data.images import Picture
from layerscope.data.tokens import TokenizedText, tokenize
from layerscope.errors import InputError
from layerscope.models.backbone import Backbone
from layerscope.models.modes import evaluating
from layerscope.settings import ModelOptions

_TRIALS: Final = ((96, 64), (64, 96))  # width and height of two images of noise


def load_processor(path: str, label: str, options: ModelOptions) -> Any:
    """Load the image processor of a model; Pillow does its work, torchvision is not needed.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    import transformers

    hf: Any = transformers
    level = hf.logging.get_verbosity()
    hf.logging.set_verbosity_error()  # a notice that Pillow takes the place of torchvision
    load = partial(
        hf.AutoImageProcessor.from_pretrained,
        path,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )
    try:
        try:
            return load()
        except (ImportError, ValueError) as error:
            if "torchvision" not in str(error).lower():
                raise
            # The processor of DINOv3 does the same work, on tensors of torchvision only.
            return hf.ViTImageProcessorPil.from_pretrained(path, revision=options.revision)
    except Exception as error:  # whatever a damaged or missing file raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{label!r} comes without an image processor that can be loaded "
            f"(preprocessor_config.json): {first}; save the one it was trained with beside it."
        ) from error
    finally:
        hf.logging.set_verbosity(level)


def read(backbone: Backbone, samples: Sequence[str | Picture], limit: int) -> list[TokenizedText]:
    """Return texts as tokens, cut to `limit`, or images as patches.

    Raises:
        InputError: the model reads images and texts came, or the reverse; see `tokenize` as well.
    """
    pictures = [sample for sample in samples if isinstance(sample, Picture)]
    if not samples:
        return []
    if not pictures:
        return tokenize(backbone.tokenizer, [str(sample) for sample in samples], limit)
    if not backbone.reads_images:
        raise InputError(
            f"{backbone.info.name} reads texts, images came; give texts (--data), or name a model of "
            "images."
        )
    special = special_tokens(backbone)
    ids = tuple(range(len(special)))  # one tuple for all images, which have as many tokens
    return [TokenizedText(ids, special, truncated=False, picture=each) for each in pictures]


def pixels_of(backbone: Backbone, pictures: Sequence[Picture]) -> Tensor:
    """Return pixel values (image, channel, height, width) of images, which are decoded here.

    Raises:
        InputError: an image cannot be decoded, or the processor makes images of different sizes.
    """
    return _processed(backbone, [picture.load() for picture in pictures])


def _processed(backbone: Backbone, images: Sequence[Image.Image]) -> Tensor:
    if backbone.processor is None:
        raise InputError(
            f"{backbone.info.name} was given without an image processor; pass it as tokenizer= with a "
            "loaded model."
        )
    # One by one: what a processor makes of an image must not depend on the others.
    found = [
        backbone.processor(images=[image], return_tensors="pt")["pixel_values"] for image in images
    ]
    shapes = sorted({tuple(each.shape[1:]) for each in found})
    if len(shapes) > 1 or len(shapes[0]) != 3:
        raise InputError(
            f"expected one size of all images, the processor of {backbone.info.name} makes "
            f"{', '.join(map(str, shapes[:3]))}; let it crop or resize to one size."
        )
    weight = next(backbone.model.parameters())
    return torch.cat(found).to(weight.device, weight.dtype)


def special_tokens(backbone: Backbone) -> tuple[bool, ...]:
    """Return, for each token of an image, whether it is none of its patches.

    Class and register tokens are those whose state before block 1 is the same for two images of noise.

    Raises:
        InputError: the processor makes images of different sizes.
    """
    generator = np.random.default_rng(0)
    noise = [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in _TRIALS
    ]
    one, other = _before_blocks(backbone, _processed(backbone, noise))
    return tuple((one == other).all(dim=-1).tolist())


class _SeenError(Exception):
    """Ends a pass whose rest is not needed."""


def _before_blocks(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Return what enters block 1, (image, token, dim)."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, args: Any, named: dict[str, Any]) -> None:
        seen.append(args[0] if args else named["hidden_states"])
        raise _SeenError

    handle = backbone.blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with evaluating(backbone.model):
            backbone.model(pixel_values=pixels)
    except _SeenError:
        pass
    finally:
        handle.remove()
    return seen[0]
