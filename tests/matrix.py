"""What works on which architecture: what the tests prove, and the table that the documentation shows.

The table has a row for each architecture of the campaign (`python -m benchmarks architectures`) and for
each that reads images. `python tests/matrix.py` writes it anew into docs/architectures.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architectures.md"
RESULTS = ROOT / "benchmarks" / "results" / "architectures.json"
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.S)
COLUMNS = ("scan", "doctor", "cut", "sentence-transformers", "prune")
PROVEN = ("scan", "doctor", "cut", "prune")


@dataclass(frozen=True)
class Works:
    """What the tests prove of one architecture, on a tiny random model of it.

    Attributes:
        cut: "yes", "one more" (transformers hands out the raw layer only before another block), "no".
        sentences: whether it is cut for sentence-transformers.
        prune: "yes", "not 1" (the first block holds what the others need), "images" (yes, and the
            command measures images), "no".
        cache: whether it writes the same text with and without its cache when blocks are skipped; None
            for encoders.
        doctor: whether all checks pass.
        why: of a "no".
    """

    cut: Literal["yes", "one more", "no"] = "yes"
    sentences: bool = True
    prune: Literal["yes", "not 1", "images", "no"] = "yes"
    cache: bool | None = None
    doctor: bool = True
    why: str = ""


WORKS: dict[str, Works] = {
    "bert": Works(),
    "roberta": Works(),
    "mpnet": Works(),
    "electra": Works(),
    "deberta-v2": Works(),
    "distilbert": Works(),
    "modernbert": Works(
        prune="not 1", why="block 1 has no norm before its attention, every other has"
    ),
    "albert": Works(cut="no", sentences=False, prune="no", why="its layers share their blocks"),
    "gpt2": Works(cache=True),
    "gptj": Works(cut="one more", cache=True),
    "gpt_neox": Works(cache=True),
    "bloom": Works(cut="one more", cache=True),
    "falcon": Works(cut="one more", cache=True),
    "opt": Works(cache=True),
    "llama": Works(cache=True),
    "mistral": Works(cache=True),
    "qwen3": Works(cache=True),
    "gemma2": Works(cache=True),
    "gemma3": Works(cache=True),
    "olmo2": Works(cache=True),
    "phi": Works(cache=True),
    "mixtral": Works(cache=True),
    "t5": Works(prune="not 1", why="block 1 holds the relative positions of all"),
    "bart": Works(sentences=False, why="it is saved with its decoder"),
    "mamba": Works(cache=True),
    "mamba2": Works(cache=True),
    "dinov2": Works(sentences=False, prune="images", why="it reads images"),
    "vit": Works(sentences=False, prune="images", why="it reads images"),
}


def measured() -> dict[str, dict[str, str]]:
    """The campaign's rows, by what config.json calls the architecture."""
    if not RESULTS.exists():
        return {}
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["architectures"]
    return {row["architecture"]: row for row in rows}


def summary(rows: Sequence[dict[str, str]]) -> str:
    """How many architectures pass all that is proven, how many are refused something, which fail."""
    whole = [row for row in rows if all(row[each].startswith("yes") for each in PROVEN)]
    failing = [row for row in rows if any(row[each].startswith("FAILS") for each in COLUMNS)]
    rest = [row for row in rows if row not in whole and row not in failing]
    names = ", ".join(f"`{row['architecture']}`" for row in failing)
    return (
        f"Of {len(rows)} architectures that read texts, {len(whole)} pass {', '.join(PROVEN)}; "
        f"{len(rest)} are refused one of them before any work, with the reason; "
        + (f"{len(failing)} fail in one: {names}." if failing else "none fails.")
    )


def table() -> str:
    """The sentence, and the table in Markdown."""
    rows = list(measured().values())
    lines = [
        summary(rows) + "\n",
        "| `model_type` | read by | " + " | ".join(COLUMNS) + " | why not |",
        "| --- " * (len(COLUMNS) + 3) + "|",
    ]
    for row in rows:
        cells = [f"`{row['architecture']}`", row["read by"]]
        cells += [_word(row[each]) for each in COLUMNS]
        lines.append("| " + " | ".join([*cells, _why(row)]) + " |")
    for name, works in WORKS.items():
        if works.prune == "images":
            words = ("table", "yes, images", "yes", works.cut, "no", "yes", works.why)
            lines.append("| " + " | ".join((f"`{name}`", *words)) + " |")
    return "\n".join(lines) + "\n"


def _word(cell: str) -> str:
    return cell if cell.startswith("yes") else "fails" if cell.startswith("FAILS") else "no"


def _why(row: dict[str, str]) -> str:
    """The reasons of a row, each once, behind the names of what they are of."""
    reasons: dict[str, list[str]] = {}
    for each in COLUMNS:
        if not row[each].startswith("yes"):
            reasons.setdefault(row[each].partition(": ")[2], []).append(each)
    said = [
        reason if len(names) == len(COLUMNS) else f"{', '.join(names)}: {reason}"
        for reason, names in reasons.items()
    ]
    return "; ".join(each.rstrip(".") for each in said).replace("|", "\\|")


def write() -> None:
    """Write the table anew into the page; the rest of it is written by hand."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: table(), page), encoding="utf-8")


if __name__ == "__main__":
    write()
