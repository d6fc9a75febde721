"""Cells on Ray: actors that Ray places and starts again, with the tasks that they lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layerscope.errors import InputError, RunError
from layerscope.settings import EngineConfig
from layerscope.studies.cells import Cell, Outcome, Worker
from layerscope.studies.executors.queue import Queue
from layerscope.studies.grid import Resources


def run_ray(
    cells: Sequence[Cell], root: Path, config: EngineConfig, resources: Resources
) -> Iterator[Outcome]:
    """Run cells on Ray and yield what came of each, as it comes.

    Results travel to this process, so nodes need no folder in common but the study's own files.

    Args:
        cells: to run.
        root: the study's folder, as the nodes see it.
        config: address, number of actors, threads and retries.
        resources: what an actor asks Ray for.

    Raises:
        InputError: Ray is not installed, or no cluster answers.
        RunError: no actor could start.
    """
    ray = _ray()
    count = min(max(1, config.workers), len(cells))
    cpus = resources.cpus or config.threads or 1
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, config.address, count * cpus)
    try:
        asked: dict[str, Any] = {
            "num_cpus": cpus,
            "num_gpus": resources.gpus,
            "max_restarts": -1,
            "max_task_retries": config.retries,
        }
        if resources.memory_gb is not None:
            asked["memory"] = int(resources.memory_gb * 1e9)
        make = ray.remote(**asked)(Worker)
        actors = [make.remote(str(root), config.threads or cpus) for _ in range(count)]
        yield from _outcomes(ray, actors, Queue(cells))
    finally:
        if ours:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "the engine ray needs an extra; install it with: pip install 'layerscope[ray]'."
        ) from error
    return ray


def _connect(ray: Any, address: str | None, cpus: int) -> None:
    here: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"no Ray cluster answers at {address or 'this machine'} ({reason}); check --address, or "
            "leave it out."
        ) from error


def _outcomes(ray: Any, actors: Sequence[Any], waiting: Queue) -> Iterator[Outcome]:
    """Give each actor that runs the next cell; actors that Ray has no room for yet hold none up."""
    tasks: dict[Any, tuple[int, Cell | None]] = {
        actor.ready.remote(): (number, None) for number, actor in enumerate(actors)
    }
    lost, running = 0, 0
    while tasks and (running or waiting):
        (task,), _ = ray.wait(list(tasks), num_returns=1)
        number, cell = tasks.pop(task)
        running -= cell is not None
        try:
            found = ray.get(task)
        except ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[:300]
            if cell is None:  # it could not start
                lost += 1
                if lost == len(actors):
                    raise RunError(f"no Ray actor could start: {said}") from error
                continue
            found = Outcome(cell.key, reason=f"its actor died: {said}")
        if (following := waiting.take(number)) is not None:
            running += 1
            tasks[actors[number].run.remote(asdict(following))] = (number, following)
        if cell is not None:
            yield found
