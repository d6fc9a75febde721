"""Several runs in one table and one figure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import layerscope
from commands import run
from fake_runs import fake_run
from layerscope.errors import InputError
from layerscope.render import matplotlib, plotly
from layerscope.render.overlay import overlay
from layerscope.results.runs import NamedRun, named_apart, one_table
from layerscope.results.table import Run, save_run
from layerscope.settings import PlotConfig


def made(model: str = "org/one", *, blocks: int = 6, seed: int = 0, **columns: object) -> Run:
    table, contributions, record = fake_run(blocks=blocks, model=model, seed=seed)
    return Run(table.assign(seed=0, **columns).astype({"seed": "Int64"}), contributions, record)


def drawn(runs: list[Run], **settings: object):
    return overlay(
        one_table([NamedRun.of(str(n), each) for n, each in enumerate(runs)]),
        PlotConfig(**settings),
    )


def lines(figure, metric: str = "prompt_entropy"):
    return {
        line.name: line for panel in figure.panels if panel.metric == metric for line in panel.lines
    }


THREE = [made("org/one", blocks=6), made("org/two", blocks=8, seed=1), made("x/two", seed=2)]


def test_each_model_is_a_line_of_its_own_numbers():
    figure = drawn(THREE)
    found = lines(figure)
    assert list(found) == ["org/one", "org/two", "x/two"]
    own = THREE[1].table
    rows = own[(own["metric"] == "prompt_entropy") & (own["convention"] == "normalized")]
    blocks, normed = rows[rows["stage"] == "block"], rows[rows["stage"] == "final_norm"]
    line = found["org/two"]
    assert [point.value for point in line.points] == blocks["value"].tolist()
    assert [point.low for point in line.points] == blocks["low"].tolist()
    assert [figure.x(point) for point in line.points] == blocks["depth"].tolist()
    assert line.final.value == normed["value"].item()
    assert len({line.color for line in found.values()}) == 3
    assert {panel.metric for panel in figure.panels} >= {"prompt_entropy", "dime", "lidar"}
    assert "rankme" not in {panel.metric for panel in figure.panels}, "none of the paper's seven"


def test_layers_of_models_of_several_depths_have_no_depth():
    mixed, one = drawn(THREE, x="layer"), drawn(THREE[:1], x="layer")
    assert (mixed.blocks, mixed.mixed, mixed.middle, one.middle) == (8, True, None, 3.0)
    assert mixed.x_title == "layer"
    assert mixed.ticks[1][-1] == "8"
    assert one.ticks[1][-1] == "6\n1.00"


def test_the_convention_to_decide_by_is_drawn_unless_asked():
    assert {panel.title for panel in drawn(THREE, metric="lidar").panels} == {"LiDAR (normalized)"}
    both = drawn(THREE, metric="lidar", convention="all")
    assert [panel.title for panel in both.panels] == ["LiDAR (normalized)", "LiDAR (paper)"]
    (paper,) = drawn(THREE, metric="lidar", convention="paper").panels
    assert paper.title == "LiDAR (paper)"
    with pytest.raises(InputError, match="hold no value to draw in that convention and at those"):
        drawn(THREE, metric="dime", convention="paper")


STEPS = [0, 1, 8, 64, 512, 4000, 143000]
CHECKPOINTS = [made(revision=f"step{step}", seed=step) for step in STEPS]


def test_revisions_stand_in_the_order_of_their_steps_in_colors_of_an_order():
    shuffled = [CHECKPOINTS[place] for place in (3, 0, 6, 1, 5, 2, 4)]
    found = lines(drawn(shuffled, by="revision"))
    assert list(found) == [f"step{step}" for step in STEPS]
    assert all(line.listed for line in found.values())
    many = [made(revision=f"step{step}", seed=step) for step in range(14)]
    named = [line for line in lines(drawn(many, by="revision")).values() if line.listed]
    assert 5 <= len(named) <= 10
    assert (named[0].name, named[-1].name) == ("step0", "step13")


def test_kinds_of_perturbations_have_dashes_and_their_amounts_colors():
    names = ["none", "random p=0.5", "repeat p=0.1", "repeat p=0.5", "repeat p=1"]
    table = pd.concat(
        [made().table.head(12).assign(perturbation=name, run="x") for name in names[::-1]]
    )
    (panel,) = overlay(table, PlotConfig(by="perturbation")).panels
    assert [line.name for line in panel.lines] == names
    assert [line.dash for line in panel.lines] == ["solid", "dash", "dot", "dot", "dot"]
    assert len({line.color for line in panel.lines[2:]}) == 3


def test_steps_run_along_x_with_a_line_a_layer():
    figure = drawn(CHECKPOINTS, x="step", metric="prompt_entropy", layers=(0, 3))
    found = lines(figure)
    assert list(found) == ["layer 0", "layer 3"]
    assert [point.at for point in found["layer 3"].points] == STEPS
    x = [figure.x(point) for point in found["layer 3"].points]
    np.testing.assert_allclose(x, np.log10(np.array(STEPS) + 1))
    assert figure.ticks[1] == ["0", "1", "8", "64", "512", "4,000", "143,000"]
    more = drawn([*CHECKPOINTS, made(revision="step2"), made(revision="step4")], x="step")
    assert more.ticks[1] == ["0", "1", "10", "100", "1,000", "10,000", "100,000"]
    assert figure.x_range[0] < 0
    assert (figure.x_title, figure.middle) == ("training step", None)
    bands = plotly.bands_of(figure, found["layer 3"])
    assert len(bands) == 1


def test_steps_are_read_from_folders_of_checkpoints_too():
    few = [made(f"run/checkpoint-{step}", seed=step) for step in (100, 200, 300)]
    figure = drawn(few, x="step", metric="prompt_entropy")
    assert [point.at for point in lines(figure)["layer 0"].points] == [100, 200, 300]
    assert figure.ticks == ([100, 150, 200, 250, 300], ["100", "150", "200", "250", "300"])
    assert figure.title == "Layer over step of run on letters.txt"
    numbers = [made(revision=str(step)) for step in (5, 10)]
    assert len(lines(drawn(numbers, x="step"))["layer 0"].points) == 2
    with pytest.raises(InputError, match="expected a revision or a model named like step1000 or"):
        drawn(THREE, x="step")


def test_positions_are_read_from_perturbations():
    few = [made(perturbation=f"length {count} tokens", seed=count) for count in (8, 16, 32)]
    figure = drawn(few, x="position", metric="prompt_entropy", layers=(2,))
    assert [point.at for point in lines(figure)["layer 2"].points] == [8, 16, 32]
    assert figure.x_title == "token position"
    with pytest.raises(InputError, match="'length 64 tokens' in every run, got the perturbation"):
        drawn(THREE, x="position")


def test_of_many_layers_five_are_drawn_along_steps():
    deep = [made(revision=f"step{step}", blocks=24, seed=step) for step in (1, 2)]
    found = lines(drawn(deep, x="step"))
    assert list(found) == [f"layer {layer}" for layer in (0, 6, 12, 18, 24)]


def test_what_differs_besides_gets_panels():
    runs = [made(model, data=data) for model in ("a", "b") for data in ("x.txt", "y.txt")]
    figure = drawn(runs, metric="curvature")
    titles = [panel.title for panel in figure.panels]
    assert titles == ["Curvature (normalized, x.txt)", "Curvature (normalized, y.txt)"]
    assert [line.name for line in figure.panels[0].lines] == ["a", "b"]
    (both,) = drawn(runs, metric="curvature", by=["model", "data"]).panels
    assert [line.name for line in both.lines] == ["a, x.txt", "a, y.txt", "b, x.txt", "b, y.txt"]
    assert [line.dash for line in both.lines] == ["solid", "dash"] * 2
    assert both.lines[0].color == both.lines[1].color != both.lines[2].color
    many = [made(data=f"{number}.txt") for number in range(9)]
    with pytest.raises(
        InputError, match="expected at most 24 panels, got 63, one for each measure and"
    ):
        drawn(many)


def test_seeds_are_a_mean_with_its_range():
    runs = [made(seed=seed) for seed in range(3)]
    for number, each in enumerate(runs):
        each.table["seed"] = number
    (line,) = lines(drawn(runs, metric="prompt_entropy")).values()
    values = [
        each.table.query("metric == 'prompt_entropy' and convention == 'normalized'")["value"].iloc[
            0
        ]
        for each in runs
    ]
    point = line.points[0]
    assert (point.low, point.high) == (min(values), max(values))
    assert point.value == pytest.approx(np.mean(values))
    assert len(lines(drawn(runs, by="seed"))) == 3


def test_two_values_of_one_thing_are_refused_by_the_names_of_their_runs():
    with pytest.raises(
        InputError, match="expected one value of .* got several, of '0' and '1'; draw by"
    ):
        drawn([made(), made(seed=4)])
    assert list(lines(drawn([made(), made(seed=4)], by="run"))) == ["0", "1"]


def test_an_unknown_measure_offers_those_of_the_runs():
    with pytest.raises(
        InputError, match="unknown measure of these runs 'promt_entropy'; did you mean"
    ):
        drawn(THREE, metric="promt_entropy")
    scores = made().table.head(1).assign(metric="mteb/STS/cos", level="task", convention=None)
    figure = drawn([made(), Run(scores, made().contributions, {})], metric=["STS"])
    assert [panel.title for panel in figure.panels] == ["STS/cos"]
    with pytest.raises(
        InputError, match="expected runs with values at these layers, got none to draw"
    ):
        drawn(THREE, layers=(99,))


def test_a_stage_is_a_line_where_asked():
    stages = made()
    attention = stages.table[stages.table["stage"] == "block"].assign(stage="attn", value=1.0)
    both = Run(pd.concat([stages.table, attention]), stages.contributions, stages.record)
    assert len(lines(drawn([both]))) == 1
    found = lines(drawn([both], by="stage", metric="prompt_entropy"))
    assert list(found) == ["block", "attn"]
    assert {point.value for point in found["attn"].points} == {1.0}


def test_figures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    figure = drawn(CHECKPOINTS, by="revision", metric=["prompt_entropy", "dime"])
    canvas = matplotlib.to_matplotlib(figure)
    (legend,) = canvas.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said[:2] == ["step0", "step1"]
    assert "preferred layer" not in said
    canvas.draw_without_rendering()
    low = min(axes.get_tightbbox().y0 for axes in canvas.axes)
    assert legend.get_window_extent().y1 <= low, "the legend covers no line"
    found = plotly.to_plotly(drawn(CHECKPOINTS, x="step", metric="dime"))
    assert found.layout.xaxis.title.text == "training step"


# --- concat and the command ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    for name, each in zip(("a", "b", "c"), THREE, strict=True):
        save_run(each, root / name)
    return [root / name for name in ("a", "b", "c")]


def test_runs_together(folders):
    found = layerscope.concat(folders)
    assert found.table()["run"].unique().tolist() == ["a", "b", "c"]
    assert len(found.table()) == sum(len(each.table) for each in THREE)
    assert set(found.contributions()["run"]) == {"a", "b", "c"}
    assert repr(found).startswith("<Runs: 3 runs, 3 models, 1 data set, 8 measures")
    assert len(found.plot(metric="lidar").data) >= 3
    again = layerscope.concat([found, layerscope.load(folders[0]), THREE[0]])
    parent = folders[0].parent.name
    names = ["a", "b", "c", f"{parent}/a", "org/one"]
    assert again.table()["run"].unique().tolist() == names
    with pytest.raises(InputError, match="expected at least one finished run to put together"):
        layerscope.concat([])


def test_names_of_runs_are_short_and_apart():
    assert named_apart(["runs/a/x", "runs/b/x/", "y"]) == ["a/x", "b/x", "y"]


def test_the_command_draws_and_says_where(folders, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    monkeypatch.chdir(tmp_path)
    command = partial(run, monkeypatch, capsys)
    finished = command("plot", *folders, "--metric", "lidar", "--by", "run", "--out", "f.png")
    assert finished.code == 0
    assert finished.out.splitlines()[-1] == f"Figure: {(tmp_path / 'f.png').as_uri()}"
    assert Path("f.png").read_bytes().startswith(b"\x89PNG")
    wrong = command("plot", *folders, "--out", "f.gif")
    assert (wrong.code, "expected a file ending in .svg or .png or .pdf" in wrong.err) == (2, True)
    assert command("plot", *folders, "--x", "steps").code == 2


# --- a page of several runs -----------------------------------------------------------------------


def test_a_page_has_a_row_a_run_and_a_line_a_run_in_each_chart():
    view = layerscope.concat(THREE).view()
    runs, measures = view.sections
    assert [row[0].text for row in runs.parts[0].rows] == ["org/one", "org/two", "x/two"]
    (charts,) = measures.parts
    assert [name for name, *_ in charts.legend] == ["org/one", "org/two", "x/two"]
    assert {"Prompt entropy", "DiME"} <= {each.title.partition(" (")[0] for each in charts.charts}
    own = THREE[1].table
    rows = own[(own["metric"] == "prompt_entropy") & (own["convention"] == "normalized")]
    last = rows[rows["stage"] == "final_norm"]["value"].item()
    place = [head.text for head in runs.parts[0].heads].index("Prompt entropy")
    assert float(runs.parts[0].rows[1][place].text) == pytest.approx(last, abs=5e-4)


def test_runs_of_one_model_are_told_apart_by_what_differs():
    steps = [made("org/one", seed=n, revision=f"step{n}") for n in (1, 10, 2)]
    runs, measures = layerscope.concat(steps).view().sections
    assert "revision" in [head.text for head in runs.parts[0].heads]
    assert "model" not in [head.text for head in runs.parts[0].heads]
    assert [name for name, *_ in measures.parts[0].legend] == ["step1", "step2", "step10"]
    same = layerscope.concat([made(), made()]).view().sections[1]
    assert len(same.parts[0].legend) == 2


def test_scores_of_runs_are_in_a_chart_and_a_column_times_100():
    scored = []
    for number, each in enumerate(THREE[:2]):
        rows = each.table[each.table["metric"] == "rankme"].assign(
            metric="mteb/STS17/cosine", level="task", value=0.5 + number / 10
        )
        scored.append(replace(each, table=pd.concat([each.table, rows], ignore_index=True)))
    runs, _, scores = layerscope.concat(scored).view().sections
    place = [head.text for head in runs.parts[0].heads].index("score")
    assert [row[place].text for row in runs.parts[0].rows] == ["50.00", "60.00"]
    assert [chart.title for chart in scores.parts[0].charts] == ["STS17/cosine"]


def test_the_command_writes_a_page(folders, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = partial(run, monkeypatch, capsys)
    finished = command("report", *folders, "--out", "page.html")
    assert finished.code == 0, finished.err
    assert finished.out.rstrip().endswith((Path.cwd() / "page.html").as_uri())
    assert "runs side by side" in Path("page.html").read_text()
    again = command("report", *folders, "--out", "page.html")
    assert again.code == 2
    assert "exists; give --overwrite" in again.err
    assert command("report", *folders, "--out", "page.html", "--overwrite", "--json").code == 0
