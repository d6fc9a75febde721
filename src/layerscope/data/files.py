"""Files written whole or not at all, by one process at a time; one sentence for what went wrong."""

from __future__ import annotations

import difflib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from filelock import FileLock, Timeout

from layerscope.errors import InputError, RunError


def close_names(path: Path) -> str:
    """Say which names beside a path that is not there are like its own, or that none is."""
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r} either; check the path."
    names = sorted(entry.name for entry in path.parent.iterdir())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(match) for match in close)}?"
    return f"nothing in {str(path.parent.resolve())!r} has a similar name; check the path."


def refuse_unwritable(path: Path) -> None:
    """Refuse, before any work, a file or folder that could not be written after it.

    Raises:
        InputError: the nearest folder that is there may not be written to.
    """
    place = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    if not os.access(place, os.W_OK | (os.X_OK if place.is_dir() else 0)):
        raise explained_write_error(PermissionError(errno.EACCES, "Permission denied"), path)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill, finds the old one or the new one, never a part.

    Raises:
        RunError: the disk is full.
        InputError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not a file of tempfile's, which nobody else may read.
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise explained_write_error(error, path) from error


LOCK_FILE: Final = ".layerscope.lock"
_ANYBODY: Final = 0o666  # a bank may be shared by users; the file is empty


@contextmanager
def locked(path: Path, busy: Callable[[], None], *, keep: bool = False) -> Iterator[None]:
    """Hold the lock of a file for the time of a block; a process that dies frees it.

    Folders that the lock needs are made, and taken away again if nothing else came into them.

    Args:
        path: the lock file.
        busy: called where another process holds the lock: raises, or the lock is waited for.
        keep: whether the file stays, which is safer where processes wait for it on a network folder.

    Raises:
        InputError: the lock file cannot be written.
    """
    lock = FileLock(path, mode=_ANYBODY)
    with ExitStack() as stack:
        try:
            for folder in reversed([each for each in path.parents if not each.exists()]):
                stack.callback(_remove_empty, folder)
                folder.mkdir(exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                busy()
                lock.acquire()
        except OSError as error:
            raise explained_write_error(error, path) from error
        stack.callback(lock.release)
        if not keep:  # while it is held: nobody can hold the lock of a file that is gone
            stack.callback(_remove_file, path)
        yield


def refuse_busy(folder: Path) -> NoReturn:
    """Refuse a folder that another process is writing to.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"another process is at work in {str(folder)!r}; wait until it ends, or choose another --out "
        "folder."
    )


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _remove_file(path: Path) -> None:
    with suppress(OSError):  # Windows lets nobody remove an open file
        path.unlink()


def explained_write_error(error: OSError, path: Path) -> RunError | InputError:
    """Return one sentence for what went wrong with writing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"no space left on the disk of {str(path.parent)!r}; what was finished is kept: free some "
            "space and run the same command again."
        )
    reason = error.strerror or str(error)
    return InputError(f"cannot write to {str(path)!r} ({reason}); choose another --out folder.")


def write_json(path: Path, value: Any) -> None:
    """Write a record as readable JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())
