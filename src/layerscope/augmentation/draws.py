"""What all views share: draws that belong to one text, and what counts as a word."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import numpy as np

_BUFFER: Final = 256
# Scripts without spaces would make a sentence one word, so longer runs are cut into pieces.
_LONGEST_WORD: Final = 20
_PIECE: Final = 5


def cut_long(start: int, end: int) -> list[tuple[int, int]]:
    """Return a run of characters as one word or, where it is too long for one, as several."""
    if end - start <= _LONGEST_WORD:
        return [(start, end)]
    return [(place, min(place + _PIECE, end)) for place in range(start, end, _PIECE)]


class Draws:
    """A stream of draws that belongs to one view of one text.

    It uses only the doubles of PCG64: numpy keeps that stream fixed, but not how its other
    methods turn it into integers and samples.
    """

    def __init__(self, text: str, seed: int, index: int, attempt: int) -> None:
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        entropy = [seed, index, attempt, int.from_bytes(digest, "little")]
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        self._next = self._stream().__next__

    def _stream(self) -> Iterator[float]:
        while True:
            yield from self._generator.random(_BUFFER).tolist()

    def below(self, size: int) -> int:
        """Return an integer from 0 to size - 1."""
        return int(self._next() * size)

    def sample(self, size: int, count: int) -> list[int]:
        """Return `count` distinct integers below `size`, ascending."""
        if count == 1:  # the usual case inside a word
            return [self.below(size)]
        order = list(range(size))
        for place in range(count):
            other = place + self.below(size - place)
            order[place], order[other] = order[other], order[place]
        return sorted(order[:count])
