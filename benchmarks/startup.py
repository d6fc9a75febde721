"""How long help and the bare import take, beside Python itself."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.tables import markdown

RUNS = 7
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import layerscope": ["-c", "import layerscope"],
    "layerscope --help": ["-m", "layerscope", "--help"],
}
LIMITS = {"import layerscope": "0.3 beyond Python", "layerscope --help": "0.5"}


def seconds(arguments: list[str]) -> float:
    """Median time of a new interpreter, after a warm-up."""
    times = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> str:
    """Return the table."""
    rows = [
        {"command": name, "seconds": f"{seconds(arguments):.2f}", "limit": LIMITS.get(name, "")}
        for name, arguments in COMMANDS.items()
    ]
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, layerscope; print('torch' in sys.modules)"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    return markdown(rows) + f"\n\ntorch imported by `import layerscope`: {loaded}"


if __name__ == "__main__":
    print(main())
