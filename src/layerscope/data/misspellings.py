"""Slightly misspelled copies of a text, drawn from the text, the settings and the seed alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Annotated, Final

import numpy as np
from annotated_types import Gt, Le
from rapidfuzz.distance import Levenshtein

from layerscope.config import Config, Count, Number, Several
from layerscope.errors import InputError

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


# Neither white space nor ASCII, Arabic, Indic, general, CJK or full-width punctuation. Not \w: it
# would break words at combining marks and leave emoji out. Joiners U+200C and U+200D stay inside.
_WORD: Final = re.compile(
    r"[^\s!-/:-@\[-`{-~\u060c\u061b\u061f\u06d4\u0964\u0965\u2010-\u2027\u2030-\u205e"
    r"\u3001-\u303f\uff01-\uff0f\uff1a-\uff20]+"
)
_TRIES: Final = 50

_LATIN: Final = "abcdefghijklmnopqrstuvwxyz"
# The keys that touch each key of a QWERTY keyboard, read off its three staggered rows of letters
# and the digits above them.
_ADJACENT: Final = (
    "1:2q 2:13qw 3:24we 4:35er 5:46rt 6:57ty 7:68yu 8:79ui 9:80io 0:9op "
    "q:12wa w:23qeas e:34wrsd r:45etdf t:56ryfg y:67tugh u:78yihj i:89uojk o:90ipkl p:0ol "
    "a:qwsz s:weadzx d:ersfxc f:rtdgcv g:tyfhvb h:yugjbn j:uihknm k:iojlm l:opk "
    "z:asx x:sdzc c:dfxv v:fgcb b:ghvn n:hjbm m:jkn"
)
_NEIGHBORS: Final = {entry[0]: entry[2:] for entry in _ADJACENT.split()}
_KEYS: Final = _NEIGHBORS | {
    key.upper(): near.upper() for key, near in _NEIGHBORS.items() if key.isalpha()
}


class Edit(StrEnum):
    """What the second operator may do to a character."""

    INSERT = "insert"
    SUBSTITUTE = "substitute"
    SWAP = "swap"
    DELETE = "delete"


class AugmentationConfig(Config):
    """How strongly a text is changed."""

    strength: Annotated[Number, Gt(0), Le(1)] = 0.3
    """The share p of words that each operator touches, and within a touched word the share of
    characters that it changes; both rounded down, and at least one."""
    cap: Count | None = None
    """The most words that an operator touches and the most characters that it changes in one; None
    lets the strength be the same for texts of every length."""
    shortest_word: Count = 4
    """Shorter words are left alone, in characters; where a text has no longer one, all its words
    serve."""
    edits: Several[Edit] = tuple(Edit)
    """The kinds of character edits, of which each edit draws one."""
    first_words: Count | None = None
    """Words from the start of a text that a copy is made of; None takes all."""

    @classmethod
    def authors(cls) -> AugmentationConfig:
        """Return the strength of Skean et al. 2025, who used the defaults of nlpaug.

        At most 10 words an operator and 10 characters a word, substitutions only: long texts are
        changed relatively less. The strings themselves are ours, not nlpaug's.
        """
        return cls(cap=10, edits=(Edit.SUBSTITUTE,))

    @property
    def label(self) -> str:
        """What the table's perturbation column says; different settings, different labels.

        >>> AugmentationConfig().label, AugmentationConfig.authors().label
        ('characters p=0.3', 'characters p=0.3 cap=10 edits=substitute')
        """
        parts = [f"characters p={self.strength:g}"]
        if self.cap is not None:
            parts.append(f"cap={self.cap}")
        usual = type(self)()
        if self.shortest_word != usual.shortest_word:
            parts.append(f"words>={self.shortest_word}")
        if self.edits != usual.edits:
            parts.append(f"edits={'+'.join(self.edits)}")
        shorter = "" if self.first_words is None else f", first {self.first_words} words"
        return " ".join(parts) + shorter

    def _count(self, size: int) -> int:
        """How many of `size` words or characters are touched."""
        count = max(1, int(self.strength * size + 1e-9))
        return min(count, size, self.cap or size)


@dataclass(frozen=True)
class View:
    """A changed copy of a text.

    Attributes:
        text: the changed text.
        edit_distance: Levenshtein distance to the original, in characters.
        relative_distance: the same divided by the length of the original.
    """

    text: str
    edit_distance: int
    relative_distance: float


def views(text: str, count: int, *, settings: AugmentationConfig, seed: int) -> tuple[View, ...]:
    """Return `count` views that differ from the original and from each other.

    View k is the same whatever `count`: two views are the first two of sixteen.

    >>> view, _ = views("hidden states change", 2, settings=AugmentationConfig(), seed=0)
    >>> view.edit_distance > 0
    True

    Raises:
        InputError: the text is too short or empty for so many distinct views.
    """
    if count < 1 or seed < 0:
        raise InputError(f"expected at least 1 view and a seed from 0 on, {count} and {seed} came.")
    pieces = _Pieces.of(text, settings.first_words)
    text = pieces.text()
    taken = {text: -1}
    for index in range(count):
        for attempt in range(_TRIES if pieces.words else 0):
            draws = Draws(text, seed, index, attempt)
            changed = _perturb(pieces, settings, draws)
            if changed not in taken:
                taken[changed] = index
                break
        else:
            raise _too_few(text, count, index)
    del taken[text]
    return tuple(_view(text, changed) for changed in taken)


def mean_edit_distance(made: Sequence[View]) -> float:
    """Return the mean relative edit distance: 0.2 is one edit to five characters of the original.

    Raises:
        InputError: there is no view.
    """
    if not made:
        raise InputError("expected at least one view to average edit distances over, none came.")
    return fmean(view.relative_distance for view in made)


def _view(text: str, changed: str) -> View:
    distance = Levenshtein.distance(text, changed)
    return View(changed, distance, distance / len(text))


def _too_few(text: str, count: int, possible: int) -> InputError:
    shown = text if len(text) <= 40 else text[:40] + "..."
    return InputError(
        f"expected {count} distinct views of the text {shown!r}, {possible} could be made; "
        "leave the text out, or ask for fewer views or more strength."
    )


# Operators


@dataclass(frozen=True)
class _Pieces:
    """A text as words and what stands around them: gap 0, word 0, gap 1, ..., the last gap."""

    words: list[str]
    gaps: list[str]

    @classmethod
    def of(cls, text: str, most: int | None = None) -> _Pieces:
        """Take a text apart, or its first words."""
        spans = [match.span() for match in _WORD.finditer(text)]
        if not spans:  # nothing but punctuation: take that for words
            spans = [match.span() for match in re.finditer(r"\S+", text)]
        spans = [piece for start, end in spans for piece in cut_long(start, end)]
        if most is not None and most < len(spans):
            text, spans = text[: spans[most - 1][1]], spans[:most]
        edges = [0, *(edge for span in spans for edge in span), len(text)]
        gaps = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
        return cls([text[start:end] for start, end in spans], gaps)

    def text(self) -> str:
        inner = (part for pair in zip(self.words, self.gaps[1:], strict=True) for part in pair)
        return self.gaps[0] + "".join(inner)


def _perturb(pieces: _Pieces, settings: AugmentationConfig, draws: Draws) -> str:
    alphabet = _alphabet(pieces.words)
    split = _split_words(pieces, settings, draws)
    edited = _touch(split, settings, draws, lambda word: _edit(word, settings, draws, alphabet))
    return _touch(edited, settings, draws, lambda word: _mistype(word, settings, draws)).text()


def _alphabet(words: list[str]) -> str:
    """Return the characters beyond ASCII of a text, from which edits draw for such characters."""
    return "".join(sorted({c for word in words if not word.isascii() for c in word if c > "\x7f"}))


def _chosen(words: list[str], settings: AugmentationConfig, draws: Draws) -> list[int]:
    """Draw the words to touch: a share of all words, of which the short ones are left alone.

    If only short ones come, one long word is drawn instead, so that something changes.
    """
    long = [index for index, word in enumerate(words) if len(word) >= settings.shortest_word]
    long = long or list(range(len(words)))
    drawn = set(draws.sample(len(words), settings._count(len(words))))
    return [index for index in long if index in drawn] or [long[draws.below(len(long))]]


def _touch(
    pieces: _Pieces, settings: AugmentationConfig, draws: Draws, change: Callable[[str], str]
) -> _Pieces:
    words = list(pieces.words)
    for index in _chosen(words, settings, draws):
        words[index] = change(words[index])
    return _Pieces(words, pieces.gaps)


def _split_words(pieces: _Pieces, settings: AugmentationConfig, draws: Draws) -> _Pieces:
    """Put one space inside each drawn word."""
    words, gaps = list(pieces.words), list(pieces.gaps)
    for index in reversed(_chosen(words, settings, draws)):  # later words keep their place
        word = words[index]
        if len(word) > 1:
            place = 1 + draws.below(len(word) - 1)
            words[index : index + 1] = [word[:place], word[place:]]
            gaps.insert(index + 1, " ")
    return _Pieces(words, gaps)


def _edit(word: str, settings: AugmentationConfig, draws: Draws, alphabet: str) -> str:
    """Edit a share of the characters of a word, never deleting its last one."""
    characters = list(word)
    for place in reversed(draws.sample(len(word), settings._count(len(word)))):
        kind = settings.edits[draws.below(len(settings.edits))]
        if kind is Edit.INSERT:
            characters.insert(place, _other(characters[place], alphabet, draws))
        elif kind is Edit.DELETE and len(characters) > 1:
            del characters[place]
        elif kind is Edit.SWAP and _differ(characters, place):
            characters[place], characters[place + 1] = characters[place + 1], characters[place]
        else:  # also where there is nothing to swap with or to leave
            characters[place] = _other(characters[place], alphabet, draws)
    return "".join(characters)


def _differ(characters: list[str], place: int) -> bool:
    return place + 1 < len(characters) and characters[place] != characters[place + 1]


def _other(character: str, alphabet: str, draws: Draws) -> str:
    """Draw another character of the same script: Latin for ASCII, otherwise one of the text's."""
    choices = _LATIN if character <= "\x7f" or len(alphabet) < 2 else alphabet
    known = choices.find(character.lower())
    place = draws.below(len(choices) - (known >= 0))
    other = choices[place + (0 <= known <= place)]
    return other.upper() if character.isupper() else other


def _mistype(word: str, settings: AugmentationConfig, draws: Draws) -> str:
    """Replace a share of the characters by a neighbor on a QWERTY keyboard."""
    places = [place for place, character in enumerate(word) if character in _KEYS]
    if not places:
        return word
    characters = list(word)
    count = min(settings._count(len(word)), len(places))
    for drawn in draws.sample(len(places), count):
        near = _KEYS[characters[places[drawn]]]
        characters[places[drawn]] = near[draws.below(len(near))]
    return "".join(characters)
