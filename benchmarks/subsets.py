"""What models without some of their blocks are tried on, and states that subsets share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch

from benchmarks.materials import SHARED
from layerscope.data.tokens import tokenize
from layerscope.evaluation.run import quiet
from layerscope.evaluation.tasks import resolve
from layerscope.export.trial import PERPLEXITY, Trial, TrialPlan
from layerscope.models.backbone import Backbone
from layerscope.settings import EvaluateConfig
from layerscope.states.encode import sample_ratio
from layerscope.states.pooling import decided

DATA = SHARED / "data"
RUNS = Path(os.environ.get("LAYERSCOPE_RUNS", "runs"))
TRIALS = RUNS / "prune"
BLOCKS = {"MiniLM": 6, "MPNet base": 12, "Gemma 3 270M": 18, "SmolLM2 135M": 30}
ENCODERS = ("MiniLM", "MPNet base")
# bfloat16 doubles the speed here; the decoders' weights are 4-bit numbers anyway.
DTYPES = {
    "MiniLM": "float32",
    "MPNet base": "bfloat16",
    "Gemma 3 270M": "bfloat16",
    "SmolLM2 135M": "bfloat16",
}
# Rows of each task, drawn with seed 0; for classification, of each class of train and test.
PARTS = {
    "STS17": ("STS17-en-en", 150),
    "STSBenchmark": ("STSBenchmark", 100),
    "MTOPDomainClassification": ("MTOPDomainClassification", 12),
    "Banking77Pairs": ("Banking77Pairs", 100),
}
WHOLE = {"MiniLM": ("STS17", "STSBenchmark", "Banking77Pairs")}
PERPLEXITY_STARTS = (0, 500, 1000)  # paragraphs of WikiText-2, 512 tokens from each on


def part_of(task: str) -> str:
    """The name of the folder with a part of a task's data, written if need be."""
    source, rows = PARTS[task]
    name = f"{task}-{rows}"
    for file in sorted((DATA / source).glob("*.parquet")):
        target = TRIALS / "data" / name / file.name
        frame = pd.read_parquet(file)
        if target.exists() or file.stem not in ("train", "test"):
            continue
        labelled = "label" in frame and "text" in frame
        drawn = (
            frame.groupby("label").sample(rows, random_state=0, replace=False)
            if labelled and frame.groupby("label").size().min() >= rows
            else _up_to(frame, rows)
            if labelled
            else frame.sample(rows, random_state=0)
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn.sample(frac=1, random_state=0).to_parquet(target, index=False)
    return name


def _up_to(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    return frame.sample(frac=1, random_state=0).groupby("label").head(rows)


def tests_for(name: str, backbone: Backbone) -> TrialPlan:
    """The tasks of a model, and for a decoder paragraphs that no rule has seen."""
    whole = WHOLE.get(name, ())
    with quiet():
        folders = ["STS17-en-en" if task == "STS17" else task for task in whole]
        plans = (*resolve(folders, task_data=DATA),) if folders else ()
        parts = [part_of(task) for task in PARTS if task not in whole]
        plans += resolve(parts, task_data=TRIALS / "data")
    first = decided(EvaluateConfig().first_token, sample_ratio(backbone, 512))
    texts: Sequence[str] = ()
    if name not in ENCODERS:  # an encoder predicts no next token
        paragraphs = pd.read_parquet(DATA / "WikiText-2" / "valid.parquet")["text"]
        texts = ["\n\n".join(paragraphs[start : start + 9]) for start in PERPLEXITY_STARTS]
    settings = EvaluateConfig(first_token=first)
    return TrialPlan(plans, settings, tuple(tokenize(backbone.tokenizer, texts, 512)))


# --- states shared with the full model ---------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """What a block gave: of which states, by which weights."""

    states: torch.Tensor
    weights: tuple[torch.Tensor, ...]
    given: Any

    def repeats(self, states: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> bool:
        """Whether it would give the same now."""
        both = zip(self.weights, weights, strict=True)
        return states is self.states and all(
            one.data_ptr() == other.data_ptr() for one, other in both
        )


class Memo:
    """What blocks gave for each batch, so that none runs twice in the same place.

    While it is entered, a block that is given the same states as before and has the same weights gives
    what it gave before. So models without some blocks and healed ones share all states before the first
    change with the full model, and a model that is healed run by run goes on where it was. The first
    that runs on a batch is remembered for good, later ones until another runs: run the full model first.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.batch: bytes | None = None  # None outside of a pass
        self.start: dict[bytes, torch.Tensor] = {}
        self.full: dict[tuple[bytes, int], _Run] = {}
        self.latest: dict[tuple[bytes, int], _Run] = {}
        self.numbers = {id(block): number for number, block in enumerate(backbone.blocks)}

    @contextmanager
    def entered(self) -> Iterator[Backbone]:
        """Give the model, whose blocks are remembered until the end."""
        model, kinds = self.backbone.model, {type(block) for block in self.backbone.blocks}
        with ExitStack() as stack:
            for handle in (
                model.register_forward_pre_hook(self._start, with_kwargs=True),
                model.register_forward_hook(self._end, always_call=True),
            ):
                stack.callback(handle.remove)
            for kind in kinds:  # of the class, as copies of a block take what is its own with them
                stack.enter_context(patch.object(kind, "forward", self._remembering(kind.forward)))
            yield self.backbone
        self.latest.clear()

    def _start(self, _module: Any, _args: Any, kwargs: Any) -> None:
        ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
        marks = b"" if mask is None or bool(mask.all()) else mask.numpy().tobytes()
        self.batch = str(tuple(ids.shape)).encode() + ids.numpy().tobytes() + marks

    def _end(self, *_: Any) -> None:
        self.batch = None

    def _remembering(self, run: Any) -> Any:
        def forward(block: Any, states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            number = self.numbers.get(id(block))
            if self.batch is None or number is None:
                return run(block, states, *args, **kwargs)
            if number == 0:  # the embedding's output is new each time, and the same
                states = self.start.setdefault(self.batch, states)
            here = self.batch, number
            weights = tuple(weight.data for weight in block.parameters())
            known = [each[here] for each in (self.full, self.latest) if here in each]
            same = next((each for each in known if each.repeats(states, weights)), None)
            if same is None or _watched(block):
                given = run(block, states, *args, **kwargs)
                if same is None:
                    same = _Run(states, weights, given)
                    (self.latest if here in self.full else self.full)[here] = same
            return same.given

        return forward


def _watched(block: Any) -> bool:
    """Whether something wants to see what modules in a block compute."""
    inside = (module for module in block.modules() if module is not block)
    return any(module._forward_hooks or module._forward_pre_hooks for module in inside)


MEAN = "mean of the tasks"


def changes(full: Trial, trial: Trial) -> dict[str, float]:
    """Every change in percent of the full model, with their mean over the tasks."""
    found = {task: 100 * (trial.scores[task] / score - 1) for task, score in full.scores.items()}
    found[MEAN] = fmean(found.values())
    if full.perplexity:
        found[PERPLEXITY] = 100 * ((trial.perplexity or math.inf) / full.perplexity - 1)
    return found
