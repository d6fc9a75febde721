"""Peak memory of a scan of single layers: how it grows with texts, how many layers are ever alive."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import torch

from benchmarks.materials import banking77, minilm
from benchmarks.tables import markdown

COUNTS = (1000, 8000)


def peak_bytes() -> int:
    """Return the most bytes that this process had; getrusage would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def in_own_process(module: str, *arguments: object) -> dict[str, Any]:
    """Run a module of the benchmarks in a process of its own; return the JSON of its last line."""
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def texts(count: int) -> list[str]:
    """Short distinct texts: Banking77's training set, or numbered sentences where it is missing."""
    found = list(dict.fromkeys(banking77()))
    if len(found) >= count:
        return found[:count]
    return [f"please transfer {i} coins to account {i * 7}" for i in range(count)]


def child(count: int) -> None:
    """Scan in this process and print what it took, as JSON."""
    from layerscope.analysis.plan import prepare
    from layerscope.analysis.reduce import Reduction
    from layerscope.analysis.run import scan_backbone
    from layerscope.data.texts import as_texts
    from layerscope.metrics.catalogue import CATALOGUE
    from layerscope.models import loading
    from layerscope.settings import ScanConfig

    torch.set_num_threads(1)
    backbone = loading.load(str(minilm()))
    alive, most, largest = 0, 0, 0
    original = Reduction.__call__

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def watched(self: Reduction, tokens: Any) -> Any:
        nonlocal alive, most, largest
        alive += 1
        most, largest = max(most, alive), max(largest, tokens.states.nbytes)
        weakref.finalize(tokens, gone)
        return original(self, tokens)

    Reduction.__call__ = watched  # type: ignore[method-assign]
    given = as_texts(texts(count), limit=None)
    # Measures of several layers hold all layers at once: benchmarks/dynamics.py has their peak.
    alone = tuple(measure.name for measure in CATALOGUE if measure.level in ("prompt", "dataset"))
    settings = ScanConfig(views=0, metrics=alone)
    prepare(backbone, as_texts(texts(64)), settings)  # what loads lazily is loaded now
    before = peak_bytes()
    run = scan_backbone(backbone, given, settings)
    after = peak_bytes()
    sites = backbone.depth + 1
    print(
        json.dumps(
            {
                "texts": run.record["data"]["texts"],
                "before": before,
                "peak": after,
                "pooled": run.record["data"]["texts"] * sites * backbone.info.dim * 4,
                "contributions": int(run.contributions.memory_usage(deep=True).sum()),
                "most_alive": most,
                "one_layer": largest,
                "all_layers": largest * sites,
            }
        )
    )


def main() -> str:
    """Return the table for MiniLM."""
    if minilm() is None:
        return "MiniLM is not installed."
    rows = []
    for count in COUNTS:
        found = in_own_process("benchmarks.memory", count)
        mega = {name: f"{value / 1e6:.0f} MB" for name, value in found.items() if value > 1e5}
        rows.append(
            {
                "texts": found["texts"],
                "before the scan": mega["before"],
                "peak": mega["peak"],
                "pooled vectors": mega["pooled"],
                "per-text numbers": mega["contributions"],
                "layers' states alive at once": found["most_alive"],
                "one layer's batch": mega["one_layer"],
                "all layers' would be": mega["all_layers"],
            }
        )
    return markdown(rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(int(sys.argv[1]))
    else:
        print(main())
