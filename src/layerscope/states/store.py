"""The results of a pass, stored in shards on disk, so that a run that was killed can resume.

A shard holds some finished items (a text, or a view of one) and, under each key, their rows. Shards are
written atomically and never changed; a resumed run reads which items are finished and computes the rest.
"""

from __future__ import annotations

import errno
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


class StateStore:
    """Rows by key for a set of items, collected in memory and written to shards.

    Args:
        folder: of the shards; None uses a temporary folder that is removed with the object.
        budget: bytes that may stay in memory before they are written.
    """

    BUDGET: ClassVar[int] = 64_000_000
    SECONDS: ClassVar[float] = 30  # of work that a kill may lose

    def __init__(self, folder: Path | None = None, budget: int = BUDGET) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="layerscope-")
        self.folder = Path(self._temporary.name) if self._temporary else Path(str(folder))
        self.budget = budget
        self._shards = sorted(self.folder.glob("shard-*.safetensors")) if folder else []
        self._waiting: list[tuple[Array, Mapping[str, Array]]] = []
        self._bytes = 0
        self._flushed = time.monotonic()

    def finished(self) -> set[int]:
        """Return the items whose rows are stored."""
        found: set[int] = set()
        for items, _ in self._parts("items"):
            found.update(items.tolist())
        return found

    def add(self, items: Array, rows: Mapping[str, Array]) -> None:
        """Add one batch: for every key an array with a row for each of `items`."""
        self._waiting.append((items, rows))
        self._bytes += sum(array.nbytes for array in rows.values())
        late = not self._temporary and time.monotonic() - self._flushed > self.SECONDS
        if late or self._bytes > self.budget:
            self.flush()

    def flush(self) -> None:
        """Write the rows in memory to a new shard."""
        if not self._waiting:
            return
        merged = {"items": np.concatenate([items for items, _ in self._waiting])}
        for key in self._waiting[0][1]:
            merged[key] = np.concatenate([rows[key] for _, rows in self._waiting])
        path = self.folder / f"shard-{len(self._shards):05d}.safetensors"
        save_shard(merged, path)
        self._shards.append(path)
        self._waiting, self._bytes = [], 0
        self._flushed = time.monotonic()

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
        found = []
        for path in self._shards:
            with safe_open(path, framework="numpy") as shard:
                if key in shard.keys():  # noqa: SIM118  (not a dict)
                    found.append((shard.get_tensor("items"), shard.get_tensor(key)))
        for items, rows in self._waiting:
            if key == "items":
                found.append((items, items))
            elif key in rows:
                found.append((items, rows[key]))
        return found

    def close(self) -> None:
        """Remove a temporary folder; a folder that was given stays."""
        if self._temporary:
            self._temporary.cleanup()


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
