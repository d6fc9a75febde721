"""Many small matrices: a thread for each of several, never several threads for one.

LAPACK and OpenMP wait for each other on every small matrix: one eigenvalue problem of 300 x 300 takes
9 ms of CPU on one thread, and ten times that on two while other processes use the cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController, threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[int]:
    """Let torch and the libraries of linear algebra use one thread; give how many torch had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries().limit(limits=1):  # NumPy's has threads of its own where torch has one
            yield threads
    finally:
        torch.set_num_threads(threads)


@cache
def _libraries() -> Any:
    """Return the libraries of linear algebra that are loaded; to look for them takes milliseconds."""
    return ThreadpoolController()


def one_thread_each() -> Any:
    """Give a context in which NumPy's linear algebra has one thread, and torch keeps its own.

    A logistic regression of a few hundred rows takes ten times as long on two threads as on one.
    """
    return threadpool_limits(limits=1, user_api="blas")


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield a function's results in the order of the items, as many at a time as torch has threads.

    Each call has one thread, so that its result depends neither on their number nor on what else runs.
    """
    with one_thread() as threads:
        if threads == 1 or len(items) < 2:
            yield from map(function, items)
            return
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(function, items)
