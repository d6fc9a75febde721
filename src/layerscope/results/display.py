"""How a result shows itself: a few lines in Python, a sentence and a table in a notebook."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from html import escape
from typing import Any, Final, TypeVar

import pandas as pd

_ROWS = 20  # of a table in a notebook
_LONGEST = 400  # characters of a summary in `repr`


T = TypeVar("T")
# The word by itself: in a sentence, not in a path or in the name of a model.
_TEXT: Final = re.compile(r"(?<![\w/.-])(?:(a|A) )?(t|T)ext(s?)(?![\w/-]|\.\w)")
IMAGES: Final = "images"


def in_words_of(record: Mapping[str, Any], found: T) -> T:
    """Return what is said of a run in the words for its data: images are not called texts.

    >>> in_words_of({"data": {"kind": "images"}}, "A text of these texts.")
    'An image of these images.'

    Args:
        record: of the run.
        found: a string, or a dataclass or tuple that holds strings.
    """
    of_images = any(record.get(part, {}).get("kind") == IMAGES for part in ("data", "evaluation"))
    return _reworded(found) if of_images else found


def _reworded(found: Any) -> Any:
    if isinstance(found, str):
        return _TEXT.sub(_image, found) if type(found) is str else found
    if isinstance(found, tuple) and type(found) is tuple:
        return tuple(map(_reworded, found))
    if is_dataclass(found) and not isinstance(found, type):
        named = {part.name: getattr(found, part.name) for part in fields(found) if part.init}
        return replace(found, **{name: _reworded(value) for name, value in named.items()})
    return found


def _image(word: re.Match[str]) -> str:
    article, first, plural = word.groups()
    noun = ("Image" if first == "T" else "image") + plural
    return f"{article}n {noun}" if article else noun


def in_percent(share: float) -> str:
    """Return a share in whole percent; only nothing is 0 %, and only everything 100 %.

    >>> in_percent(0.5), in_percent(0.999), in_percent(1.0), in_percent(0.001)
    ('50 %', '> 99 %', '100 %', '< 1 %')
    """
    if 0 < share < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


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
