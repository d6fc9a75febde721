"""The model that is diagnosed, its samples, and their reference states from a plain pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from layerscope.data.tokens import (
    PaddingSide,
    TokenBatch,
    TokenizedText,
    length_limit,
    pad,
    padding_id,
    tokenize,
)
from layerscope.diagnosis.trace import Gap, Inputs, Trace, trace
from layerscope.errors import InputError
from layerscope.models.architectures import ARCHITECTURES
from layerscope.models.backbone import Backbone
from layerscope.models.structure import TOLERANCES
from layerscope.settings import FEW_TEXTS, ModelOptions
from layerscope.states.extract import TokenStates, extract, sites_of

TOKENS: Final = 64
_LEAST: Final = 2


@dataclass(frozen=True)
class Origin:
    """Where a model was loaded from, so that it can be loaded again in another way.

    Attributes:
        name: a hub id, folder or file; None for a model that the caller had loaded.
        options: how it was loaded.
    """

    name: str | None = None
    options: ModelOptions = field(default_factory=ModelOptions)


@dataclass(frozen=True)
class Subject:
    """A model and the samples that it is examined on.

    Attributes:
        backbone: the model, its layers in order.
        origin: where it came from.
        texts: as strings, the longest last; empty for a model of images.
        whole: the texts as tokens, truncated to `TOKENS`.
        ragged: the texts truncated to lengths from a few tokens to all, so that padding is needed; the
            last is whole.
        images: (sample, channel, height, width); None for a model of texts.
    """

    backbone: Backbone
    origin: Origin
    texts: tuple[str, ...] = ()
    whole: tuple[TokenizedText, ...] = ()
    ragged: tuple[TokenizedText, ...] = ()
    images: Tensor | None = None

    @property
    def tolerance(self) -> float:
        """Largest difference that counts as equal."""
        return TOLERANCES.get(self.backbone.info.dtype, TOLERANCES["float32"])

    @property
    def in_table(self) -> bool:
        """Whether layerscope's table of architectures holds this model."""
        return self.backbone.info.architecture in ARCHITECTURES

    @cached_property
    def samples(self) -> tuple[Inputs, ...]:
        """Each ragged text, or image, as inputs of the model alone: no padding, no mask."""
        if self.images is not None:
            return tuple({"pixel_values": image[None]} for image in self.images)
        return tuple(self.alone(text.ids) for text in self.ragged)

    def alone(self, ids: Sequence[int]) -> Inputs:
        """Return the inputs for one text."""
        return {"input_ids": torch.tensor([list(ids)], device=self.backbone.device)}

    @cached_property
    def traces(self) -> tuple[Trace, ...]:
        """A plain pass over each sample alone: the reference for all comparisons."""
        return tuple(trace(self.backbone, sample) for sample in self.samples)

    @cached_property
    def truth(self) -> tuple[list[Tensor], ...]:
        """The states of each sample from `traces`: a list over sites of (token, dim)."""
        return tuple(found.states(self.backbone) for found in self.traces)

    def extracted(self, *, together: int, side: PaddingSide = "right") -> list[list[Tensor]]:
        """Return layerscope's own states of the ragged texts or images, in the shape of `truth`.

        Args:
            together: texts in a batch, of one length if padding changes the model's states.
            side: of the padding.
        """
        backbone = self.backbone
        images = self.images
        given = self._padded(together, side) if images is None else self._whole(images, together)
        sites = sites_of(backbone)
        found: dict[int, list[Tensor]] = {}
        for result in extract(backbone, given, sites, real_tokens):
            for row, item in enumerate(result.items):
                found[item] = [result.by_site[site][row] for site in sites]
        return [found[item] for item in range(len(self.samples))]

    def _whole(self, images: Tensor, together: int) -> list[TokenBatch]:
        """Return the images in batches."""
        tokens = len(self.truth[0][0])
        found = []
        for start in range(0, len(images), together):
            pixels = images[start : start + together]
            every = torch.ones((len(pixels), tokens), dtype=torch.bool, device=images.device)
            items = tuple(range(start, start + len(pixels)))
            found.append(TokenBatch(items, every.long(), every, every, pixels))
        return found

    def _padded(self, together: int, side: PaddingSide) -> list[TokenBatch]:
        """Return the ragged texts in padded batches."""
        texts, backbone = self.ragged, self.backbone
        marks = [[True] * len(text.ids) for text in texts]
        pad_id = padding_id(backbone.tokenizer, backbone.model.config)
        alike: dict[int, list[int]] = {}
        for item, text in enumerate(texts):
            alike.setdefault(len(text.ids) if backbone.padding == "none" else 0, []).append(item)
        return [
            pad(
                group[start:][:together],
                texts,
                marks,
                pad_id=pad_id,
                side=side,
                device=backbone.device,
            )
            for group in alike.values()
            for start in range(0, len(group), together)
        ]

    def place(self, gap: Gap) -> str:
        """Return a gap's size and place in words."""
        if gap.size == 0:
            return "no difference at all"
        return f"at most {gap.size:.1e} ({self.site(gap.place)})"

    def site(self, place: int) -> str:
        """Return the name of a state by its number in `truth`."""
        return f"layer {place}" if place <= self.backbone.depth else "the final norm"

    @property
    def allowed(self) -> str:
        """The tolerance in words."""
        return f"{self.tolerance:.0e} allowed"


def real_tokens(tokens: TokenStates) -> list[Tensor]:
    """Reducer for `extract`: (token, dim) of each text of a batch, without padding."""
    pairs = zip(tokens.states, tokens.real, strict=True)
    return [states[real].detach().cpu().clone() for states, real in pairs]


def of_texts(backbone: Backbone, texts: Sequence[str], origin: Origin) -> Subject:
    """Return the subject for a model of texts.

    Raises:
        InputError: no tokenizer, or no text with a token.
    """
    limit = length_limit(backbone.tokenizer, backbone.model.config, TOKENS)
    pairs = zip(texts, tokenize(backbone.tokenizer, texts, limit), strict=True)
    found = [(text, tokens) for text, tokens in pairs if tokens.ids]
    if not found:
        raise InputError(f"none of {len(texts)} texts has a token; give longer texts.")
    whole = sorted(found, key=lambda pair: len(pair[1].ids))
    tokens = tuple(each for _, each in whole)
    return Subject(
        backbone,
        origin,
        texts=tuple(text for text, _ in whole),
        whole=tokens,
        ragged=tuple(_cut(text, (i + 1) / len(tokens)) for i, text in enumerate(tokens)),
    )


def _cut(text: TokenizedText, share: float) -> TokenizedText:
    length = min(len(text.ids), max(_LEAST, round(len(text.ids) * share)))
    return TokenizedText(text.ids[:length], text.special[:length], truncated=False)


def of_images(backbone: Backbone, images: Tensor | None, origin: Origin, seed: int) -> Subject:
    """Return the subject for a model of images; the default pixel values are seeded noise.

    Raises:
        InputError: the pixel values are not (sample, channel, height, width).
    """
    if images is None:
        config: Any = backbone.model.config
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(FEW_TEXTS, config.num_channels, height, width, generator=generator)
    if images.ndim != 4:
        raise InputError(
            "expected pixel values (sample, channel, height, width), got the shape "
            f"{tuple(images.shape)}."
        )
    weight = next(backbone.model.parameters())
    return Subject(backbone, origin, images=images[:FEW_TEXTS].to(weight.device, weight.dtype))


def takes_images(backbone: Backbone) -> bool:
    """Whether the model reads pixels rather than tokens."""
    return getattr(backbone.model, "main_input_name", "input_ids") == "pixel_values"
