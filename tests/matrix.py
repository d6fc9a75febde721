"""What works on which architecture: one table, which the tests prove and the documentation shows.

`python tests/matrix.py` prints it as docs/architectures.md has it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Works:
    """What the tests prove of one architecture, on a tiny random model of it.

    Attributes:
        title: its name for people.
        cut: "yes", "one more" (transformers hands out the raw layer only before another block), "no".
        sentences: whether it is cut for sentence-transformers.
        prune: "yes", "not 1" (the first block holds what the others need), "in memory" (blocks can be
            skipped, but the command measures texts only), "no".
        cache: whether it writes the same text with and without its cache when blocks are skipped; None
            for encoders.
        doctor: whether all checks pass.
        why: of a "no".
    """

    title: str
    cut: Literal["yes", "one more", "no"] = "yes"
    sentences: bool = True
    prune: Literal["yes", "not 1", "in memory", "no"] = "yes"
    cache: bool | None = None
    doctor: bool = True
    why: str = ""


WORKS: dict[str, Works] = {
    "bert": Works("BERT"),
    "roberta": Works("RoBERTa"),
    "mpnet": Works("MPNet"),
    "electra": Works("ELECTRA"),
    "deberta-v2": Works("DeBERTa v2"),
    "distilbert": Works("DistilBERT"),
    "modernbert": Works(
        "ModernBERT", prune="not 1", why="block 1 has no norm before its attention, every other has"
    ),
    "albert": Works(
        "ALBERT", cut="no", sentences=False, prune="no", why="its layers share their blocks"
    ),
    "gpt2": Works("GPT-2", cache=True),
    "gptj": Works("GPT-J", cut="one more", cache=True),
    "gpt_neox": Works("GPT-NeoX", cache=True),
    "bloom": Works("BLOOM", cut="one more", cache=True),
    "falcon": Works("Falcon", cut="one more", cache=True),
    "opt": Works("OPT", cache=True),
    "llama": Works("Llama", cache=True),
    "mistral": Works("Mistral (sliding window)", cache=True),
    "qwen3": Works("Qwen3", cache=True),
    "gemma2": Works("Gemma 2", cache=True),
    "gemma3": Works("Gemma 3", cache=True),
    "olmo2": Works("OLMo 2", cache=True),
    "phi": Works("Phi", cache=True),
    "mixtral": Works("Mixtral (experts)", cache=True),
    "t5": Works("T5 encoder", prune="not 1", why="block 1 holds the relative positions of all"),
    "bart": Works("BART encoder", sentences=False, why="it is saved with its decoder"),
    "mamba": Works("Mamba", cache=True),
    "mamba2": Works("Mamba-2", cache=True),
    "dinov2": Works("DINOv2", sentences=False, prune="in memory", why="it reads images"),
    "vit": Works("ViT", sentences=False, prune="in memory", why="it reads images"),
}


def table() -> str:
    """The table in Markdown."""
    words = {
        "yes": "yes",
        "no": "no",
        "one more": "yes, one block more",
        "not 1": "not block 1",
        "in memory": "in memory only",
    }
    lines = [
        "| architecture | cut | for sentence-transformers | prune | same text with and without cache "
        "| doctor | why not |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for works in WORKS.values():
        cells = [
            works.title,
            words[works.cut],
            "yes" if works.sentences else "no",
            words[works.prune],
            {None: "", True: "yes", False: "no"}[works.cache],
            "passes" if works.doctor else "no",
            works.why,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
