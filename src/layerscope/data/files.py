"""Files: UTF-8 read and checked, and files written whole or not at all, by one process at a time."""

from __future__ import annotations

import codecs
import difflib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from filelock import FileLock, Timeout

from layerscope.errors import InputError, RunError

_BLOCK: Final = 1 << 20


def close_names(path: Path) -> str:
    """Return a hint for a path that does not exist: similar names in its folder, or that none is."""
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r} either; check the path."
    names = sorted(entry.name for entry in path.parent.iterdir())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(match) for match in close)}?"
    return f"nothing in {str(path.parent.resolve())!r} has a similar name; check the path."


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read bytes.

    Raises:
        InputError: this user may not read it.
    """
    try:
        stream = path.open("rb")
    except PermissionError:
        raise InputError(
            f"expected a readable file, {str(path)!r} may not be read by this user; "
            "change its permissions or copy it."
        ) from None
    with stream:
        yield stream


def lines_of(stream: BinaryIO, where: str) -> Iterator[str]:
    r"""Yield the lines without their ends and the byte order mark; only \n and \r\n end a line.

    Raises:
        InputError: the file is not UTF-8.
    """
    require_utf8(stream, where)
    for number, line in enumerate(stream):
        text = line.decode().rstrip("\r\n")
        yield text if number else text.removeprefix("\ufeff")


def require_utf8(stream: BinaryIO, where: str) -> None:
    """Read the stream once to its end and rewind it, so that readers after this cannot fail."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    while block := stream.read(_BLOCK):
        pending = len(decoder.getstate()[0])  # bytes of a character that the last block cut
        if not offset and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise _not_utf8(where, 0, "UTF-16")
        if b"\0" in block:
            raise InputError(
                f"expected text, {where!r} is binary (a zero byte at offset "
                f"{offset + block.index(0)}); export the texts as .txt, .jsonl or .parquet."
            )
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            raise _not_utf8(where, offset - pending + error.start, "LATIN1") from None
        offset += len(block)
    if decoder.getstate()[0]:
        raise _not_utf8(where, offset - len(decoder.getstate()[0]), "LATIN1")
    stream.seek(0)


def _not_utf8(where: str, offset: int, guess: str) -> InputError:
    return InputError(
        f"expected UTF-8, {where!r} is not from byte {offset} on; convert it, for example with "
        f"iconv -f {guess} -t UTF-8."
    )


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


def newest(path: Path) -> float:
    """Return when a file, or anything in a folder, was last changed; 0 for what is not there."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)
