"""Cells in processes of this machine: a process that dies is started again, and its cell with it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock, Thread
from typing import IO

from layerscope.settings import EngineConfig
from layerscope.studies.cells import Cell, Outcome, Worker
from layerscope.studies.executors import worker
from layerscope.studies.executors.queue import Queue
from layerscope.studies.grid import Resources

Answers = queue.Queue[Outcome | Exception | None]


def run_local(
    cells: Sequence[Cell], root: Path, config: EngineConfig, resources: Resources
) -> Iterator[Outcome]:
    """Run cells and yield what came of each, as it comes.

    Args:
        cells: to run.
        root: the study's folder.
        config: number of workers, threads and retries; without workers the cells run in this process.
        resources: what a cell needs; with GPUs each worker sees its own.
    """
    waiting = Queue(cells)
    if not config.workers:
        here = Worker(str(root), config.threads)
        while (cell := waiting.take(0)) is not None:
            yield here.run(asdict(cell))
        return
    count = min(config.workers, len(cells))
    threads = config.threads or resources.cpus or max(1, _cores() // count)
    slots = [
        _Slot(number, str(root), threads, config.retries, _environment(number, resources))
        for number in range(count)
    ]
    found: Answers = queue.Queue()
    running = [Thread(target=each.work, args=(waiting, found), daemon=True) for each in slots]
    try:
        for each in running:
            each.start()
        yield from _gathered(found, count)
    finally:
        for slot in slots:
            slot.stop()
        for each in running:
            each.join()
        for slot in slots:
            slot.close()


def _cores() -> int:
    """Return the cores that this process may use: a job of Slurm has fewer than its machine."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _gathered(found: Answers, count: int) -> Iterator[Outcome]:
    """Yield what several slots put into a queue, until each has put None."""
    ended = 0
    while ended < count:
        outcome = found.get()
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            ended += 1
        else:
            yield outcome


def _environment(number: int, resources: Resources) -> dict[str, str]:
    """Return the environment of a worker: of several GPUs it sees its own."""
    if resources.gpus < 1:
        return dict(os.environ)
    import torch

    each = int(resources.gpus)
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else [str(gpu) for gpu in range(torch.cuda.device_count())]
    groups = max(1, len(names) // each)
    own = names[number % groups * each :][:each]
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(own)} if own else dict(os.environ)


class _Slot:
    """The place of one worker: its process, started when there is none."""

    def __init__(
        self, number: int, root: str, threads: int, retries: int, environment: dict[str, str]
    ) -> None:
        self._number, self._retries = number, retries
        self._command = [sys.executable, "-m", worker.__name__, root, str(threads)]
        self._environment = {**environment, "OMP_NUM_THREADS": str(threads)}
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[str]
        self._stopped = False
        self._lock = Lock()

    def work(self, waiting: Queue, found: Answers) -> None:
        """Run cells until none waits."""
        try:
            while not self._stopped and (cell := waiting.take(self._number)) is not None:
                found.put(self._run(cell))
            found.put(None)
        except Exception as error:  # shown by the caller, who would wait for ever otherwise
            found.put(error)

    def _run(self, cell: Cell) -> Outcome:
        died = ""
        for attempt in range(self._retries + 1):
            if line := self._answer(json.dumps(asdict(cell))):
                found = worker.decoded(line)
                return replace(found, facts={**found.facts, "retries": attempt})
            died = self._death()
            if self._stopped:
                break
        times = "once" if attempt == 0 else f"{attempt + 1} times"
        return Outcome(cell.key, reason=f"its process died {times}: {died}")

    def _answer(self, line: str) -> str:
        """Give a process one line and return its answer, "" where it died."""
        process = self._started()
        if process is None or process.stdin is None or process.stdout is None:
            return ""
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:  # it died before it read the line
            return ""
        return answer if answer.endswith("\n") else ""  # it died while it wrote

    def _started(self) -> subprocess.Popen[str] | None:
        """Return the process, a new one where there is none; None once it is to stop."""
        with self._lock:
            if self._process is None and not self._stopped:
                self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
                self._process = subprocess.Popen(  # noqa: S603
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
                    text=True, encoding="utf-8", env=self._environment,
                    start_new_session=True,  # an interrupt is ours to handle
                )  # fmt: skip
            return self._process

    def _death(self) -> str:
        """Return how the process died, and forget it."""
        if self._process is None:
            return ""
        code = self._process.wait()
        self._said.seek(0)
        said = [line.strip() for line in self._said.read().splitlines() if line.strip()]
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            with suppress(OSError):  # what it did not read any more
                pipe.close()  # type: ignore[union-attr]
        self._process = None
        if code < 0:
            memory = ", often for lack of memory" if -code == signal.SIGKILL else ""
            return f"signal {signal.Signals(-code).name}{memory}."
        return f"exit code {code}{f', {said[-1]}' if said else ''}."

    def stop(self) -> None:
        """Kill the process; what it was doing is lost."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Forget a process that was killed, once nobody reads from it any more."""
        if self._process is not None:
            self._death()
