"""Views of images: augmented copies, and pairs of random resized crops.

Which view an image gets depends on its content, the seed and the number of the view alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Final, Literal

import numpy as np
from annotated_types import Gt, Le
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from layerscope.config import Config, Count, Number
from layerscope.data.images import Picture

Share = Annotated[Number, Gt(0), Le(1)]
_RATIO: Final = 4 / 3  # most that a crop's shape differs from a square
_LARGEST: Final = 512  # pixels of a view's longer side; processors scale to less
_REFERENCE: Final = 224  # pixels of the side at which the blur's sigma is given


class ImageViewConfig(Config):
    """How views of an image are made; the strengths are those of MoCo v2 (Chen et al. 2020)."""

    kind: Literal["augmented", "crops"] = "augmented"
    """augmented: crop, flip, color jitter, grayscale and blur; crops: crop and flip alone."""
    smallest: Share = 0.2
    """Least share of the image's area that a crop keeps."""
    largest: Share = 1.0
    """Greatest share of it."""
    draws: Count = 1
    """Pairs of crops of an image."""

    @property
    def label(self) -> str:
        """What the table's perturbation column says.

        >>> ImageViewConfig().label, ImageViewConfig(kind="crops", draws=2).label
        ('augmented images', 'crops of images, 2 draws')
        """
        if self.kind == "augmented":
            return "augmented images"
        return "crops of images" + ("" if self.draws == 1 else f", {self.draws} draws")

    def views(self, picture: Picture, count: int, seed: int) -> tuple[Picture, ...]:
        """Return views of an image, made when they are loaded.

        Args:
            picture: the image.
            count: augmented copies; of crops there are two a draw.
            seed: of the draws.
        """
        number = count if self.kind == "augmented" else 2 * self.draws
        return tuple(
            replace(
                picture,
                key=f"{picture.key}/{self.kind}/{self.smallest}-{self.largest}/{seed}/{place}",
                edit=partial(self._view, picture.key, seed, place),
            )
            for place in range(number)
        )

    def _view(self, key: str, seed: int, place: int, image: Image.Image) -> Image.Image:
        """Return one view of a decoded image."""
        draws = _draws(f"{key}{self.kind}", seed, place)
        image = _crop(image, self.smallest, self.largest, draws)
        if next(draws) < 0.5:
            image = ImageOps.mirror(image)
        return image if self.kind == "crops" else _recolored(image, draws)


def _draws(key: str, seed: int, place: int) -> Iterator[float]:
    """Yield doubles from 0 to 1: those of PCG64, a stream that numpy keeps fixed."""
    entropy = [seed, place, int.from_bytes(key.encode())]
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    while True:
        yield float(generator.random())


def _crop(
    image: Image.Image, smallest: float, largest: float, draws: Iterator[float]
) -> Image.Image:
    """Return a random part, of a random share of the area and a random shape, at most `_LARGEST` wide."""
    area = image.width * image.height * (smallest + (largest - smallest) * next(draws))
    ratio = _RATIO ** (2 * next(draws) - 1)
    width = min(image.width, max(1, round(math.sqrt(area * ratio))))
    height = min(image.height, max(1, round(math.sqrt(area / ratio))))
    left, top = (image.width - width) * next(draws), (image.height - height) * next(draws)
    scale = min(1.0, _LARGEST / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    box = (left, top, left + width, top + height)
    return image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=3.0)


def _recolored(image: Image.Image, draws: Iterator[float]) -> Image.Image:
    """Return an image with other brightness, contrast, saturation and hue, perhaps gray or blurred."""
    if next(draws) < 0.8:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(0.6 + 0.8 * next(draws))
        image = _turned_hue(image, round(255 * 0.1 * (2 * next(draws) - 1)))
    if next(draws) < 0.2:
        image = image.convert("L").convert("RGB")
    if next(draws) < 0.5:
        sigma = (0.1 + 1.9 * next(draws)) * min(image.size) / _REFERENCE
        image = image.filter(ImageFilter.GaussianBlur(sigma))
    return image


def _turned_hue(image: Image.Image, by: int) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + by) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
