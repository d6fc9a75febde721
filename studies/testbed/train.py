"""Train the miniature suite: three GPT-NeoX, a Mamba, a ModernBERT, and a twin tuned on questions.

Run: `python -m studies.testbed.train [MODEL ...] [--texts FOLDER] [--out FOLDER] [--all-steps]`.

Every model reads the same rows of the same text in the same order. A model is a folder of
checkpoints `stepN`, each with its tokenizer and weights in half precision; `loss.csv` has the curves.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer
from torch import Tensor

from studies.testbed import models, text, tokens
from studies.testbed.loop import Batch, Schedule, drawn, train, write_losses

HERE = Path(__file__).resolve().parent
SEED = 0
BATCH = 16  # rows; larger tensors than those of 16 rows are given back to the system at each step
STEPS = 2048
LONG = Schedule(STEPS)
VALIDATION = 64  # rows, spread evenly over the held-out documents
SHOWN = 16  # held-out paragraphs that are committed for the tests

Build = Callable[[], Any]
Objective = Callable[[Iterable[Tensor]], Iterator[Batch]]


@dataclass(frozen=True)
class Model:
    """One model of the suite: what is built, what it reads, and which checkpoints are committed."""

    build: Build
    kept: tuple[int, ...]
    masked: bool = False
    tuned: str = ""  # the model whose last checkpoint it continues, on questions
    schedule: Schedule = LONG
    stop: int = STEPS  # the step at which training ends, if that is before the schedule does

    @property
    def last(self) -> int:
        """The last step."""
        return min(self.stop, self.schedule.steps)

    def batches(self, rows: Iterable[Tensor], seed: int) -> Iterator[Batch]:
        """Return the rows as batches of its objective."""
        return tokens.masked(rows, seed) if self.masked else tokens.causal(rows)


SUITE = {
    "gpt-neox-64": Model(lambda: models.gpt_neox(64), (STEPS,)),
    "gpt-neox-32": Model(lambda: models.gpt_neox(32), (0, 1, 4, 16, 64, 256, 1024, STEPS)),
    "mamba-64": Model(lambda: models.mamba(64), (1024,), stop=1024),
    "modernbert-64": Model(lambda: models.modern_bert(64), (STEPS,), masked=True),
    "gpt-neox-64-questions": Model(
        lambda: models.gpt_neox(64),
        (512,),
        tuned="gpt-neox-64",
        schedule=Schedule(512, rate=1e-3, warm_up=32),
    ),
    "gpt-neox-96": Model(lambda: models.gpt_neox(96), (STEPS,)),
}


def write_half(model: Any, folder: Path) -> None:
    """Write a model: half precision on the disk, float32 when it is loaded."""
    copy.deepcopy(model).half().save_pretrained(folder)
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) | {"dtype": "float32"}
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Place:
    """Where a suite lies, and whether checkpoints that are not committed are written too."""

    folder: Path
    all_steps: bool

    def checkpoint(self, name: str, step: int) -> Path:
        """Return the folder of one checkpoint."""
        return self.folder / "models" / name / f"step{step}"

    def save(self, name: str, step: int, model: Any, tokenizer: Tokenizer) -> None:
        """Write a checkpoint with its tokenizer."""
        if not self.all_steps and step not in SUITE[name].kept:
            return
        folder = self.checkpoint(name, step)
        write_half(model, folder)
        tokens.write_tokenizer(tokenizer, folder, SUITE[name].masked)


def start(model: Model, place: Place) -> Any:
    """Return a new model, or for a tuned one its base as it was committed."""
    torch.manual_seed(SEED)
    if not model.tuned:
        return model.build()
    folder = place.checkpoint(model.tuned, SUITE[model.tuned].last)
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: train {model.tuned} first.")
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def run(name: str, place: Place, tokenizer: Tokenizer, corpus: text.Corpus) -> None:
    """Train one model, write its checkpoints and its losses."""
    chosen = SUITE[name]
    rows, others = (tokens.blocks(tokenizer, part) for part in (corpus.train, corpus.held_out))
    others = others[torch.linspace(0, len(others) - 1, VALIDATION).long()]
    print(
        f"{name}: {rows.numel():,} training tokens; tokens' frequencies alone have a validation loss "
        f"of {tokens.unigram_entropy(rows, others):.4f}",
        flush=True,
    )
    model = start(chosen, place)
    order = drawn(rows, BATCH, chosen.last, SEED)
    with models.fast_scan():
        records = train(
            model,
            chosen.batches(order, SEED),
            chosen.schedule,
            list(chosen.batches(others.split(BATCH), SEED + 1)),
            lambda step: place.save(name, step, model, tokenizer),
            BATCH * models.CONTEXT,
        )
    write_losses(place.folder / "loss.csv", name, records)


def shown(corpus: text.Corpus) -> str:
    """Return a few paragraphs that no model was trained on, one a line."""
    paragraphs = [part for document in corpus.held_out for part in document.split("\n\n")]
    long = [part for part in paragraphs if 60 <= len(part.split()) <= 100]
    return "".join(f"{part}\n" for part in long[:: len(long) // SHOWN][:SHOWN])


def main() -> None:
    """Train the models that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(SUITE)}")
    parser.add_argument("--texts", type=Path, default=Path("/"), help="where the packages' usr/ is")
    parser.add_argument("--out", type=Path, default=HERE, help="where checkpoints and losses go")
    parser.add_argument("--all-steps", action="store_true", help="keep every power of two")
    given = parser.parse_args()
    unknown = set(given.models) - set(SUITE)
    if unknown:
        parser.error(
            f"no model is named {', '.join(sorted(unknown))}; there are {', '.join(SUITE)}"
        )
    torch.set_num_threads(1)
    corpus = text.documentation(given.texts, SEED)
    tokenizer = tokens.trained(corpus.train)
    print(f"text {corpus.digest()}", flush=True)
    place = Place(given.out, given.all_steps)
    place.folder.mkdir(parents=True, exist_ok=True)
    (place.folder / "held_out.txt").write_text(shown(corpus), encoding="utf-8")
    for name in given.models or SUITE:
        tuned = SUITE[name].tuned
        run(name, place, tokenizer, text.questions(given.texts, SEED) if tuned else corpus)


if __name__ == "__main__":
    main()
