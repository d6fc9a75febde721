"""One training loop for every model of the suite: AdamW, warm-up and cosine, records at chosen steps.

A model is anything whose forward pass takes a batch by name and returns an object with `loss`, as
those of transformers do for tokens and for images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
DECAY = 0.01  # of matrices; vectors have none
CLIP = 1.0  # largest norm of the gradient
BETAS = (0.9, 0.95)
EVERY = 64  # steps from one record of the loss to the next, between the powers of two


@dataclass(frozen=True)
class Schedule:
    """How many steps, and the learning rate: linear warm-up, then a cosine to a tenth."""

    steps: int
    rate: float = 2e-3
    warm_up: int = 64

    def factor(self, step: int) -> float:
        """Return the part of the learning rate that holds at a step, counted from 0."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Record:
    """The losses at a step, in nats; the training loss is the mean since the last record."""

    step: int
    tokens: int
    train_loss: float
    validation_loss: float
    cpu_seconds: float


def log_steps(last: int) -> list[int]:
    """Return 0, the powers of two below the last step, and the last step."""
    powers = [2**power for power in range(last.bit_length()) if 2**power < last]
    return [0, *powers, last]


def drawn(rows: Tensor, size: int, steps: int, seed: int) -> Iterable[Tensor]:
    """Yield batches of rows: each pass over them is in a new order, the same for every model."""
    generator = np.random.default_rng(seed)
    waiting = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        while len(waiting) < size:
            waiting = np.concatenate([waiting, generator.permutation(len(rows))])
        yield rows[torch.from_numpy(waiting[:size])]
        waiting = waiting[size:]


def loss_on(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the mean loss over batches of equal size, in float32."""
    model.eval()
    with torch.inference_mode():
        losses = [float(model(**batch).loss) for batch in batches]
    model.train()
    return sum(losses) / len(losses)


def optimizer_of(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Return AdamW, which shrinks matrices but no vectors."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": DECAY},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS)


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    schedule: Schedule,
    held_out: Sequence[Batch],
    save: Callable[[int], None],
    tokens_per_step: int,
) -> list[Record]:
    """Train a model in place, in float32: bfloat16 is slower at these widths.

    Args:
        model: in float32.
        batches: one for each step.
        schedule: steps and learning rate.
        held_out: batches for the validation loss.
        save: called with the step at each of `log_steps`, before the first update too.
        tokens_per_step: what a batch holds, tokens or images, for the records.

    Returns:
        The losses at `log_steps` and every 64 steps.
    """
    optimizer = optimizer_of(model, schedule.rate)
    factors = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    saved = set(log_steps(schedule.steps))
    recorded = saved | set(range(0, schedule.steps, EVERY))
    records: list[Record] = []
    losses: list[float] = []
    spent = 0.0

    def record(step: int) -> None:
        mean = sum(losses) / len(losses) if losses else math.nan
        losses.clear()
        validation = loss_on(model, held_out)
        records.append(Record(step, step * tokens_per_step, mean, validation, spent))
        print(f"{step:6d} {mean:8.4f} {validation:8.4f} {spent:8.1f} s", flush=True)
        if step in saved:
            save(step)

    model.train()
    record(0)
    for step, batch in enumerate(batches, start=1):
        start = time.process_time()
        losses.append(update(model, batch, optimizer))
        factors.step()
        spent += time.process_time() - start
        if step in recorded:
            record(step)
    return records


def update(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
    """Take one step and return the loss before it."""
    loss = model(**batch).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def write_losses(path: Path, model: str, records: Sequence[Record]) -> None:
    """Write a model's records to the table of all models, in place of its earlier ones."""
    table = pd.DataFrame(records).round({"train_loss": 4, "validation_loss": 4, "cpu_seconds": 1})
    table.insert(0, "model", model)
    if path.is_file():
        before = pd.read_csv(path)
        table = pd.concat([before[before["model"] != model], table])
    table.sort_values(["model", "step"]).to_csv(path, index=False)
