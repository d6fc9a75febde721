"""Progress with the time left, on standard error, for people only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:  # a bar is shown before anything heavy is imported
    from layerscope.states.extract import Progress as Callback


@contextmanager
def bars() -> Iterator[Callback]:
    """Show a bar for each stage as it comes; yields the callback that moves it.

    Nothing is shown where standard error is neither a terminal nor a notebook.
    """
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    seen = console.is_terminal or console.is_jupyter
    with Progress(*columns, console=console, disable=not seen) as progress:
        tasks: dict[str, TaskID] = {}

        def move(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield move
