"""The text that the models read: paragraphs of prose from three Debian packages, in a fixed order."""

from __future__ import annotations

import gzip
import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from layerscope.data.texts import read_texts

SHORTEST = 12  # words of a paragraph
PROSE = 0.8  # least part of a paragraph's characters that are letters or spaces
HELD_OUT = 40  # every 40th document is for validation
PIECES = 120  # documents that the Jargon File is cut into
ROLE = re.compile(r":[\w:+-]+:`[!~]?([^`<]*?)\s*(?:<[^`>]*>)?`")
LINK = re.compile(r"`([^`<]+?)\s*<[^`>]+>`__?")
MARKUP = re.compile(r"``|`|\*\*|(?<!\w)\*(?=\w)|(?<=\w)\*(?!\w)|\|")
PARTS = {"noun": "What is {}?", "verb": "What does it mean to {}?", "adj": "What does {} mean?"}


@dataclass(frozen=True)
class Source:
    """A Debian package whose files are read, under the root of a system or of an unpacked package."""

    package: str
    pattern: str
    license: str

    def files(self, root: Path) -> list[Path]:
        """Return the files in the order of their names."""
        found = sorted(root.glob(self.pattern))
        if not found:
            raise SystemExit(
                f"{root / self.pattern} is missing: install it with `apt-get install {self.package}`, or "
                f"run `apt-get download {self.package}`, `dpkg -x {self.package}_*.deb FOLDER`, and "
                "give --texts FOLDER."
            )
        return found


PYTHON = Source(
    "python3.11-doc",
    "usr/share/doc/python3.11/html/_sources/**/*.rst.txt",
    "Python Software Foundation License 2",
)
JARGON = Source("jargon-text", "usr/share/doc/jargon-text/jargon.txt.gz", "public domain")
WORDNET = Source("wordnet-base", "usr/share/wordnet/data.*", "WordNet 3.0 License")


@dataclass(frozen=True)
class Corpus:
    """Documents, each a text of many paragraphs, for training and for validation."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @classmethod
    def of(cls, documents: Sequence[str]) -> Corpus:
        """Hold out every 40th document."""
        chosen = [index % HELD_OUT == HELD_OUT - 1 for index in range(len(documents))]
        pairs = list(zip(documents, chosen, strict=True))
        return cls(
            tuple(text for text, out in pairs if not out), tuple(text for text, out in pairs if out)
        )

    def digest(self) -> str:
        """Return the SHA-256 of all documents, which says whether two machines read the same text."""
        found = hashlib.sha256()
        for text in (*self.train, *self.held_out):
            found.update(text.encode() + b"\0")
        return found.hexdigest()


def prose(text: str) -> list[str]:
    """Return the paragraphs that are prose, with single spaces and without reStructuredText's marks."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        plain = MARKUP.sub("", LINK.sub(r"\1", ROLE.sub(r"\1", " ".join(block.split()))))
        letters = sum(character.isalpha() or character == " " for character in plain)
        if (
            len(plain.split()) >= SHORTEST
            and letters >= PROSE * len(plain)
            and not plain.startswith(".. ")
            and plain[-1] in ".:!?)"
        ):
            found.append(plain)
    return found


def manuals(root: Path) -> Iterator[str]:
    """Yield the files of Python's documentation that have prose."""
    for path in PYTHON.files(root):
        paragraphs = prose(path.read_text(encoding="utf-8"))
        if paragraphs:
            yield "\n\n".join(paragraphs)


def jargon(root: Path) -> Iterator[str]:
    """Yield the Jargon File in pieces, without the paragraphs of layerscope's built-in sample."""
    [path] = JARGON.files(root)
    sample = set(read_texts("sample", limit=None).texts)
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    paragraphs = [paragraph for paragraph in prose(text) if paragraph not in sample]
    size = -(-len(paragraphs) // PIECES)
    for start in range(0, len(paragraphs), size):
        yield "\n\n".join(paragraphs[start : start + size])


def documentation(root: Path, seed: int) -> Corpus:
    """Return Python's documentation and the Jargon File, mixed."""
    documents = [*manuals(root), *jargon(root)]
    random.Random(seed).shuffle(documents)
    return Corpus.of(documents)


def questions(root: Path, seed: int) -> Corpus:
    """Return one question and answer for each sense of WordNet's nouns, verbs and adjectives."""
    found = []
    for path in WORDNET.files(root):
        question = PARTS.get(path.suffix[1:])
        if question is None:
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):  # the license's lines do
                facts, gloss = line.split(" | ", 1)
                lemma = re.sub(r"\(\w+\)$", "", facts.split()[4]).replace("_", " ")
                meaning = gloss.split('; "')[0].strip()
                found.append(f"Question: {question.format(lemma)}\nAnswer: {meaning}.")
    random.Random(seed).shuffle(found)
    return Corpus.of(found)
