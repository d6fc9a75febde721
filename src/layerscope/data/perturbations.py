"""Token ids changed before a model reads them: repetition, random tokens, random texts of a length.

The extreme prompts of LbL (figure 6, appendix F). Which tokens change depends on the text, the kind and
the seed alone, and a larger p changes all that a smaller one does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from layerscope.config import Perturbation
from layerscope.data.tokens import TokenizedText
from layerscope.errors import InputError

Ids = np.ndarray[Any, np.dtype[np.int64]]


def perturbed(
    texts: Sequence[TokenizedText],
    how: Perturbation,
    tokenizer: Any,
    *,
    limit: int,
    rows: int | None = None,
    seed: int = 0,
) -> list[TokenizedText]:
    """Return texts with changed tokens; repeat and random keep their number.

    Args:
        texts: as the tokenizer made them; what it added keeps its place.
        how: the perturbation.
        tokenizer: whose vocabulary is drawn from.
        limit: the most tokens that the model may read.
        rows: of the embedding matrix, where the vocabulary has more.
        seed: of the draws.

    Raises:
        InputError: a text without a token that may change, or a length beyond the limit.
    """
    special = special_ids(tokenizer)
    known = set(tokenizer.get_vocab().values())
    drawable = known if how.special else known - special
    vocabulary = np.array(sorted(each for each in drawable if rows is None or each < rows))
    return [_changed(text, how, vocabulary, special, limit, seed) for text in texts]


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of all tokens that are no text: padding, separators, roles of a chat."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marked = {number for number, token in added.items() if getattr(token, "special", False)}
    return frozenset(marked | set(tokenizer.all_special_ids))


def _changed(
    text: TokenizedText,
    how: Perturbation,
    vocabulary: Ids,
    special: frozenset[int],
    limit: int,
    seed: int,
) -> TokenizedText:
    ids = np.array(text.ids, dtype=np.int64)
    own = [
        not mark and number not in special
        for number, mark in zip(text.ids, text.special, strict=True)
    ]
    free = np.array(own, dtype=bool) | how.special
    if not free.any():
        raise InputError("expected texts with tokens to perturb, got one of special tokens alone.")
    digest = hashlib.blake2b(ids.tobytes(), digest_size=8, key=how.kind.encode()).digest()
    draws = np.random.default_rng([seed, int.from_bytes(digest)])
    if how.kind == "length":
        return _of_length(text, how.tokens or 0, vocabulary, limit, draws)
    chances = draws.random(len(ids))  # drawn before the tokens, so that p changes no draw
    source = ids[free] if how.kind == "repeat" else vocabulary
    drawn = source[draws.integers(len(source), size=len(ids))]
    return replace(text, ids=tuple(np.where(free & (chances < (how.p or 0)), drawn, ids).tolist()))


def _of_length(
    text: TokenizedText, count: int, vocabulary: Ids, limit: int, draws: np.random.Generator
) -> TokenizedText:
    """Return as many drawn tokens between what the tokenizer added before and after the text."""
    own = [place for place, mark in enumerate(text.special) if not mark]
    first, last = (own[0], own[-1] + 1) if own else (len(text.ids), len(text.ids))
    before, after = text.ids[:first], text.ids[last:]
    if len(before) + count + len(after) > limit:
        raise InputError(
            f"a random text of {count} tokens with {len(before) + len(after)} special ones is over the "
            f"limit of {limit}; raise max_length, or choose fewer tokens."
        )
    drawn = vocabulary[draws.integers(len(vocabulary), size=count)].tolist()
    return TokenizedText(
        (*before, *drawn, *after),
        (*(True for _ in before), *(False for _ in drawn), *(True for _ in after)),
        truncated=False,
    )
