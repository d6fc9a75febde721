"""What a user's commands cost beside the bare forward pass, each figure with its limit.

`python -m benchmarks speed` (about 20 minutes of two quiet cores; `make bench`), or some rows of it:
`python -m benchmarks.speed scan startup`. Work is compared in CPU seconds of one thread, in one process
and in turn, because the cores are shared; the rows of threads in wall seconds, quiet and beside a busy
loop on every core. Each scan is the whole command but for loading the model: its probe of the first
token, pass, measures, readouts, tables, and the folder that it writes.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

import layerscope
from benchmarks import dynamics, evaluation, overhead
from benchmarks.materials import MODELS, banking77, wikitext
from benchmarks.memory import in_own_process, peak_bytes
from benchmarks.tables import markdown
from layerscope.analysis.plan import prepare
from layerscope.data.texts import as_texts
from layerscope.models import loading
from layerscope.settings import ScanConfig

Row = dict[str, str]


@dataclass(frozen=True)
class Work:
    """A scan that is compared with the bare forward pass over its plain texts.

    Attributes:
        model: a name of `materials.MODELS`.
        data: WikiText or Banking77.
        texts: their number.
        settings: of the scan, where they are not the defaults.
        limit: the most that the ratio should be.
    """

    model: str
    data: str
    texts: int
    settings: dict[str, Any]
    limit: str


SCANS: Final = (
    Work("MiniLM", "WikiText", 300, {}, "2.0"),
    Work("Gemma 3 270M", "WikiText", 24, {}, "2.0"),
    Work("MiniLM", "WikiText", 300, {"views": 0}, "1.4"),
    Work("MiniLM", "Banking77", 1000, {}, "measures 20 % of it"),
)
CASES: Final = ((128, "1.4"), (512, "1.7"))
THREADS: Final = (1, 2, 4)


def texts_of(data: str, count: int) -> list[str]:
    """The first texts of a data set."""
    found = wikitext() if data == "WikiText" else list(dict.fromkeys(banking77()))
    return found[:count]


def row(what: str, found: str, limit: str, more: str = "") -> Row:
    """One line of the table."""
    return {"work": what, "measured": found, "limit": limit, "of which": more}


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


# --- scans -----------------------------------------------------------------------------------------


def scans() -> Iterator[Row]:
    """Whole scans against the bare forward pass over the plain texts."""
    torch.set_num_threads(1)
    for work in SCANS:
        name = f"scan {work.model}, {work.texts} {work.data}{_said(work.settings)} / bare"
        path, texts = MODELS[work.model](), texts_of(work.data, work.texts)
        if path is None or not texts:
            yield row(name, "no model or no texts", work.limit)
            continue
        backbone = loading.load(str(path))
        given = as_texts(texts, limit=None)
        bare = prepare(backbone, given, ScanConfig(views=0))
        overhead.bare_seconds(backbone, prepare(backbone, as_texts(texts[:4]), ScanConfig(views=0)))
        alone = partial(overhead.bare_seconds, backbone, bare)
        before = cpu(alone)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            started = time.process_time()
            scan = layerscope.scan(
                backbone.model, texts, tokenizer=backbone.tokenizer, limit=None, out=out,
                show_progress=False, **work.settings,
            )  # fmt: skip
            whole = time.process_time() - started
        after = cpu(alone)
        times = scan.record["times"]
        least = min(before, after)
        parts = {
            key: times[key] / times["total"] for key in ("pass", "measure", "compare", "readouts")
        }
        shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in parts.items())
        yield row(
            name, f"{whole / least:.2f} x ({whole:.1f} s / {least:.1f} s)", work.limit, shares
        )


def _said(settings: dict[str, Any]) -> str:
    return "".join(f" --{key} {value}" for key, value in settings.items())


# --- threads, quiet and busy -----------------------------------------------------------------------


def _spin() -> None:
    while True:
        pass


@contextlib.contextmanager
def busy_cores(wanted: bool) -> Iterator[None]:
    """Keep every core busy with a loop, or none."""
    loops = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    for loop in loops if wanted else ():
        loop.start()
    try:
        yield
    finally:
        for loop in loops if wanted else ():
            loop.kill()
            loop.join()


def threads() -> Iterator[Row]:
    """Scans of single layers without views, both conventions, in wall seconds (a part of a scan)."""
    backbone = loading.load(str(MODELS["MiniLM"]()))
    for tokens, limit in CASES:
        # A third of what `overhead` reads: beside busy loops everything takes several times as long.
        texts = overhead.texts_of(backbone, tokens, overhead.TEXTS["MiniLM"][tokens] // 3)
        for busy in (False, True):
            found = {}
            with busy_cores(busy):
                for number in THREADS:
                    case = overhead.Case("MiniLM", tokens, ("paper", "normalized"), number)
                    found[number] = overhead.run(case, backbone, texts)["ratio"]
            state = "busy" if busy else "quiet"
            told = " / ".join(found.values())
            yield row(
                f"single layers without views / bare, wall, T = {tokens}, {state}",
                f"{told} x", f"{limit} each", f"{' / '.join(map(str, THREADS))} threads",
            )  # fmt: skip


# --- measures of several layers --------------------------------------------------------------------


def family() -> Iterator[Row]:
    """The measures of several layers, and GFMI of many samples (parts of a scan)."""
    torch.set_num_threads(1)
    taken, gigabytes = dynamics.many_samples()  # first: the peak of a process never falls
    yield row(
        "gfmi_edge, N = 20,000, D = 384, a layer", f"{taken:.1f} CPU s, {gigabytes:.2f} GiB",
        "15, 1 GiB",
    )  # fmt: skip
    layers = dynamics.synthetic(13, 2000, 768)
    taken = cpu(lambda: dynamics.family(layers))
    yield row("whole family, N = 2,000, 13 layers x 768", f"{taken:.1f} CPU s", "15")


# --- memory ----------------------------------------------------------------------------------------


def memory() -> Iterator[Row]:
    """Peak memory of a whole scan without views, in a process of its own."""
    for count in (1000, 8000):
        found = in_own_process("benchmarks.speed", "--memory", count)
        yield row(
            f"scan MiniLM, {count:,} Banking77 --views 0, peak", f"{found['peak'] / 1e9:.2f} GB",
            "1.4 GB" if count == 8000 else "", f"before {found['before'] / 1e9:.2f} GB",
        )  # fmt: skip


def peak(count: int) -> None:
    """Scan in this process and print its peak memory as JSON."""
    torch.set_num_threads(1)
    path = str(MODELS["MiniLM"]())
    layerscope.scan(
        path, texts_of("WikiText", 40), views=0, show_progress=False
    )  # loads what is lazy
    before = peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        layerscope.scan(
            path, texts_of("Banking77", count), limit=None, views=0, show_progress=False,
            out=Path(folder) / "run",
        )  # fmt: skip
    print(json.dumps({"before": before, "peak": peak_bytes()}))


# --- commands --------------------------------------------------------------------------------------


def evaluate() -> Iterator[Row]:
    """All layers of a task against one plain run of mteb on the last."""
    torch.set_num_threads(1)
    yield row("evaluate MiniLM, Banking77, 7 layers / a plain run of mteb",
              evaluation.one_pass("MiniLM", "Banking77Classification"), "1.1 x")  # fmt: skip


def startup() -> Iterator[Row]:
    """Commands that run no model."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        layerscope.scan(
            str(MODELS["MiniLM"]()), wikitext()[:120], limit=None, out=run, show_progress=False
        )
        for arguments, limit in ((["metrics"], "0.6"), (["select", str(run)], "1.5")):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            for _ in range(3):
                subprocess.run(
                    [sys.executable, "-m", "layerscope", *arguments],
                    check=True,
                    capture_output=True,
                )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            yield row(f"layerscope {arguments[0]}", f"{taken / 3:.2f} CPU s", limit)


ROWS: Final = {
    "scan": scans,
    "threads": threads,
    "family": family,
    "memory": memory,
    "evaluate": evaluate,
    "startup": startup,
}
LEFT_OUT: Final = (
    "Left out: GPUs, models above 270M, ranking several models (`python -m benchmarks rank`), cut and "
    "prune (`shipping`). Rows of a part say so; seconds are of this machine, ratios of one run."
)


def main(names: tuple[str, ...] = tuple(ROWS)) -> str:
    """Return the table."""
    found: list[Row] = []
    for name in names:
        for each in ROWS[name]():
            found.append(each)
            print(" | ".join(each.values()), flush=True)
    return f"{markdown(found)}\n\n{LEFT_OUT}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        peak(int(sys.argv[2]))
    else:
        print(main(tuple(sys.argv[1:]) or tuple(ROWS)))
