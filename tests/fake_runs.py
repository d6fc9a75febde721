"""A made-up run that looks like a real one: table, per-text contributions, record.

The shapes over depth are those that real models show (a dip or peak in the middle, a jump at the
final norm); the numbers are invented. Two things are on purpose: curvature is undefined at layer 0,
and DiME was not measured in the paper's convention.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerscope.results.table import COLUMNS

# measure: level, then by convention (layer 0, middle, layer L, spread between texts)
CURVES = {
    "prompt_entropy": (
        "prompt",
        {
            "paper": (2.1, 0.31, 1.2, 0.3),
            "normalized": (3.2, 2.4, 2.9, 0.25),
            "reference": (3.4, 2.6, 3.1, 0.2),
        },
    ),
    "dataset_entropy": (
        "dataset",
        {"paper": (1.9, 0.42, 0.9, 0.5), "normalized": (4.6, 4.1, 3.8, 0.6)},
    ),
    "effective_rank": (
        "dataset",
        {"paper": (88.0, 21.0, 60.0, 30.0), "normalized": (152.0, 171.0, 139.0, 30.0)},
    ),
    "curvature": (
        "prompt",
        {"paper": (2.09, 1.62, 1.75, 0.1), "normalized": (2.09, 1.65, 1.70, 0.1)},
    ),
    "infonce": (
        "view",
        {
            "paper": (1.45, 0.92, 1.21, 0.7),
            "normalized": (1.41, 0.81, 1.02, 0.7),
            "reference": (6.21, 6.2, 6.2, 0.01),
        },
    ),
    "lidar": (
        "view",
        {"paper": (61.2, 118.0, 92.0, 40.0), "normalized": (64.0, 121.5, 101.0, 40.0)},
    ),
    "dime": ("view", {"normalized": (0.93, 0.42, 0.61, 0.6)}),
    "rankme": ("dataset", {"": (90.0, 25.0, 60.0, 30.0)}),
}


def fake_run(
    blocks: int = 7, texts: int = 200, model: str = "example/decoder-30m", seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return (table, contributions, record) of an invented scan."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    frames: list[pd.DataFrame] = []
    for metric, (level, conventions) in CURVES.items():
        for convention, (start, middle, end, spread) in conventions.items():
            own = rng.normal(size=texts) * spread  # what a text adds at every layer
            for layer, stage in [
                *((k, "block") for k in range(blocks + 1)),
                (blocks, "final_norm"),
            ]:
                if metric == "curvature" and layer == 0:
                    continue
                depth = layer / blocks
                value = _curve(depth, start, middle, end) * (1.08 if stage == "final_norm" else 1)
                value *= 1 + 0.02 * rng.normal()
                numbers = value + own - own.mean() + _centered(rng, texts) * spread / 3
                margin = 1.96 * numbers.std() / texts**0.5
                frames.append(
                    pd.DataFrame(
                        {
                            "text": range(texts),
                            "perturbation": "characters p=0.3" if level == "view" else "none",
                            "layer": layer,
                            "stage": stage,
                            "metric": metric,
                            "convention": convention,
                            "value": numbers,
                        }
                    )
                )
                rows.append(
                    {
                        "model": model, "revision": "main", "data": "letters.txt",
                        "perturbation": "characters p=0.3" if level == "view" else "none",
                        "level": level, "layer": layer, "depth": depth, "stage": stage,
                        "other_layer": None,
                        "metric": metric, "convention": convention, "value": value,
                        "low": value - margin, "high": value + margin, "n": texts, "seed": seed,
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return table, pd.concat(frames, ignore_index=True), fake_record(blocks, texts, model, seed)


def fake_record(blocks: int, texts: int, model: str, seed: int) -> dict[str, Any]:
    """Return what run.json holds, every documented key filled."""
    return {
        "schema_version": 2,
        "model": {
            "name": model, "revision": "main", "model_class": "GPTNeoXModel", "blocks": blocks,
            "dim": 256, "parameters": 30_412_800, "dtype": "float32", "device": "cpu",
            "weights_fingerprint": "sha256:5f1c0a9e7d",
            "tokenizer_fingerprint": "sha256:0b77e21c4a",
        },
        "data": {
            "name": "letters.txt", "texts": texts, "dropped_duplicates": 4, "dropped_empty": 1,
            "dropped_short": 2, "truncated": 3, "tokens": 51_230,
            "fingerprint": "sha256:99ab31f0c2",
        },
        "settings": {
            "pooling": "mean", "special_tokens": False, "first_token": "drop",
            "first_token_ratio": 146.2, "conventions": ["paper", "normalized"], "views": 16,
            "alpha": 1.0, "seed": seed, "max_length": 512,
        },
        "versions": {
            "layerscope": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0",
            "python": "3.11.2",
        },
        "times": {"load": 1.2, "extract": 21.7, "measure": 9.9, "total": 33.4},
        "undefined": [
            {"metric": "curvature", "convention": convention, "layer": 0, "stage": "block",
             "reason": "every step between tokens is zero", "texts": texts}
            for convention in ("paper", "normalized")
        ],
        "subspace_dimensions": {},
        "notes": [
            "the first token's norm is 146 x the median: it is left out of the mean",
            "12 texts are shorter than 4 words and were barely changed by the augmentation",
        ],
    }  # fmt: skip


def _curve(depth: float, start: float, middle: float, end: float) -> float:
    """Return a parabola through the three values at depth 0, 0.5 and 1."""
    return (
        start * (1 - depth) * (1 - 2 * depth)
        + 4 * middle * depth * (1 - depth)
        + end * depth * (2 * depth - 1)
    )


def _centered(rng: np.random.Generator, texts: int) -> np.ndarray:
    noise = rng.normal(size=texts)
    return noise - noise.mean()
