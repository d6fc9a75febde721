"""Progress with the time left, on standard error, for people only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

if TYPE_CHECKING:  # a bar is shown before anything heavy is imported
    from layerscope.states.extract import Progress as Callback


class _TimeLeft(ProgressColumn):
    """The time left: rich's estimate from the last steps, or before it has one, from all so far."""

    def render(self, task: Task) -> Text:
        """Return it in words; nothing before the first step and after the last."""
        left = task.time_remaining
        if left is None and task.completed and task.total and task.elapsed is not None:
            left = task.elapsed * (task.total - task.completed) / task.completed
        if task.finished or left is None:
            return Text("")
        return Text(f"{timedelta(seconds=round(left))} left", "progress.remaining")


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
        _TimeLeft(),
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
