"""Result tables of every command on four models, recorded before a change and compared after it.

`python -m benchmarks.golden record FOLDER` writes them; `python -m benchmarks.golden compare BEFORE
AFTER` prints what differs by more than 1e-9 and exits with 1 if anything does. One thread, fixed
seeds, the built-in sample: on one machine two recordings of the same code are equal.
`benchmarks/results/golden` was recorded before the rooms were made, on an x86-64 machine without a GPU.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import layerscope
from benchmarks.materials import SHARED, minilm
from layerscope.decisions.rules import DEFAULT_RULE

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from tiny import save_tiny, texts, tiny_model

TOLERANCE = 1e-9


def models(scratch: Path) -> dict[str, Path]:
    """Return the folders of the models that can be had here."""
    found = {name: save_tiny(tiny_model(name), scratch / name) for name in ("llama", "mamba")}
    real = {"minilm": minilm(), "stories260k": SHARED / "models" / "stories260k"}
    return found | {name: path for name, path in real.items() if path and path.is_dir()}


def sample(name: str) -> list[str]:
    """Return texts for a model: words that a tiny one knows, or paragraphs of the built-in sample."""
    if name in ("llama", "mamba"):
        return texts(60, longest=40)
    from layerscope.data.texts import read_texts

    return list(read_texts("sample", limit=60).texts)


def labelled(name: str, scratch: Path) -> list[str]:
    """Write a table with labels and one of scored pairs, and return their paths."""
    found, generator = sample(name), random.Random(0)
    words = [set(text.split()) for text in found]
    topics = pd.DataFrame({"text": found, "label": [f"{len(text.split()) % 2}" for text in found]})
    others = [generator.randrange(len(found)) for _ in found]
    scores = [
        len(words[i] & words[j]) / len(words[i] | words[j]) + 0.01 * generator.random()
        for i, j in enumerate(others)
    ]
    pairs = pd.DataFrame(
        {"sentence1": found, "sentence2": [found[j] for j in others], "score": scores}
    )
    topics.to_csv(scratch / "topics.csv", index=False)
    pairs.to_csv(scratch / "likeness.csv", index=False)
    return [str(scratch / "topics.csv"), str(scratch / "likeness.csv")]


def record(folder: Path) -> None:
    """Write every table to a folder, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        runs = []
        for name, path in models(scratch).items():
            runs.append(record_model(name, path, scratch, folder))
        paragraphs = sample("stories260k")
        real = [path for name, path in models(scratch).items() if name in ("minilm", "stories260k")]
        for label, given, read in (
            ("real", real, paragraphs),
            ("tiny", [scratch / "llama", scratch / "mamba"], sample("llama")),
        ):
            if len(given) == 2:
                found = layerscope.rank(
                    [str(path) for path in given], read, also="all", as_tokens=True
                )
                write(folder / f"rank-{label}.parquet", found.table())
        found = layerscope.correlate(runs, resamples=200)
        write(folder / "correlate.parquet", found.table())
        write(folder / "correlate-units.parquet", found.units())


def record_model(name: str, path: Path, scratch: Path, folder: Path) -> Any:
    """Record what every command gives of one model, and return its run."""
    out = scratch / f"run-{name}"
    read = sample(name)
    scan = layerscope.scan(
        str(path), read, out=out, views=3, span_words=4 if len(read[0].split()) < 40 else 20,
        conventions=("paper", "normalized", "reference"),
        augmentation=("default", "crops", "halves"), as_tokens=True,
        view_texts=None, view_words=None,
    )  # fmt: skip
    write(folder / f"scan-{name}.parquet", scan.table())
    contributions = scan.contributions()
    summed = contributions.groupby(
        ["perturbation", "layer", "stage", "metric", "convention"], observed=True, dropna=False
    )["value"].agg(["mean", "std", "count"])
    write(folder / f"contributions-{name}.parquet", summed.reset_index())
    layerscope.evaluate(
        str(path), tables=labelled(name, scratch), out=out, probes=("linear", "attention"),
        as_tokens=True,
    )  # fmt: skip
    run = layerscope.load(out)
    write(folder / f"evaluate-{name}.parquet", run.table())
    chosen = run.select()
    write(folder / f"select-{name}.parquet", chosen.table())
    facts: dict[str, Any] = {"sentence": chosen.sentence, "layer": chosen.layer}
    try:
        place, rule = scratch / f"cut-{name}", DEFAULT_RULE  # by name: a layer, not a readout
        facts["cut"] = layerscope.cut(str(path), out=place, run=out, rule=rule).layer
    except layerscope.InputError:  # the rule takes layer 0, which is no model
        facts["cut"] = None
    for rule in ("angular", "gfmi-gain", "nrs", "frenet", "cka", "block-influence", "random"):
        count = 2 if name != "llama" else 1
        pruned = layerscope.prune(str(path), rule, count, data=read, as_tokens=True)
        facts[f"prune {rule}"] = {
            "removed": list(pruned.removed),
            "scores": {str(b): v for b, v in sorted(pruned.outcomes[0].removal.scores.items())},
        }
    (folder / f"choices-{name}.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return out


def write(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame whose odd columns are text; models are named by their folder alone."""
    frame = frame.copy()
    for column in frame.columns:
        if frame[column].dtype == object or str(frame[column].dtype) == "category":
            frame[column] = frame[column].map(str)
    frame.to_parquet(path, index=False)


def compare(before: Path, after: Path) -> int:
    """Print what differs, and return the number of files that do."""
    bad = 0
    for path in sorted(before.iterdir()):
        other = after / path.name
        found = "is missing" if not other.exists() else differences(path, other)
        bad += bool(found)
        print(f"{path.name}: {found or 'equal'}")
    return bad


def differences(before: Path, after: Path) -> str:
    """Return how two recordings of one table differ, "" if they do not."""
    if before.suffix == ".json":
        left, right = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
        worst = [key for key in left if not close(left[key], right.get(key))]
        return "; ".join(f"{key}: {left[key]} -> {right.get(key)}" for key in worst)
    left, right = pd.read_parquet(before), pd.read_parquet(after)
    if list(left.columns) != list(right.columns) or len(left) != len(right):
        return f"{left.shape} {list(left.columns)} -> {right.shape} {list(right.columns)}"
    keys = [
        name
        for name in left.columns
        if not pd.api.types.is_float_dtype(left[name].dtype) or name == "depth"
    ]
    left, right = (frame.sort_values(keys, ignore_index=True) for frame in (left, right))
    said = []
    for name in left.columns:
        a, b = left[name], right[name]
        if pd.api.types.is_float_dtype(a.dtype):
            a, b = (each.to_numpy(dtype=float, na_value=np.nan) for each in (a, b))
            off = ~np.isclose(a, b, rtol=0, atol=TOLERANCE, equal_nan=True)
        else:
            off = np.array([str(x) != str(y) for x, y in zip(a, b, strict=True)])
        if off.any():
            first = left.index[off][0]
            said.append(f"{name} in {off.sum()} rows, first {dict(left.loc[first])} -> {b[first]}")
    return "; ".join(said)


def close(left: Any, right: Any) -> bool:
    """Whether two plain values are equal, numbers to the tolerance."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(close(left[k], right[k]) for k in left)
    if isinstance(left, float) and isinstance(right, float):
        return bool(np.isclose(left, right, rtol=0, atol=TOLERANCE, equal_nan=True))
    return bool(left == right)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "record": lambda given: record(Path(given[0])) or 0,
    "compare": lambda given: compare(Path(given[0]), Path(given[1])),
}

if __name__ == "__main__":
    sys.exit(bool(COMMANDS[sys.argv[1]](sys.argv[2:])))
