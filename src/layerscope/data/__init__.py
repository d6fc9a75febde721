"""Texts in: from a file, standard input, a dataset or the sample, or out of an object in Python.

Whatever the source, the texts pass one gate: empty ones and exact duplicates are dropped and counted,
and of more than `limit` a seeded random subset is kept in the original order (of an endless stream the
first ones). Sources are streamed, so only the kept texts and a 16-byte digest of each distinct one are
held in memory.

The built-in sample is public-domain prose; SAMPLE.md in the package says from where.
"""

from layerscope.data.objects import as_texts
from layerscope.data.reading import SAMPLE, STANDARD_INPUT, read_texts
from layerscope.data.texts import DEFAULT_LIMIT, Texts, TextSource

__all__ = [
    "DEFAULT_LIMIT", "SAMPLE", "STANDARD_INPUT", "TextSource", "Texts", "as_texts", "read_texts",
]  # fmt: skip
