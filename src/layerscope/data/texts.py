"""The gate that all texts pass: empty ones and repeats out, no more than a limit, all counted."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from layerscope.errors import InputError

DEFAULT_LIMIT: Final = 1000


@dataclass(frozen=True)
class Texts:
    """The texts that are measured, and how they came to be these.

    Attributes:
        texts: the kept texts, in the order of the source.
        name: a short label: file name, dataset id, "sample".
        fingerprint: 16 hexadecimal digits of the sha256 over the kept texts in order.
        dropped_duplicates: how many repeated an earlier text exactly.
        dropped_empty: how many held nothing but white space.
        total_read: how many texts the source holds, dropped ones included.
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
    """A stream of texts and the column that they come from."""

    name: str | None
    texts: Iterable[str]


def as_texts(
    texts: Iterable[str], *, name: str = "texts", limit: int | None = DEFAULT_LIMIT, seed: int = 0
) -> Texts:
    """Take texts that are already in Python through the same gate as those of a file.

    >>> kept = as_texts(["one text", "another", "one text", " "])
    >>> kept.texts, kept.dropped_duplicates, kept.dropped_empty
    (('one text', 'another'), 1, 1)

    Raises:
        InputError: a single string, something that is no string, or no text left.
    """
    if isinstance(texts, str | bytes):
        raise InputError(
            f"expected a list of texts, one {type(texts).__name__} came; "
            "put it into a list, or read a file with read_texts."
        )
    return keep(Column(None, _only_strings(texts)), name, limit=limit, seed=seed)


def _only_strings(texts: Iterable[object]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"expected every text to be a str, text {index} is {type(text).__name__}; "
                "convert it or leave it out."
            )
        yield text


def keep(
    found: Column, source: str, *, name: str | None = None, limit: int | None, seed: int
) -> Texts:
    """Drop empty and repeated texts and keep at most `limit`.

    The subset is the `limit` texts of least seeded digest: uniform, independent of the order and
    the format of the source, and a smaller limit keeps a subset of what a larger one keeps.
    """
    if limit is not None and limit < 1:
        raise InputError(f"expected a limit of at least 1 text, {limit} came.")
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
