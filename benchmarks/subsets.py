"""What models without some of their blocks are tried on, and states that subsets share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch

from benchmarks.materials import SHARED
from layerscope.data.tokens import tokenize
from layerscope.evaluation.run import quiet
from layerscope.evaluation.tasks import resolve
from layerscope.export.trial import PERPLEXITY, Trial, TrialPlan
from layerscope.models.backbone import Backbone
from layerscope.models.blocks import skipping
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


class Prefix:
    """The states that enter each block of the full model, batch by batch."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.entered: dict[bytes, dict[int, torch.Tensor]] = {}
        self.key = b""

    def _start(self, _module: Any, _args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"]
        self.key = str(tuple(ids.shape)).encode() + ids.numpy().tobytes()

    @contextmanager
    def recording(self) -> Iterator[Backbone]:
        """Run the full model, and keep what enters each block."""
        hooks = [self.backbone.model.register_forward_pre_hook(self._start, with_kwargs=True)]
        for number, block in enumerate(self.backbone.blocks, start=1):

            def keep(_module: Any, args: Any, number: int = number) -> None:
                self.entered.setdefault(self.key, {})[number] = args[0].clone()

            hooks.append(block.register_forward_pre_hook(keep))
        try:
            yield self.backbone
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def without(self, removed: tuple[int, ...], start: int = 0) -> Iterator[Backbone]:
        """Run the model from a block on, as it would run without some blocks.

        Args:
            removed: these blocks.
            start: the first block that is run or removed; by default the first that is removed. Blocks
                before it must be as they were when they were recorded.
        """
        first = start or min(removed)
        with skipping(self.backbone, {*range(1, first), *removed}) as shorter:

            def replace(_module: Any, args: Any) -> Any:
                return (self.entered[self.key][first], *args[1:])

            hooks = [
                shorter.model.register_forward_pre_hook(self._start, with_kwargs=True),
                shorter.blocks[0].register_forward_pre_hook(replace),
            ]
            try:
                yield shorter
            finally:
                for hook in hooks:
                    hook.remove()


MEAN = "mean of the tasks"


def changes(full: Trial, trial: Trial) -> dict[str, float]:
    """Every change in percent of the full model, with their mean over the tasks."""
    found = {task: 100 * (trial.scores[task] / score - 1) for task, score in full.scores.items()}
    found[MEAN] = fmean(found.values())
    if full.perplexity:
        found[PERPLEXITY] = 100 * ((trial.perplexity or math.inf) / full.perplexity - 1)
    return found
