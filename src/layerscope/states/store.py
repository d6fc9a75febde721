"""Shards: files of finished rows, written atomically, never changed, found again after a kill.

`StateStore` keeps the rows of a scan: a run that was killed reads which items (a text, or a view of one)
are finished and computes the others. `bank.VectorBank` keeps pooled vectors by text.
"""

from __future__ import annotations

import errno
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from layerscope.data.files import explained_write_error
from layerscope.errors import InputError, RunError

Array = np.ndarray[Any, np.dtype[Any]]


class ShardWriter:
    """Batches of rows that are gathered in memory and written to shards of one folder.

    A shard holds an identifier for each row and, under each key, an array with these rows.

    Args:
        folder: where the shards are.
    """

    BUDGET: ClassVar[int] = 64_000_000  # bytes that wait in memory before they are written
    SECONDS: ClassVar[float] = 30  # of work that a kill may cost
    IDS: ClassVar[str] = "items"  # the key of the identifiers

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting: list[tuple[Array, Mapping[str, Array]]] = []
        self._bytes = 0
        self._flushed = time.monotonic()

    def _keep(self, ids: Array, rows: Mapping[str, Array], *, budget: int, seconds: float) -> None:
        """Keep one batch, and write what waits where that is too much or too old."""
        self._waiting.append((ids, rows))
        self._bytes += sum(array.nbytes for array in rows.values())
        if self._bytes > budget or time.monotonic() - self._flushed > seconds:
            self.flush()

    def flush(self) -> None:
        """Write what waits to a new shard.

        Raises:
            RunError: the disk is full.
        """
        if not self._waiting:
            return
        merged = {self.IDS: np.concatenate([ids for ids, _ in self._waiting])}
        for key in self._waiting[0][1]:
            merged[key] = np.concatenate([rows[key] for _, rows in self._waiting])
        path = self.folder / f"shard-{self._new_name()}.safetensors"
        save_shard(merged, path)
        self._enlist(path)
        self._waiting, self._bytes = [], 0
        self._flushed = time.monotonic()

    def _new_name(self) -> str:
        raise NotImplementedError

    def _enlist(self, path: Path) -> None:
        raise NotImplementedError


class StateStore(ShardWriter):
    """Rows by key for a set of items.

    Args:
        folder: where the shards are; None keeps them in a temporary folder that goes with the object.
        budget: bytes that may wait in memory before they are written.
    """

    def __init__(self, folder: Path | None = None, budget: int = ShardWriter.BUDGET) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="layerscope-")
        super().__init__(Path(self._temporary.name if self._temporary else str(folder)))
        self.budget = budget
        self._shards = shards_in(self.folder)

    def finished(self) -> set[int]:
        """Return the items whose rows are stored."""
        found: set[int] = set()
        for items, _ in self._parts(self.IDS):
            found.update(items.tolist())
        return found

    def add(self, items: Array, rows: Mapping[str, Array]) -> None:
        """Keep one batch: for every key an array with a row for each of `items`."""
        seconds = math.inf if self._temporary else self.SECONDS
        self._keep(items, rows, budget=self.budget, seconds=seconds)

    def _new_name(self) -> str:
        return f"{len(self._shards):05d}"

    def _enlist(self, path: Path) -> None:
        self._shards.append(path)

    def rows(self, key: str, items: Array) -> Array:
        """Return the rows of `items` under a key, in the order of `items`.

        Raises:
            RunError: an item was never added.
        """
        parts = list(self._parts(key))
        if not parts:
            raise RunError(f"nothing was kept under {key!r}.")
        largest = max(int(items.max()), *(int(part.max()) for part, _ in parts))
        wanted = np.full(largest + 1, -1)
        wanted[items] = np.arange(len(items))
        out = np.empty((len(items), *parts[0][1].shape[1:]), parts[0][1].dtype)
        filled = np.zeros(len(items), dtype=bool)
        for part, rows in parts:
            places = wanted[part]
            out[places[places >= 0]] = rows[places >= 0]
            filled[places[places >= 0]] = True
        if missing := int((~filled).sum()):
            raise RunError(f"{missing} of {len(items)} texts were never computed for {key!r}.")
        return out

    def _parts(self, key: str) -> list[tuple[Array, Array]]:
        kept = [read_shard(path, self.IDS, key) for path in self._shards]
        waiting = [
            (items, items if key == self.IDS else rows[key])
            for items, rows in self._waiting
            if key == self.IDS or key in rows
        ]
        return [(items, rows) for items, rows in filter(None, kept)] + waiting

    def close(self) -> None:
        """Remove a temporary folder; a folder that was given stays."""
        if self._temporary:
            self._temporary.cleanup()


def shards_in(folder: Path) -> list[Path]:
    """Return the whole shards of a folder, by name."""
    return sorted(folder.glob("shard-*.safetensors"))


def read_shard(path: Path, *keys: str) -> list[Array] | None:
    """Return the arrays of a shard under these keys, None where it lacks one."""
    with safe_open(path, framework="numpy") as shard:
        if not set(keys) <= set(shard.keys()):
            return None
        return [shard.get_tensor(key) for key in keys]


def save_shard(arrays: dict[str, Array], path: Path) -> None:
    """Write arrays to a shard atomically.

    Raises:
        RunError: the disk is full.
        InputError: the folder cannot be written to.
    """
    # The name keeps a glob for shards from finding it before it is complete.
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, partial)
        partial.replace(path)
    except OSError as error:
        raise explained_write_error(error, path) from error
    except Exception as error:  # safetensors wraps the system's message in its own error type
        raise _from_safetensors(error, path) from error


def _from_safetensors(error: Exception, path: Path) -> RunError | InputError:
    text = str(error)
    if "No space left" in text or "os error 28" in text:
        return explained_write_error(OSError(errno.ENOSPC, "No space left on device"), path)
    if "Permission denied" in text:
        return explained_write_error(OSError(errno.EACCES, "Permission denied"), path)
    return RunError(f"{str(path)!r} could not be written: {text}")
