"""Which cell a worker gets next: one of the model that it holds, else of a model that nobody holds."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from layerscope.studies.cells import Cell


class Queue:
    """Cells that wait, given out so that models are loaded as seldom as possible.

    Args:
        cells: in the order in which they are to run.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._waiting = list(cells)
        self._held: dict[int, str] = {}
        self._lock = Lock()

    def __bool__(self) -> bool:
        """Whether any waits."""
        return bool(self._waiting)

    def take(self, worker: int) -> Cell | None:
        """Return the next cell of a worker, None where none waits."""
        with self._lock:
            if not self._waiting:
                return None
            others = {model for number, model in self._held.items() if number != worker}
            cell = min(
                self._waiting,
                key=lambda each: (
                    0 if each.loads == self._held.get(worker) else 1 + (each.loads in others)
                ),
            )
            self._waiting.remove(cell)
            self._held[worker] = cell.loads
            return cell
