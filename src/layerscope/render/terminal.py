"""A view drawn in a terminal with rich, in UTF-8 signs or, where it cannot show them, in ASCII."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from layerscope.render.view import (
    NONE,
    Answer,
    Cell,
    Charts,
    Code,
    Facts,
    Head,
    Notes,
    Part,
    Section,
    Step,
    Style,
    Table,
    View,
)

ASCII: Final = str.maketrans(f"▼▲{NONE}✓≈✗▁▂▃▄▅▆▇█", "v^-=~x_.-=+*%#")
_STYLES: Final[dict[Style, str]] = {
    "": "",
    "good": "bold green",
    "bad": "red",
    "strong": "bold",
    "soft": "dim",
    "mark": "yellow",
    "near": "",
}

Write = Callable[[str], str]


@dataclass(frozen=True)
class Drawn:
    """A view, drawn once the terminal's encoding is known."""

    view: View
    verbose: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the drawing in signs that this terminal can show."""
        yield from _view(self.view, self.verbose, _ascii if options.ascii_only else str)


def drawn(view: View, *, verbose: bool = False) -> Drawn:
    """Return a view as a rich console prints it, in 80 columns or more.

    Commands to paste are not broken into lines, so a console must not crop what it prints.

    Args:
        view: what to draw.
        verbose: whether to draw the sections that are shown on demand.
    """
    return Drawn(view, verbose)


def _ascii(words: str) -> str:
    return words.translate(ASCII).encode("ascii", "replace").decode()


def _view(view: View, verbose: bool, write: Write) -> list[RenderableType]:
    blocks: list[list[RenderableType]] = [
        [_indented(_answer(answer, write))] for answer in view.answers
    ]
    blocks.append([*(_step(step, write) for step in view.steps)])
    lines = (*view.lines, *(view.details if verbose else ()))
    if view.title or lines:
        title = Text(write(view.title), "bold")
        title.append(write(f" @ {view.detail}") if view.detail else "", "not bold dim")
        blocks.append([_indented(Group(title, *(Text(write(line)) for line in lines)))])
    for section in view.sections:
        if section.page or (section.more and not verbose):
            continue
        if (drawing := _section(section, write)) is not None:
            blocks.append([_indented(drawing)])
    if not verbose and (folded := _folded(view)):
        blocks.append([_indented(Text(write(folded), "dim"))])
    filled = [block for block in blocks if block]
    spaced: list[RenderableType] = []
    for place, block in enumerate(filled):
        spaced += [Text(""), *block] if place else block
    return spaced


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 1))


def _answer(answer: Answer, write: Write) -> RenderableType:
    lead = Text(write(answer.lead), "bold green" if answer.good else "bold red")
    lines = [answer.evidence] if answer.evidence else []
    return Group(lead, *(Text(write(line)) for line in lines),
                 *(Text(write(f"! {line}"), "yellow") for line in answer.warnings))  # fmt: skip


def _step(step: Step, write: Write) -> Text:
    """Return a command on one line, however long it is, so that it can be pasted."""
    command = Text(write(f" {step.command}"), "cyan", no_wrap=True, overflow="ignore")
    return command.append(write(f"  # {step.what}"), "dim")


def _folded(view: View) -> str:
    """Return a line on what is shown on demand."""
    titles = []
    for section in view.sections:
        if section.more:
            notes = sum(len(part.lines) for part in section.parts if isinstance(part, Notes))
            title = section.title[:1].lower() + section.title[1:]
            titles.append(f"{notes} note{'s' * (notes > 1)}" if notes else title)
    return f"--verbose also shows: {'; '.join(titles)}" if titles else ""


def _section(section: Section, write: Write) -> RenderableType | None:
    groups = [drawn for part in section.parts if (drawn := _part(part, write))]
    if not groups:
        return None
    lines: list[RenderableType] = [Text(write(section.title), "bold")] if section.title else []
    for index, (part, *more) in enumerate(groups):
        lines += [Text(""), part, *more] if index else [part, *more]
    return Group(*lines)


def _part(part: Part, write: Write) -> list[RenderableType]:
    title = [Text(write(part.title), "bold")] if part.title else []
    match part:
        case Table():
            notes = [Text(write(note), "dim") for note in part.notes]
            return [*title, _table(part, write), *notes]
        case Facts():
            grid = Grid.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(overflow="fold")
            for label, value in part.rows:
                grid.add_row(write(label), Text(write(value)))
            return [*title, grid, *(Text(write(note), "dim") for note in part.notes)]
        case Notes():
            return [*title, *(Text(write(line), _STYLES[part.style]) for line in part.lines)]
        case Code():
            return [Text(write(part.text), "cyan", overflow="fold", no_wrap=False)]
        case Charts():
            return []


def _table(table: Table, write: Write) -> Grid:
    grid = Grid(
        box=box.SIMPLE_HEAD,
        padding=0 if table.tight else (0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_header=not table.bare,
        show_footer=any(head.foot for head in table.heads),
        expand=any(head.fills for head in table.heads),
    )
    lines = max((len(_lines(head)) for head in table.heads), default=1)
    for head in table.heads:
        grid.add_column(
            _head(head, lines, write),
            _foot(head.foot, write),
            justify="left" if head.left else "right",
            overflow="fold",
            width=head.width,
            ratio=1 if head.fills else None,
            min_width=10 if head.fills else None,
        )
    for row in table.rows:
        grid.add_row(*(_cell(cell, write) for cell in row))
    return grid


def _lines(head: Head) -> list[str]:
    return [*head.text.split("\n"), *([head.below] if head.below else [])]


def _head(head: Head, lines: int, write: Write) -> Text:
    """Return a heading that ends at the last of some lines."""
    space = "\n" * (lines - len(_lines(head)))
    text = Text(write(f"{space}{head.text}"))
    return text.append(write(f"\n{head.below}"), "dim") if head.below else text


def _foot(foot: str, write: Write) -> Text:
    *above, last = foot.split("\n")
    text = Text(write("".join(f"{line}\n" for line in above)), "dim")
    return text.append(write(last), "dim" if last.isascii() else "cyan")


def _cell(cell: Cell, write: Write) -> Text:
    text = Text(write(f"{cell.text}{cell.mark}"), _STYLES[cell.style])
    return text.append(write(f"\n{cell.below}"), "dim not bold default") if cell.below else text
