"""The pooled vectors of every site of a model: encoded once into a bank, read from it ever after."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open

from benchmarks import corpora, materials
from layerscope.config import Pooling
from layerscope.models import loading
from layerscope.states.bank import VectorBank, description, hash_of
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.states.extract import Site
from layerscope.states.store import Array

_ROOT = Path(__file__).resolve().parents[2]
RUNS = Path(os.environ.get("LAYERSCOPE_READOUTS", _ROOT / "runs" / "readouts"))
RESULTS = _ROOT / "benchmarks" / "results"
BANK = "bank"
LENGTHS = "bank-of-lengths"  # of crops that are not of 20 words, which one step alone needs


def folder_of(model: str) -> Path:
    """Return where a model's bank and scores lie."""
    return RUNS / model.replace(" ", "-")


def encode(model: str, texts: Sequence[str], bank: str = BANK) -> None:
    """Run a model over the texts that its bank lacks; if it lacks none, the model is not loaded.

    Args:
        model: one of `materials.READOUT_MODELS`.
        texts: distinct texts.
        bank: the folder's name.
    """
    names = [hash_of(text) for text in texts]
    folder = folder_of(model) / bank
    known = description(folder)
    if known and not VectorBank(folder, known["identity"]).missing(names, Pooling.MEAN):
        return
    path = materials.READOUT_MODELS[model]()
    if path is None:
        say(f"{model} is missing: make benchmark-models")
        return
    backbone = loading.load(path)
    opened = open_bank(folder, backbone, TokenPolicy())
    source = BankEncoder(
        backbone, opened, Pooling.MEAN, poolings=(Pooling.MEAN,), progress=_progress(model)
    )
    started = time.process_time()
    source.fill(texts, names)
    say(
        f"{model}: {len(opened.bank)} texts, {len(source.sites)} sites, {opened.bank.size / 1e6:.0f} MB; "
        f"first token: {opened.policy.first_token.value} ({opened.first_token_ratio}); now "
        f"{source.encoded.tokens} tokens, {time.process_time() - started:.0f} s of the CPU"
    )


def say(line: str) -> None:
    """Print a line on the progress."""
    print(line, file=sys.stderr, flush=True)


def _progress(model: str) -> Callable[[str, int, int], None]:
    told = [time.monotonic()]

    def show(_stage: str, done: int, total: int) -> None:
        if time.monotonic() - told[0] > 60:
            told[0] = time.monotonic()
            say(f"{model}: {done} of {total} tokens")

    return show


class Vectors:
    """The pooled vectors of every site of a model, read from its bank; no model is loaded.

    Args:
        model: one of `materials.READOUT_MODELS`, encoded before.
        bank: the folder's name.

    Attributes:
        sites: the output of every block and, where the model has one, of the final norm.
        blocks: number of blocks.
        positions: the sites as `hidden_states` counts them: blocks 0 to L - 1, then what the model
            gives, after its final norm.
    """

    def __init__(self, model: str, bank: str = BANK) -> None:
        self.model = model
        folder = folder_of(model) / bank
        self._bank = VectorBank(folder, (description(folder) or {})["identity"])
        self.sites = _sites_in(folder)
        self.blocks = max(site.layer for site in self.sites)
        own = next((s for s in self.sites if s.stage == "final_norm"), Site(self.blocks))
        self.positions = (*(Site(layer) for layer in range(self.blocks)), own)
        self._matrices: dict[Site, Array] = {}
        self._texts = corpora.every_text() if bank == BANK else corpora.crops_of_lengths()
        self._rows = {text: row for row, text in enumerate(self._texts)}

    def at(self, site: Site, texts: Sequence[str]) -> Array:
        """Return a site's vectors (text, dim) of some texts."""
        if site not in self._matrices:
            names = [hash_of(text) for text in self._texts]
            self._matrices[site] = self._bank.vectors(site, Pooling.MEAN, names)
        found: Array = self._matrices[site][[self._rows[text] for text in texts]]
        return found

    def layers(self, texts: Sequence[str]) -> Array:
        """Return the vectors (position, text, dim) of some texts at all positions."""
        return np.stack([self.at(site, texts) for site in self.positions])

    def crops(self, words: int = 0) -> tuple[Array, Array]:
        """Return both crops' vectors (position, paragraph, dim) of WikiText-2, by default of 20 words."""
        return self._both(corpora.wikitext_crops(words))

    def own_crops(self, task: str) -> tuple[Array, Array]:
        """Return both crops' vectors (position, text, dim) of a task's own unlabelled texts."""
        return self._both(corpora.own_crops(task))

    def _both(self, pairs: Sequence[tuple[str, str]]) -> tuple[Array, Array]:
        first, second = (self.layers([pair[half] for pair in pairs]) for half in (0, 1))
        return first, second


def _sites_in(folder: Path) -> tuple[Site, ...]:
    shard = next(iter(sorted(folder.glob("shard-*.safetensors"))))
    with safe_open(shard, framework="numpy") as content:
        keys = [key.partition("/")[2] for key in content.keys() if "/" in key]  # noqa: SIM118
    parts = [key.partition(".") for key in keys]
    return tuple(sorted(Site(int(layer), stage) for stage, _, layer in parts))
