"""What came of a study: the answer, what failed and why, the tables that it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from layerscope.render.view import NONE, Answer, Cell, Notes, Table, View, heads, section, sections

_MOST_ROWS: Final = 12


def study_view(
    lead: str,
    evidence: str,
    failures: Sequence[tuple[str, str]],
    note: str,
    tables: Mapping[str, pd.DataFrame],
) -> View:
    """Return the answer, the tables, what failed, a note.

    Args:
        lead: how far the study is.
        evidence: the next step.
        failures: cell and reason.
        note: what could not be made.
        tables: by name, only their columns to show.
    """
    lines = tuple((Cell(cell), Cell(reason)) for cell, reason in failures)
    failed = Table(heads("cell", "why it failed", left=(0, 1)), lines) if lines else None
    answer = Answer(lead, evidence, good=not failures)
    made = (section(name, _table(name, frame)) for name, frame in tables.items())
    notes = Notes((note,) if note else ())
    return View("", sections(*made, section("", failed, notes)), answers=(answer,))


def _table(name: str, frame: pd.DataFrame) -> Table:
    """Return the first rows of a frame."""
    words = [
        place for place, each in enumerate(frame) if not pd.api.types.is_numeric_dtype(frame[each])
    ]
    rows = tuple(tuple(map(_cell, row)) for row in frame.head(_MOST_ROWS).itertuples(index=False))
    more = len(frame) - len(rows)
    notes = (f"{more:,} more rows in {name}.csv",) if more > 0 else ()
    return Table(heads(*map(str, frame.columns), left=words), rows, notes=notes)


def _cell(value: Any) -> Cell:
    if pd.isna(value):
        return Cell(NONE)
    return Cell(f"{value:.3g}" if isinstance(value, float) else str(value))
