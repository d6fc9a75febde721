"""The studies of `studies/small` on real models, as docs/studies.md shows them.

`python -m benchmarks studies`, or `main((NAME, ...))` for some. Each is the same file with other models;
trainings, sizes and tuned twins stay those of the miniature suite, as no real ones can be had offline.
Figures go to docs/images, tables stay with the run.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

import layerscope
from benchmarks.materials import READOUT_MODELS as MODELS
from benchmarks.pictures import dinov2
from benchmarks.tables import markdown

ROOT: Final = Path(__file__).resolve().parents[1]
SMALL: Final = ROOT / "studies" / "small"
TEXTS: Final = 60
IMAGES: Final = ROOT / "docs" / "images"


def _real(*names: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return what puts real models in the place of a file's own."""

    def changed(given: Mapping[str, Any]) -> dict[str, Any]:
        found = [(name, MODELS[name]()) for name in names]
        models = [{"model": str(path), "label": name} for name, path in found if path is not None]
        return _fewer(given) | {"models": models}

    return changed


def _fewer(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file with at most `TEXTS` texts of every scan: these models are large for two cores."""
    found = dict(given)
    own = found.get("settings") or {}
    if "limit" in own:
        found["settings"] = own | {"limit": min(TEXTS, own["limit"])}
    if "parts" in found:
        found["parts"] = [_fewer(part) for part in found["parts"]]
    return found


def _pruned(given: Mapping[str, Any]) -> dict[str, Any]:
    found = _real("SmolLM2 135M")(given)
    models = [
        {**each, "rule": rule} for each in found["models"] for rule in ("angular", "nrs", "gfmi")
    ]
    settings = given["settings"] | {"budget": ["5%", "10%", "20%"], "limit": 64, "draws": 5}
    return found | {"models": models, "settings": settings | {"protect": [1, 1]}}


def _with_dinov2(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file with DINOv2-small beside its models, on fewer images, if packages gave it."""
    found = dict(given)
    if (folder := dinov2()) is not None:
        models = [{"model": str(folder), "label": "DINOv2-small"}]
        parts = [part | {"models": models} for part in given["parts"]]
        parts[0] = parts[0] | {"settings": parts[0]["settings"] | {"limit": 100}}
        found["parts"] = [*given["parts"], *parts]
    return found


ALL: Final = ("MiniLM", "MPNet base", "SmolLM2 135M", "Gemma 3 270M")
OWN: Final[dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]] = {
    "architectures": _real(*ALL),
    "training": dict,
    "scale": dict,
    "finetuning": dict,
    "sub-blocks": _real("SmolLM2 135M"),
    "reasoning": dict,
    "extreme-prompts": _real("SmolLM2 135M"),
    "bimodality": _real("SmolLM2 135M"),
    "entropy-and-accuracy": _real("SmolLM2 135M"),
    "metrics-and-tasks": _real(*ALL),
    "model-selection": _real(*ALL),
    "pruning": _pruned,
    "entropy-orders": dict,
    "theory": dict,
    "vision": _with_dinov2,
}


def one(name: str) -> dict[str, str]:
    """Run a study and keep its figure; return its row of the table."""
    file = SMALL / f"{name}.yaml"
    file = file if file.is_file() else ROOT / "studies" / f"{name}.yaml"
    given = OWN[name](yaml.safe_load(file.read_text()))
    there = Path.cwd()
    os.chdir(file.parent)  # from where its paths start
    started, used = time.perf_counter(), time.process_time()
    try:
        out = ROOT / "runs" / "studies" / name
        found = layerscope.study(given, out=out, workers=0, show_progress=False)
    finally:
        os.chdir(there)
    taken, cpu = time.perf_counter() - started, time.process_time() - used
    figure = found.folder / "figure.svg"
    if figure.is_file():
        shutil.copy(figure, IMAGES / f"study-{name}.svg")
    failed = "; ".join(each.reason for each in found.failures)
    return {
        "study": name, "cells": f"{len(found.runs)} of {found.cells}", "wall s": f"{taken:.0f}",
        "CPU s": f"{cpu:.0f}", "note": failed or found.note,
    }  # fmt: skip


def main(names: tuple[str, ...] = tuple(OWN)) -> str:
    """Return how long each took; a study that is finished already takes no time."""
    rows = []
    for name in names:
        rows.append(one(name))
        print(" | ".join(rows[-1].values()), flush=True)
    return markdown(rows)
