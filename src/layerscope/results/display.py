"""How a result shows itself: a few lines in Python, a sentence and a table in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape

import pandas as pd

_ROWS = 20  # of a table in a notebook
_LONGEST = 400  # characters of a summary in `repr`


class Displayed(ABC):
    """A result with a short `repr`, and with a table where a notebook shows it."""

    @abstractmethod
    def summary(self) -> str:
        """Return what was found, in a sentence or two."""

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """Return the result as a frame."""

    def __repr__(self) -> str:
        """Return the name of the class and the summary, on one line."""
        said = " ".join(self.summary().split())
        shortened = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
        return f"<{type(self).__name__}: {shortened}>"

    def _repr_html_(self) -> str:
        """Return the summary and the first rows of the table as HTML."""
        table = self.table()
        shown = table.head(_ROWS).to_html(index=False, na_rep="", border=0)
        more = f"<p>{len(table) - _ROWS:,} more rows</p>" if len(table) > _ROWS else ""
        return f"<p>{escape(self.summary())}</p>{shown}{more}"
