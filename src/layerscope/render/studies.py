"""What came of a study: the answer, what failed and why, the tables that it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from layerscope.render.overlay import short_names
from layerscope.render.view import NONE, Answer, Cell, Notes, Table, View, heads, section, sections

_MOST_ROWS: Final = 12
_LARGE: Final = 1000


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
    """Return the first rows of a frame; what is the same in all of them stands below."""
    same = [
        each for each in ("model", "convention") if each in frame and frame[each].nunique() == 1
    ]
    notes = tuple(f"{each}: {short_names(frame[each]).iloc[0]}" for each in same)
    shown = frame.drop(columns=same)
    if "model" in shown:
        shown = shown.assign(model=short_names(shown["model"]))
    words = [
        place for place, each in enumerate(shown) if not pd.api.types.is_numeric_dtype(shown[each])
    ]
    rows = tuple(tuple(map(_cell, row)) for row in shown.head(_MOST_ROWS).itertuples(index=False))
    if (more := len(frame) - len(rows)) > 0:
        notes += (f"{more:,} more rows in {name}.csv",)
    return Table(heads(*map(str, shown.columns), left=words), rows, notes=notes)


def _cell(value: Any) -> Cell:
    if pd.isna(value):
        return Cell(NONE)
    if isinstance(value, float):
        return Cell(f"{value:,.0f}" if abs(value) >= _LARGE else f"{value:.3g}")
    return Cell(str(value))
