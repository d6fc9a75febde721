"""Texts in: one function that reads them from a file, standard input, a dataset or the sample.

Whatever the door, the texts pass one gate: empty ones and exact duplicates are dropped and counted,
and of more than `limit` a seeded random subset is kept in the original order. Sources are streamed,
so only the kept texts and a 16-byte digest of each distinct one are held in memory.

The built-in sample is public-domain prose; SAMPLE.md in the package says from where.
"""

from layerscope.data.reading import SAMPLE, STANDARD_INPUT, read_texts
from layerscope.data.texts import DEFAULT_LIMIT, Texts, as_texts

__all__ = ["DEFAULT_LIMIT", "SAMPLE", "STANDARD_INPUT", "Texts", "as_texts", "read_texts"]
