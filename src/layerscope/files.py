"""Files written whole or not at all, and one sentence for what went wrong with writing."""

from __future__ import annotations

import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any

from layerscope.errors import InputError, RunError


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
