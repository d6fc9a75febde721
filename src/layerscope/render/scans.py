"""The view of a run: the layer to use, values and scores by layer, charts, dynamics, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd

from layerscope.decisions import choose, evidence
from layerscope.decisions.choose import Choice
from layerscope.decisions.evidence import Key
from layerscope.decisions.select import Selection, decide
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.render import charts, readouts, tasks, words
from layerscope.render.drawing import Figure, Panel
from layerscope.render.measures import (
    Column,
    all_preferred,
    all_values,
    main_columns,
    preferred_tables,
    values,
)
from layerscope.render.view import (
    NONE,
    Answer,
    Cell,
    Chart,
    Charts,
    Facts,
    Head,
    Notes,
    Section,
    Table,
    View,
    section,
    sections,
)
from layerscope.results.display import in_words_of
from layerscope.results.table import TASK, Run

DASHES: Final = {"solid": "none", "dash": "7 4", "dot": "2 4"}


def run_view(
    run: Run,
    *,
    measures: Sequence[Measure] = CATALOGUE,
    preferred: Mapping[Key, Choice] | None = None,
    advice: Selection | None = None,
) -> View:
    """Return what a scan, an evaluation or both found.

    Args:
        run: the run.
        measures: the catalogue.
        preferred: the layer that each measure prefers (`choose.preferred`), if known.
        advice: the layer to use by the default rule, if known.

    Raises:
        InputError: none of the measures is in the table, and no score.
    """
    if preferred is None:
        preferred = choose.preferred(evidence.evidences(run)[0], measures)
    scored = set(run.table["level"].dropna()) == {TASK}
    if advice is None and not scored:  # scores say themselves which layer is best
        advice = decide(run, rules=())
    model = run.record.get("model", {})
    texts = run.table[run.table["level"] != TASK]["n"].dropna()
    figure = _figure(run, preferred, measures)
    answers = (
        tasks.answer(run) if advice is None else _with_charts(tasks.advice_of(advice), advice),
    )
    view = View(
        title=str(model.get("name") or run.table["model"].iloc[0]),
        detail=str(model.get("revision") or ""),
        subject=figure.title,
        lines=words.settings_lines(run.record, None if texts.empty else int(texts.max())),
        details=words.detail_lines(run.record),
        answers=tuple(answer for answer in answers if answer is not None),
        sections=_sections(run, preferred, figure, measures, advice),
        version=str(run.record.get("versions", {}).get("layerscope", "")),
    )
    return in_words_of(run.record, view)


def _sections(
    run: Run,
    preferred: Mapping[Key, Choice],
    figure: Figure,
    measures: Sequence[Measure],
    advice: Selection | None,
) -> tuple[Section, ...]:
    table = run.table
    main = main_columns(table, measures)
    panels = [(f"panel-{place}", panel) for place, panel in enumerate(figure.panels)]
    return sections(
        section("", *_failures(run.record)),
        _readouts(advice),
        section("Values by layer", values(table, main, preferred)),
        section("Scores of tasks", tasks.layers(table)),
        section("Best layers", tasks.best(table)),
        *_groups(figure, [(name, panel) for name, panel in panels if not panel.between]),
        section(
            "Which layer each measure prefers",
            *preferred_tables(preferred, table, measures),
            more=True,
            folded=True,
        ),
        section(
            "Dynamics: what each block does",
            *_dynamics(table, measures),
            _charts(figure, [(name, panel) for name, panel in panels if panel.between]),
            _heatmaps(table, measures),
            id="dynamics",
            more=True,
            folded=True,
            lead=_DYNAMICS,
        ),
        section(
            "All measures, conventions and layers",
            all_preferred(table, preferred, measures),
            all_values(table, preferred, measures),
            page=True,
            folded=True,
        ),
        section("Notes", _notes(run.record, main), more=True),
        section("How it was made", *_facts(run.record), page=True, folded=True),
    )


def _readouts(advice: Selection | None) -> Section | None:
    if advice is None or advice.readout is None:
        return None
    found = readouts.readout_section(advice.readout)
    return None if found is None else replace(found, more=True)


def _with_charts(answer: Answer, advice: Selection) -> Answer:
    """Return an answer with the curve that decided it, and the mean score where there are scores."""
    found = []
    if advice.readout is not None:
        found.append(readouts.deciding_chart(advice.readout))
    for place, panel in enumerate(charts.score_panels([advice])):
        figure = Figure(panel.title, (panel,), 0, "depth")
        caption = (
            f"{panel.unit}; dot: the layer that the rule takes, diamond: the model's own output"
        )
        found.append(Chart(f"scores-{place}", figure, "Scores of tasks", caption))
    return replace(answer, charts=tuple(found))


# --- charts -----------------------------------------------------------------------------------------


def _figure(run: Run, preferred: Mapping[Key, Choice], measures: Sequence[Measure]) -> Figure:
    """Return the curves; none where the run holds only numbers of a whole model."""
    table = run.table
    if set(table["level"].dropna()) == {"pair"} and not charts.has_curves(table, measures):
        return Figure(str(table["model"].iloc[0]), (), evidence.number_of_blocks(table))
    dim = run.record.get("model", {}).get("dim")
    return charts.describe(table, preferred, dim=dim, measures=measures, together=True)


def _groups(figure: Figure, found: Sequence[tuple[str, Panel]]) -> list[Section | None]:
    """Return panels in sections of a page: the main ones, and a folded one with the rest."""
    single = [(name, panel) for name, panel in found if not panel.scored]
    first = [(name, panel) for name, panel in single if panel.main]
    rest = [pair for pair in single if pair not in first]
    main = [(name, panel) for name, panel in first if not panel.on_spans]
    spans = [(name, panel) for name, panel in first if panel.on_spans]
    if not first:
        main, rest = rest, []
    scored = [(name, panel) for name, panel in found if panel.scored]
    return [
        section("Charts of tasks", _charts(figure, scored), page=True),
        section("Charts of measures", _charts(figure, main), page=True),
        section(
            "On parts of texts: same topic, other words",
            _charts(figure, spans),
            page=True,
            folded=True,
        ),
        section("More measures and conventions", _charts(figure, rest), page=True, folded=True),
    ]


def _charts(figure: Figure, panels: Sequence[tuple[str, Panel]]) -> Charts:
    between = any(panel.between for _, panel in panels)
    lines = {line.name: line for _, panel in panels for line in panel.lines}
    if len(lines) > 1:
        lines.pop("value", None)  # the measures without conventions explain themselves
    named = [name for name in lines if name in charts.STYLES]
    signs = [("middle", "middle layer")]
    if not between:
        signs = [("dot", "preferred layer"), ("ring", "within noise of it"),
                 ("diamond", "after the final norm"), *signs]  # fmt: skip
    return Charts(
        tuple(
            Chart(name, replace(figure, panels=(panel,)), panel.title, _caption(panel))
            for name, panel in panels
        ),
        tuple((name, line.color, DASHES[line.dash]) for name, line in lines.items()),
        tuple(sorted(named, key=list(charts.STYLES).index)[1:]),
        (*signs, ("", "bands: 95 % limits over texts")),
    )


def _caption(panel: Panel) -> str:
    levels = [
        f"{level.label}{' (dashed)' if panel.is_near(level) else ''}: {level.value:.3g}"
        for level in panel.levels
    ]
    views = [panel.views] if panel.views and not panel.on_spans else []
    return "; ".join([panel.unit, *views, *levels])


# --- dynamics ---------------------------------------------------------------------------------------

_DYNAMICS: Final = (
    "What each block does to the texts' vectors, at the layer that it leads to; measures against the "
    "final layer and of single layers at theirs. Frenet, NRS and GFMI are named by Jiang, Yang, Tam "
    "2026, of whom only the abstract could be read: these are our readings, and each name says which. "
    "Dashed: unrelated layers or random subspaces; a speed near its noise floor is no motion."
)
# Measure, its two lines of heading, decimals.
_BLOCKS: Final = (
    ("frenet_speed_k32", "speed", "k32", 3),
    ("frenet_speed_k32_floor", "floor", "noise", 3),
    ("frenet_turning_k32", "turning", "k32", 2),
    ("nrs_k10", "NRS", "k10", 3),
    ("nrs_to_final_k10", "NRS", "to final", 3),
    ("gfmi_edge", "GFMI", "edge", 3),
    ("cka_unbiased", "CKA", "unbiased", 3),
    ("block_influence", "infl.", "tokens", 3),
)

Curves = Mapping[str, Mapping[int, Any]]


def _dynamics(table: pd.DataFrame, measures: Sequence[Measure]) -> list[Table]:
    """Return a row for each block, and the numbers of the whole model."""
    rows = table[(table["level"] == "pair") & table["value"].notna()]
    found: dict[str, dict[int, Any]] = {}
    for row in rows.to_dict("records"):
        found.setdefault(str(row["metric"]), {})[int(row["layer"])] = row
    return [part for part in (_blocks(found), _scores(found, measures)) if part is not None]


def _blocks(found: Curves) -> Table | None:
    shown = [head for head in _BLOCKS if head[0] in found]
    if not shown:
        return None
    layers = sorted({layer for name, *_ in shown for layer in found[name] if layer})
    made = []
    for name, words_, below, digits in shown:
        null = _first(found, f"{name}_null")
        level = "" if null is None else words.number(null, digits)
        values = [_value(found, name, k) for k in layers]
        shape = words.sparkline([value for value in values if value is not None])
        made.append(Head(words_, below, width=8, foot=f"{level}\n{shape}"))
    lines = [
        (
            Cell(str(k), "strong"),
            *(Cell(words.number(_value(found, name, k), digits)) for name, _, _, digits in shown),
        )
        for k in words.evenly(layers)
    ]
    note = "null: unrelated layers or random subspaces; a speed near its floor is no motion"
    block = Head("block", width=5, foot="null\nshape")
    return Table((block, *made), tuple(lines), notes=(note,), tight=True)


def _scores(found: Curves, measures: Sequence[Measure]) -> Table | None:
    """Return the numbers of the whole model, each with what it would be without structure."""
    lines = []
    for measure in measures:
        value = _first(found, measure.name) if measure.place == "model" else None
        if value is None:
            continue
        digits = min(3, words.decimals([value]))
        row = next(iter(found[measure.name].values()))
        ends = (_first(found, f"{measure.name}_{kind}") for kind in ("null", "floor", "bound"))
        lines.append(
            (
                Cell(f"{measure.title[0].lower()}{measure.title[1:]}", title=measure.name),
                Cell(words.number(value, digits), below=words.limits(row["low"], row["high"], 3)),
                *(Cell("" if end is None else words.number(end, digits)) for end in ends),
            )
        )
    made = (Head("whole model", left=True), Head(), Head("null"), Head("floor"), Head("bound"))
    notes = ("below a value: its 95 % limits",) if any(row[1].below for row in lines) else ()
    return Table(made, tuple(lines), notes=notes) if lines else None


def _value(found: Curves, metric: str, layer: int) -> float | None:
    row = found[metric].get(layer)
    return None if row is None else float(row["value"])


def _first(found: Curves, metric: str) -> float | None:
    return next((float(row["value"]) for row in found.get(metric, {}).values()), None)


def _heatmaps(table: pd.DataFrame, measures: Sequence[Measure]) -> Charts:
    return Charts(
        tuple(
            Chart(f"heat-{index}", heat, heat.title, heat.unit)
            for index, heat in enumerate(charts.heatmaps(table, measures))
        ),
        title="Every two layers",
    )


# --- notes and the record ---------------------------------------------------------------------------


def _notes(record: Mapping[str, Any], columns: Sequence[Column]) -> Notes:
    """Return what is undefined in the tables shown and why, then what the run says of itself."""
    shown = {item.measure.name: item.perturbation for item in columns}
    names = {item.key for item in columns}
    entries = [
        entry
        for entry in record.get("undefined", ())
        # Records of old did not say the only kind of views.
        if (entry.get("metric"), entry.get("convention") or "",
            str(entry.get("perturbation") or shown.get(str(entry.get("metric")), ""))) in names
    ]  # fmt: skip
    lines = []
    for metric, _, layers, reason in words.undefined_reasons({"undefined": entries}):
        where = f"layer {layers}" if layers else "every layer"
        lines.append(f"{NONE} {metric} at {where}: {reason}")
    lines += [f"! {note}" for note in record.get("notes", ())]
    lines += tasks.notes(record)
    return Notes(tuple(lines))


def _failures(record: Mapping[str, Any]) -> list[Notes]:
    failed = record.get("failed_tasks", ())
    return [Notes(tuple(f"! {each['task']} failed: {each['reason']}" for each in failed), "bad")]


def _facts(record: Mapping[str, Any]) -> list[Facts]:
    groups = words.record_facts(record)
    empty = Facts((("record", "The run came without a record."),))
    return [Facts(facts, title=group) for group, facts in groups] or [empty]
