"""One description of a result: plain records that the terminal and the page both draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from layerscope.render.drawing import Drawing

# Signs; a terminal without UTF-8 gets ASCII ones (see `terminal.ASCII`).
LEAST: Final = "▼"
MOST: Final = "▲"
SAME: Final = "✓"
NEAR: Final = "≈"
DIFFERENT: Final = "✗"
NONE: Final = "\N{EN DASH}"

Style = Literal["", "good", "bad", "strong", "soft", "mark", "near"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says, numbers rounded already.
        style: what it means: "good" for what is chosen or holds, "bad" for what fails, "strong" for
            labels, "soft" for secondary text, "mark" for an end that is not preferred, "near" for
            what is within noise of the chosen one.
        below: a second, secondary line.
        mark: a sign after the text; " " keeps its place free, so that numbers align.
        title: shown under the pointer on a page.
    """

    text: str = ""
    style: Style = ""
    below: str = ""
    mark: str = ""
    title: str = ""


@dataclass(frozen=True)
class Head:
    """The heading of a column.

    Attributes:
        text: its first line, or lines.
        below: a secondary line.
        left: whether the column holds words rather than numbers.
        width: characters in a terminal; None for what the cells take.
        fills: whether the column takes the room that a terminal has left.
        foot: what stands under the column in a terminal, such as the shape of its curve.
        title: shown under the pointer on a page.
    """

    text: str = ""
    below: str = ""
    left: bool = False
    width: int | None = None
    fills: bool = False
    foot: str = ""
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings.

    Attributes:
        heads: one a column.
        rows: each as long as the headings.
        title: what the table is of, where a section has several.
        notes: how to read it.
        tight: whether columns touch in a terminal, because their widths leave room.
        bare: whether the headings are left out.
    """

    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    tight: bool = False
    bare: bool = False


@dataclass(frozen=True)
class Facts:
    """Labels with values."""

    rows: tuple[tuple[str, str], ...]
    title: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notes:
    """Sentences, one a line; "bad" ones are failures."""

    lines: tuple[str, ...]
    style: Style = "soft"
    title: str = ""


@dataclass(frozen=True)
class Code:
    """Python to copy."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Chart:
    """One drawing: the id of its element on a page, what it draws, the words above it.

    A wide one takes the whole row.
    """

    id: str
    drawing: Drawing
    title: str
    caption: str = ""
    height: int | None = None
    wide: bool = False


@dataclass(frozen=True)
class Charts:
    """Drawings side by side, on a page only.

    Attributes:
        charts: the drawings.
        legend: name, color and dashes of each kind of line; a color alone is a dot. A page switches
            lines by it.
        hidden: names of the lines that a page does not show at first.
        signs: what other signs in the drawings mean, by name of the sign.
        title: what they are of.
    """

    charts: tuple[Chart, ...]
    legend: tuple[tuple[str, str, str], ...] = ()
    hidden: tuple[str, ...] = ()
    signs: tuple[tuple[str, str], ...] = ()
    title: str = ""


Part = Table | Facts | Notes | Code | Charts


@dataclass(frozen=True)
class Section:
    """Parts of a result under one heading.

    Attributes:
        title: the heading; a terminal leaves an empty one out.
        parts: in their order.
        id: of the element on a page.
        page: whether only a page shows it.
        folded: whether a page shows it on demand.
        more: whether a terminal shows it on demand (`--verbose`).
        lead: a sentence on what it shows, on a page.
    """

    title: str
    parts: tuple[Part, ...]
    id: str = ""
    page: bool = False
    folded: bool = False
    more: bool = False
    lead: str = ""


@dataclass(frozen=True)
class Answer:
    """What to do, and on what evidence.

    Attributes:
        lead: the answer in a few words.
        evidence: the sentence that says how sure it is.
        good: whether it is one to follow.
        warnings: sentences on what could change it.
        charts: what it was decided by, and where there are scores, these; on a page.
    """

    lead: str
    evidence: str = ""
    good: bool = True
    warnings: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Step:
    """What to do next: a command to paste, and what it does in a few words."""

    command: str
    what: str


@dataclass(frozen=True)
class View:
    """A result, ready to be drawn.

    Attributes:
        title: what it is of.
        detail: of the title, such as the revision.
        subject: what a page's heading names: the model and the texts.
        lines: how it was made.
        details: more on how it was made, which a terminal shows on demand.
        answers: what to do; the first thing that is shown.
        steps: what to do next.
        sections: the rest, in order.
        version: of layerscope, that made the numbers.
    """

    title: str
    sections: tuple[Section, ...] = ()
    answers: tuple[Answer, ...] = ()
    steps: tuple[Step, ...] = ()
    lines: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    detail: str = ""
    subject: str = ""
    version: str = ""

    @property
    def charts(self) -> tuple[Chart, ...]:
        """All drawings in their order."""
        decided = [chart for answer in self.answers for chart in answer.charts]
        parts = [part for section in self.sections for part in section.parts]
        return (*decided, *(c for part in parts if isinstance(part, Charts) for c in part.charts))

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of the lines that a page does not show at first."""
        parts = [part for section in self.sections for part in section.parts]
        names = [name for part in parts if isinstance(part, Charts) for name in part.hidden]
        return tuple(dict.fromkeys(names))


def section(title: str, *parts: Part | None, **options: bool | str) -> Section | None:
    """Return a section of the parts that are not empty; None where all are."""
    kept = tuple(part for part in parts if part is not None and _filled(part))
    return Section(title, kept, **options) if kept else None  # type: ignore[arg-type]


def _filled(part: Part) -> bool:
    match part:
        case Table() | Facts():
            return bool(part.rows)
        case Notes():
            return bool(part.lines)
        case Charts():
            return bool(part.charts)
        case Code():
            return bool(part.text)


def sections(*found: Section | None) -> tuple[Section, ...]:
    """Return the sections that are not empty."""
    return tuple(each for each in found if each is not None)


def heads(*words: str, left: Sequence[int] = (0,)) -> tuple[Head, ...]:
    """Return headings by their words; a second line follows a line break."""
    parts = [word.partition("\n") for word in words]
    return tuple(
        Head(text, below, left=place in left) for place, (text, _, below) in enumerate(parts)
    )
