"""The run folder while it is being made: claimed, resumed, finished, never silently replaced."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from layerscope.data.files import (
    LOCK_FILE,
    explained_write_error,
    locked,
    refuse_busy,
    refuse_unwritable,
    write_atomically,
    write_json,
)
from layerscope.errors import InputError
from layerscope.models.backbone import OLDER, is_older_fingerprint
from layerscope.results.table import PARTS, PLAN_FILE, RECORD_FILE, Run, save_run

_PACKAGES: Final = ("layerscope", "torch", "transformers", "tokenizers", "numpy", "pandas")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


PAGE_FILE = "page.html"


@dataclass(frozen=True)
class RunFolder:
    """Where a run is written.

    Attributes:
        path: the folder.
        overwrite: whether what a finished or different run left there may be replaced.
    """

    path: Path
    overwrite: bool = False

    @property
    def parts(self) -> Path:
        """Where unfinished work lies."""
        return self.path / PARTS

    @contextmanager
    def claimed(self, *, beside: bool = False) -> Iterator[None]:
        """Claim the folder and keep every other process out of it for the time of a block.

        Args:
            beside: see `claim`.

        Raises:
            InputError: another process is at work there, or it is not ours to write to.
        """
        self.claim(beside=beside)
        with locked(self.path / LOCK_FILE, lambda: refuse_busy(self.path)):
            self.claim(beside=beside)  # the process that was there may have finished just now
            yield

    def claim(self, *, beside: bool = False) -> None:
        """Refuse, before any work, a folder that is not ours to write to.

        Args:
            beside: whether a finished run there is welcome, because something is put beside it.

        Raises:
            InputError: it is a file, holds a finished run, or holds other things.
        """
        for place in (self.path, *self.path.parents):
            if place.exists() and not place.is_dir():
                raise InputError(f"expected a folder for the run, {str(place)!r} is a file.")
        if (self.path / RECORD_FILE).exists() and not (self.overwrite or beside):
            raise InputError(
                f"{str(self.path)!r} already holds a finished run; pass --overwrite to replace it, or "
                "choose another --out folder."
            )
        ours = (self.path / RECORD_FILE).exists() or self._holds_unfinished_work()
        others = self.path.exists() and any(each.name != LOCK_FILE for each in self.path.iterdir())
        if others and not ours:
            raise InputError(
                f"{str(self.path)!r} holds other files; choose a new or empty --out folder."
            )
        refuse_unwritable(self.path)

    def _holds_unfinished_work(self) -> bool:
        """Whether `parts` is ours; the plan is the first file in it, even when half written."""
        return self.parts.is_dir() and all(
            (self.parts / PLAN_FILE).exists() or name.name.startswith(f".{PLAN_FILE}")
            for name in self.parts.iterdir()
        )

    def open_parts(self, plan: dict[str, Any]) -> bool:
        """Make room for unfinished work, or go on with work of the same plan.

        Returns:
            Whether there is work to go on with.

        Raises:
            InputError: unfinished work of another plan is there, and may not be replaced.
        """
        found = self._found_plan()
        if found == plan:
            return True
        if found is not None and self._holds_finished_parts() and not self.overwrite:
            if is_older_fingerprint(found.get("weights_fingerprint")):
                raise InputError(
                    f"{str(self.path)!r} holds an unfinished run {OLDER}; pass --overwrite to drop it, "
                    "or choose another --out folder."
                )
            raise InputError(
                f"{str(self.path)!r} holds an unfinished run with other {_differences(found, plan)}; "
                "run that command again to finish it, pass --overwrite to drop it, or choose "
                "another --out folder."
            )
        if self.parts.exists():
            shutil.rmtree(self.parts)
        write_json(self.parts / PLAN_FILE, plan)
        return False

    def _holds_finished_parts(self) -> bool:
        return any(
            part.name != PLAN_FILE and not part.name.startswith(".")
            for part in self.parts.iterdir()
        )

    def _found_plan(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.parts / PLAN_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise explained_write_error(error, self.parts) from error
        return found if isinstance(found, dict) else None

    def finish(self, run: Run, page: str | None = None) -> None:
        """Write the run and its page, if it has one, then drop what it was made of.

        The record of a run that is replaced goes first: it must never stand beside another's table.
        """
        try:
            (self.path / RECORD_FILE).unlink(missing_ok=True)
        except OSError as error:
            raise explained_write_error(error, self.path / RECORD_FILE) from error
        self.update(run, page)

    def update(self, run: Run, page: str | None) -> None:
        """Write a run over one that it holds all of, so that at no moment there is none."""
        if page is None:
            (self.path / PAGE_FILE).unlink(missing_ok=True)
        else:
            write_atomically(self.path / PAGE_FILE, page.encode())
        save_run(run, self.path)
        shutil.rmtree(self.parts, ignore_errors=True)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return ", ".join(f"{name} ({old.get(name)} there, {new.get(name)} now)" for name in names[:3])
