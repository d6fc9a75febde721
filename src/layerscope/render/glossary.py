"""The words of results, each explained in a sentence: shown under the pointer on a page."""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup, escape

TERMS: Final = {
    "readout": "What turns hidden states into the vector that is served: layers, weights, pooling and a "
    "linear map fitted without labels. A single layer is the simplest one.",
    "final norm": "The normalization after the last block. What leaves it is the model's own output.",
    "depth": "A layer's number divided by the number of blocks: 0 is the embeddings, 1 the last block.",
    "convention": "How states are prepared before a formula is applied: paper (raw, as printed), "
    "normalized (tokens centered, rows of unit length) or reference (as the authors' code does).",
    "crop": "A span of a text. Two that do not overlap are a pair: a good vector of one finds the other.",
    "view": "A changed copy of a text, misspelled or cut out of it.",
    "within noise": "The texts cannot tell it from the chosen one: another sample of them could well "
    "turn the order around.",
    "95 % limits": "Where the value would lie in 95 of 100 samples of such texts.",
    "mean reciprocal rank": "The mean of 1 / rank of the right answer: 1 if it is always found first.",
    "pooling": "How the states of a text's tokens become one vector, such as their mean.",
    "prompt entropy": "How many directions the tokens of one text use, averaged over the texts.",
    "dataset entropy": "How many directions the vectors of all texts use.",
    "effective rank": "The number of directions that the vectors use, counted by their weights.",
    "curvature": "The mean angle between neighboring steps from token to token.",
    "InfoNCE": "How hard it is to tell which two views are of one text; less is better.",
    "LiDAR": "The number of directions that tell texts apart from views of one text.",
    "DiME": "How much more two views of a text share than views of two texts, in their entropies.",
    "whitening": "A linear map that makes all directions equally strong, here to a power from 0 to 1.",
    "z-score": "Each dimension less its mean, divided by its spread.",
    "abtt": "All but the top: the mean and the strongest directions are taken out.",
    "Frenet": "How the subspace of the texts' vectors moves and turns from layer to layer.",
    "NRS": "Neighborhood retention: the share of nearest neighbors that a block keeps.",
    "GFMI": "How alike the neighborhood graphs of two layers are.",
    "CKA": "How alike the similarities of texts are at two layers, from 0 to 1.",
    "null": "The value on unrelated layers or random subspaces.",
    "floor": "The value that noise alone would give.",
    "block": "One transformer layer of the model; block k computes layer k.",
    "layer": "Layer 0 is the output of the embeddings, layer k what leaves block k.",
}
"""Word -> what it means here."""

_WORD: Final = re.compile(
    r"(?<![\w-])(" + "|".join(map(re.escape, sorted(TERMS, key=len, reverse=True))) + r")(?![\w-])",
    re.IGNORECASE,
)
_KNOWN: Final = {term.casefold(): meaning for term, meaning in TERMS.items()}


def explained(text: str) -> Markup:
    """Return text as HTML in which the first use of each known word shows its meaning.

    >>> explained("<floor> and floor")
    Markup('&lt;<dfn title="The value that noise alone would give.">floor</dfn>&gt; and floor')
    """
    found, last, known = [], 0, set()
    for match in _WORD.finditer(text):
        word = match[0].casefold()
        if word in known:
            continue
        known.add(word)
        mark = Markup('<dfn title="{}">{}</dfn>').format(_KNOWN[word], match[0])
        found += [escape(text[last : match.start()]), mark]
        last = match.end()
    return Markup("").join([*found, escape(text[last:])])
