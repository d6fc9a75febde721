"""Texts -> tokens -> padded batches; the patches of images are tokens too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from layerscope.data.images import Picture
from layerscope.errors import InputError

PaddingSide = Literal["right", "left"]


@dataclass(frozen=True)
class TokenizedText:
    """One text, or one image as patches, as the model reads it.

    Attributes:
        ids: token ids, special tokens included, cut to the length limit; of an image the places of its
            tokens.
        special: for each token, whether the tokenizer, or a model of images, added it.
        truncated: whether the limit cut the text.
        picture: the image; None for a text.
    """

    ids: tuple[int, ...]
    special: tuple[bool, ...]
    truncated: bool
    picture: Picture | None = None

    def counted(self, *, special_tokens: bool, first_token: bool) -> list[bool]:
        """For each token, whether it counts under a policy on special tokens and position 0."""
        counts = [special_tokens or not special for special in self.special]
        if counts and not first_token:
            counts[0] = False
        return counts


@dataclass(frozen=True)
class TokenBatch:
    """Padded inputs of some texts.

    Attributes:
        items: which of the given texts these are, in the order of the rows.
        ids: (text, token) token ids.
        real: (text, token), True where a token is not padding.
        counted: (text, token), True where a token counts for the measures.
        pixels: (image, channel, height, width) for a model of images.
    """

    items: tuple[int, ...]
    ids: Tensor
    real: Tensor
    counted: Tensor
    pixels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def positions(self) -> Tensor:
        """(text, token) position ids that count real tokens from 0, whatever the padding side."""
        return (self.real.long().cumsum(dim=1) - 1).clamp(min=0)

    def halves(self) -> tuple[TokenBatch, TokenBatch]:
        """Split the rows in two."""
        middle = len(self) // 2
        return self._rows(slice(0, middle)), self._rows(slice(middle, None))

    def _rows(self, rows: slice) -> TokenBatch:
        pixels = None if self.pixels is None else self.pixels[rows]
        return TokenBatch(
            self.items[rows], self.ids[rows], self.real[rows], self.counted[rows], pixels
        )


def length_limit(tokenizer: Any, model_config: Any, asked: int) -> int:
    """Return the most tokens a text may have: what was asked, unless the model takes fewer."""
    limits = [asked, int(getattr(tokenizer, "model_max_length", asked) or asked)]
    positions = getattr(model_config, "max_position_embeddings", None)
    if positions and positions > 0:  # RoBERTa-likes lose the positions up to the padding id
        offset = 2 if getattr(model_config, "model_type", "") in _OFFSET_POSITIONS else 0
        limits.append(int(positions) - offset)
    return min(limits)


_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text"}


def tokenize(tokenizer: Any, texts: Sequence[str], limit: int) -> list[TokenizedText]:
    """Tokenize texts as the model expects them, cut to `limit` tokens.

    Raises:
        InputError: there is none, since the model reads images; or its own tokens fill the limit.
    """
    if tokenizer is None:
        raise InputError(
            "the model reads images and has no tokenizer, so texts cannot be measured; give images "
            "(--images) to scan and evaluate, or cut it at a layer that is named."
        )
    added = tokenizer.num_special_tokens_to_add()
    if limit <= added:  # some tokenizers would then not cut at all
        raise InputError(
            f"texts are cut to {limit} tokens, but the tokenizer alone adds {added}; raise --max-length."
        )
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=limit,
        return_special_tokens_mask=True,
        padding=False,
    )
    rows = zip(encoded["input_ids"], encoded["special_tokens_mask"], texts, strict=True)
    return [
        TokenizedText(
            tuple(ids),
            tuple(bool(mark) for mark in marks),
            len(ids) >= limit and _exceeds(tokenizer, text, limit),
        )
        for ids, marks, text in rows
    ]


def _exceeds(tokenizer: Any, text: str, limit: int) -> bool:
    """Whether a text was cut rather than fitting exactly."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"]) > limit


_FULL: Final = 0.9
_WORTH: Final = 512


def plan_batches(
    lengths: Sequence[int], budget: int, *, tight: bool = False, one_length: bool = False
) -> list[list[int]]:
    """Group texts of similar length so that rows x longest row stays within a budget of tokens.

    Longest first: if memory is short, the first batch says so. A text longer than the budget goes
    alone. The grouping depends on nothing but the lengths, so a resumed run makes the same batches.

    Args:
        lengths: tokens of each text.
        budget: most tokens of a batch, padding counted.
        tight: whether a batch of 512 tokens also ends where a text is shorter than 0.9 of its longest:
            few texts, or short ones, then cost a tenth of padding at most, in place of a half.
        one_length: whether only texts of one length share a batch, so that none is padded.

    >>> plan_batches([3, 9, 4, 8], budget=18)
    [[1, 3], [2, 0]]
    >>> plan_batches([3, 9, 4, 9], budget=18, one_length=True)
    [[1, 3], [2], [0]]
    """
    batches: list[list[int]] = []
    longest = 0
    for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        rows = len(batches[-1]) if batches else 0
        loose = tight and lengths[item] < _FULL * longest and rows * longest >= _WORTH
        loose = loose or (one_length and max(1, lengths[item]) != longest)
        if batches and not loose and (rows + 1) * longest <= budget:
            batches[-1].append(item)
        else:
            batches.append([item])
            longest = max(1, lengths[item])
    return batches


def pad(
    items: Sequence[int],
    texts: Sequence[TokenizedText],
    counted: Sequence[Sequence[bool]],
    *,
    pad_id: int,
    side: PaddingSide = "right",
    device: torch.device | str = "cpu",
) -> TokenBatch:
    """Make one padded batch of the texts that `items` names."""
    width = max(len(texts[item].ids) for item in items)
    shape = (len(items), width)
    ids = torch.full(shape, pad_id, dtype=torch.long)
    real, counts = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for row, item in enumerate(items):
        length = len(texts[item].ids)
        place = slice(0, length) if side == "right" else slice(width - length, width)
        ids[row, place] = torch.tensor(texts[item].ids)
        real[row, place] = True
        counts[row, place] = torch.tensor(counted[item], dtype=torch.bool)
    return TokenBatch(tuple(items), ids.to(device), real.to(device), counts.to(device))


def padding_id(tokenizer: Any, model_config: Any) -> int:
    """Return the id to pad with; any will do where the tokenizer names none, since it is masked."""
    for source in (tokenizer, model_config):
        value = getattr(source, "pad_token_id", None)
        if value is not None and value >= 0:
            return int(value)
    return 0
