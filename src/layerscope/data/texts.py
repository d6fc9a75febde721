"""The gate that all texts pass: empty ones and repeats out, no more than a limit, all counted."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from layerscope.errors import InputError


@dataclass(frozen=True)
class Texts:
    """The texts that are measured, and how they came to be these.

    Attributes:
        texts: the kept texts, in the order of the source.
        name: a short label: file name, dataset id, "sample".
        fingerprint: 16 hexadecimal digits of the sha256 over the kept texts in order.
        dropped_duplicates: how many repeated an earlier text exactly.
        dropped_empty: how many held nothing but white space.
        total_read: how many texts the source holds, dropped ones included; of a stream, how many
            were read.
        source: what the user named.
        column: the column read, None where the source has no columns.
        seed: of the random subset; without effect unless `sampled`.
    """

    texts: tuple[str, ...]
    name: str
    fingerprint: str
    dropped_duplicates: int
    dropped_empty: int
    total_read: int
    source: str
    column: str | None
    seed: int

    def __len__(self) -> int:
        """Return the number of kept texts."""
        return len(self.texts)

    @property
    def distinct(self) -> int:
        """How many distinct non-empty texts the source holds."""
        return self.total_read - self.dropped_duplicates - self.dropped_empty

    @property
    def sampled(self) -> bool:
        """Whether these are a random subset of the distinct texts."""
        return len(self.texts) < self.distinct


@dataclass(frozen=True)
class Column:
    """A stream of texts and the column that they come from.

    Attributes:
        name: of the column; None where the source has none.
        texts: the texts, empty ones and repeats included.
        streamed: whether reading on is dear or never ends, so that the first texts up to the limit are
            taken in place of a random subset of all.
    """

    name: str | None
    texts: Iterable[str]
    streamed: bool = False


def keep(
    found: Column, source: str, *, name: str | None = None, limit: int | None, seed: int
) -> Texts:
    """Drop empty and repeated texts and keep at most `limit`.

    The subset is the `limit` texts of least seeded digest: uniform, independent of the order and
    the format of the source, and a smaller limit keeps a subset of what a larger one keeps. Of a
    stream the first `limit` texts are kept and the rest is not read.
    """
    refuse_limit(limit)
    seen: set[bytes] = set()
    heap: list[tuple[int, int, str]] = []  # (minus the digest, index, text): the worst is first
    empty = total = 0
    for text in found.texts:
        total += 1
        if not text.strip():
            empty += 1
            continue
        digest = _digest(text, seed, total)
        if digest in seen:
            continue
        seen.add(digest)
        entry = (-int.from_bytes(digest), total, text)
        if limit is None or len(heap) < limit:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
        if found.streamed and len(seen) == limit:
            break
    if not seen:
        held = f"its {total} texts are all white space" if total else "it is empty"
        raise InputError(f"expected texts in {source!r}, but {held}; give it at least one text.")
    texts = tuple(text for _, _, text in sorted(heap, key=lambda entry: entry[1]))
    return Texts(
        texts=texts,
        name=name or source,
        fingerprint=_fingerprint(texts),
        dropped_duplicates=total - empty - len(seen),
        dropped_empty=empty,
        total_read=total,
        source=source,
        column=found.name,
        seed=seed,
    )


def refuse_limit(limit: int | None) -> None:
    """Raise an InputError for a limit that keeps nothing."""
    if limit is not None and limit < 1:
        raise InputError(
            f"expected a limit of at least 1 text, got {limit}; all are taken without a limit "
            "(limit=None, on the command line --limit 0)."
        )


def _digest(text: str, seed: int, number: int) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"expected Unicode text, text {number} holds a lone surrogate at character "
            f"{error.start}; remove it or decode the source again."
        ) from None
    return hashlib.blake2b(data, digest_size=16, key=str(seed).encode()).digest()


def _fingerprint(texts: Sequence[str]) -> str:
    total = hashlib.sha256()
    for text in texts:
        data = text.encode()
        total.update(len(data).to_bytes(8))  # lengths keep ["ab", "c"] apart from ["a", "bc"]
        total.update(data)
    return total.hexdigest()[:16]


# What a caller may give as texts: a name, or one of the objects that `objects.as_texts` takes.
TextSource = str | os.PathLike[str] | Iterable[Any] | Texts
