"""The readouts that were compared: what would be served, how well it retrieves crops, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from layerscope.decisions.labels import LabelChoice
from layerscope.decisions.readouts import ReadoutChoice, ReadoutRow
from layerscope.render import words
from layerscope.render.drawing import Figure, Line, Panel, Point
from layerscope.render.view import NONE, Cell, Chart, Section, Style, Table, heads, section
from layerscope.results.readouts import Candidate

_LAYERS: Final = ("#2a7ab9", "solid")
_CHOSEN: Final = ("#d55e00", "solid")
_BEST: Final = 5  # of the best candidates are shown besides the chosen one and the baselines


_SPEED: Final = (
    " Speed: typical texts of this scan in one batch on this machine, every block counted alike."
)


def readout_section(found: ReadoutChoice) -> Section | None:
    """Return the table of the chosen readout, the baselines and the best candidates."""
    table = found.table
    named = {table.candidates[place].name: name for name, place in table.baselines.items()}
    ranked = list(found.rows)
    kept = {*named, *table.asked}
    shown = [row for row in ranked if row is found.chosen or row.candidate.name in kept]
    shown += [row for row in ranked if row not in shown][:_BEST]
    named |= {name: named.get(name, "yours") for name in table.asked}
    rows = tuple(_row(row, found, named) for row in sorted(shown, key=ranked.index))
    first, second = table.galleries
    return section(
        "Readouts",
        Table(
            heads(
                "readout",
                "finds the\nother crop",
                "gain over own\nat least",
                "blocks\nsize",
                *(["texts\na second"] if table.costs else []),
                left=(0,),
            ),
            rows,
            notes=(
                f"Mean reciprocal rank among {first if first == second else f'{first} and {second}'} "
                f"{table.crops}, on texts that the map was not fitted on; a guess scores "
                f"{table.chance:.3f}. {len(ranked)} readouts were compared; the limit of the gain holds "
                f"for all of them together.{_SPEED if table.costs else ''}",
            ),
        ),
        id="readouts",
    )


def deciding_chart(found: ReadoutChoice) -> Chart:
    """Return the score of each layer as it is, with the chosen readout and the model's own output."""
    table, chosen = found.table, found.chosen.candidate
    own = table.candidates[table.own]
    raw = [
        each
        for each in table.candidates
        if each.readout is not None and each.name.isdigit() and each is not own
    ]
    points = tuple(_point(each, table.blocks) for each in sorted(raw, key=lambda c: c.highest))
    top = max(raw, key=lambda each: each.score, default=None)
    best = None if top is None else top.highest
    lines = [Line("layers as they are", "", points, _point(own, table.blocks), best, (), *_LAYERS)]
    if chosen is not own and chosen not in raw:
        place = _point(chosen, table.blocks)
        lines.append(Line("chosen", "", (place,), None, place.layer, (), *_CHOSEN))
    panel = Panel("retrieval", "What it was decided by", "", tuple(lines), (), main=True)
    middle = found.table.baselines.get("middle")
    named = [
        ("chosen", chosen),
        *([("own output (diamond)", own)] if chosen is not own else []),
        *([("best layer as it is (dashed)", top)] if top is not None and top is not chosen else []),
        *([("middle (dotted)", table.candidates[middle])] if middle is not None else []),
    ]
    said = ", ".join(f"{word} '{each.name}' {each.score:.3f}" for word, each in named)
    figure = Figure(panel.title, (panel,), table.blocks)
    caption = f"Mean reciprocal rank of a text's other crop, by layer: {said}"
    return Chart("deciding", figure, panel.title, caption)


def _point(each: Candidate, blocks: int) -> Point:
    depth = each.highest / max(1, blocks)
    return Point(each.highest, depth, each.score, each.low, each.high, None)


def _row(row: ReadoutRow, found: ReadoutChoice, named: Mapping[str, str]) -> tuple[Cell, ...]:
    candidate, costs, blocks = row.candidate, found.table.costs, found.table.blocks
    style: Style = "good" if row is found.chosen else "near" if row.within_noise else ""
    word = "the model's own output" if row is found.own else named.get(candidate.name, "")
    gain = NONE if row is found.own else f"{row.gain:+.3f}"
    low = "" if row is found.own or row.gain_low != row.gain_low else f"{row.gain_low:+.3f}"
    return (
        Cell(candidate.name, style, below=word),
        Cell(f"{candidate.score:.3f}", style, below=f"{candidate.low:.3f} to {candidate.high:.3f}"),
        Cell(gain, style, below=low),
        Cell(
            f"{candidate.highest} of {blocks}",
            style,
            below=words.size(costs.size(candidate)) if costs else "",
        ),
        *([Cell(words.rough(costs.speed(candidate)), style)] if costs else []),
    )


def label_section(found: LabelChoice) -> Section | None:
    """Return the table of readouts by labels: those weighed, the baselines and the best."""
    table = found.table
    candidates = table.candidates
    named = {candidates[place].name: name for name, place in table.baselines.items()}
    named |= {found.without.name: "chosen without labels"}
    named |= {candidates[table.own].name: "the model's own output"}
    ranked = sorted(candidates, key=lambda each: -each.score)
    shown = [each for each in ranked if each.name in {*named, str(found.readout)}]
    shown += [each for each in ranked if each not in shown][:_BEST]
    rows = tuple(
        (
            Cell(each.name, _style(each.name, found), below=named.get(each.name, "")),
            Cell(f"{each.score:.3f}", below=f"{each.low:.3f} to {each.high:.3f}"),
            Cell(f"{each.highest} of {table.blocks}"),
        )
        for each in sorted(shown, key=ranked.index)
    )
    note = (
        f"Of {len(table.contributions[0])} {table.crops}: the share that a ridge classifier gets right "
        "which was trained on the other rows, or for pairs the rank correlation; each row's limits are "
        "its own, and the best of many looks better than it is. A guess that reads no text scores "
        f"{table.chance:.3f}."
    )
    return section(
        "Readouts by labels",
        Table(heads("readout", "score", "blocks", left=(0,)), rows, notes=(note,)),
        id="labels",
    )


def _style(name: str, found: LabelChoice) -> Style:
    return "good" if name == str(found.readout) else ""
