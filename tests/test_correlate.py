"""`layerscope correlate`: what people and machines get of it, from Python and the shell."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from functools import partial

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import layerscope
from commands import run as run_command
from layerscope import api
from layerscope.decisions.correlate import correlate
from layerscope.decisions.curves import STATISTICS
from layerscope.errors import InputError
from layerscope.render import correlations, plotly, terminal
from layerscope.render import page as page_module
from layerscope.results.table import CONTRIBUTION_COLUMNS, Run, conform, save_run

TASKS = ("Banking77Classification", "STSBenchmark", "STS17")
HOSTILE = "<script>document.title='taken'</script>"


def made_up(model="example/one", blocks=9, seed=0, task=TASKS):
    """Two measures in two conventions on letters.txt, the first one close to the scores, as a table."""
    rng = np.random.default_rng(seed)
    depth = np.arange(blocks + 1) / blocks
    hump = 4 * depth * (1 - depth)
    curves = {
        ("dataset", "dataset_entropy", "normalized"): -hump + rng.normal(size=blocks + 1) / 8,
        ("dataset", "dataset_entropy", "paper"): 3 - hump + rng.normal(size=blocks + 1) / 2,
        ("view", "infonce", "normalized"): rng.normal(size=blocks + 1).cumsum(),
        ("dataset", "rankme", ""): np.exp(-depth),
    }
    rows = [
        (level, "letters.txt", metric, convention, value) for (level, metric, convention), value
        in curves.items()
    ]  # fmt: skip
    rows += [
        ("task", name, f"mteb/{name}/main", "", hump / 2 + rng.normal(size=blocks + 1) / 10)
        for name in task
    ]
    frames = [
        pd.DataFrame({"level": level, "data": data, "metric": metric, "convention": convention,
                      "layer": range(blocks + 1), "depth": depth, "value": value})
        for level, data, metric, convention, value in rows
    ]  # fmt: skip
    whole = pd.concat(frames, ignore_index=True)
    return conform(whole.assign(model=model, revision="main", stage="block", perturbation="none"))


@pytest.fixture(scope="module")
def one():
    return correlate([made_up()], resamples=500)


@pytest.fixture(scope="module")
def three():
    tables = [made_up(f"example/{n}", 6 + 3 * n, seed=n) for n in range(3)]
    return correlate(tables, resamples=500)


def shown(findings, encoding="utf-8", width=80):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    console = Console(file=stream, width=width, color_system=None, legacy_windows=False)
    console.print(terminal.drawn(correlations.correlation_view(findings), verbose=True))
    stream.flush()
    return raw.getvalue().decode(encoding)


# --- terminal ---


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("models", [1, 4])
def test_the_table_fits_80_columns_and_any_encoding(models, encoding):
    tables = [made_up(f"größe/模型-{n}", seed=n) for n in range(models)]
    text = shown(correlate(tables, resamples=100, measures=["all"]), encoding)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_the_table_says_what_the_summary_says(one):
    text = shown(one)
    summary = one.summaries[0]
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["dataset_entropy"]][:1]
    cells = re.sub(r"[\[\],]", " ", line).split()[1:]
    numbers = [
        summary.dcor, summary.bias_corrected, summary.spearman, summary.low, summary.high,
        summary.kendall, summary.partial, summary.p_shift, summary.p_walk, summary.p_holm,
    ]  # fmt: skip
    assert [float(cell) for cell in cells] == pytest.approx(numbers, abs=0.0051)
    answer, title = text.split("\n\n")[0], " example/one @ main on 3 tasks, over 10 layers "
    assert title not in answer
    assert title in text
    assert text.index("(normalized)") < text.index("(paper)")
    for note in one.notes:
        assert note.split()[0] in text


def test_several_models_are_counted_and_fewer_pairs_told(three):
    text = shown(three)
    assert "3 models on 3 tasks (9 pairs), over 7 to 13 layers" in text
    assert "n = " not in text
    part = made_up()
    part = part[~((part["metric"] == "infonce") & (part["model"] == "example/0"))]
    tables = [made_up("example/1"), part[part["metric"] != "infonce"]]
    assert "n = 3" in shown(correlate(tables, resamples=50))


def test_a_coefficient_without_value_is_a_dash(one):
    assert "rankme" not in shown(one)
    falling = correlate([made_up()], measures=["rankme"], resamples=50)
    assert falling.summaries[0].partial is None
    assert " \N{EN DASH} " in shown(falling)
    assert " - " in shown(falling, "ascii")


def test_many_measures_are_cut_and_said_to_be():
    table = made_up()
    entropy = table[(table["metric"] == "infonce")]
    rng = np.random.default_rng(0)
    more = [entropy.assign(metric=f"mine{n}", value=rng.normal(size=10)) for n in range(45)]
    text = shown(correlate([table, *more], resamples=20))
    assert text.count("mine") == 40 - 3
    assert "8 more measures: --json, or table() in Python, has all" in text


# --- plots ---


def test_the_matrix_holds_the_findings_matrix(three):
    for statistic in STATISTICS:
        matrix = correlations.heatmap(three, statistic)
        expected = three.matrix(statistic)
        assert matrix.columns == tuple(expected.index)
        assert matrix.rows == tuple(expected.columns)
        assert np.array(matrix.values, dtype=float) == pytest.approx(expected.T.to_numpy())
        assert matrix.signed == (statistic != "dcor")


def test_a_cell_without_value_is_empty():
    table = made_up()
    own = table[table["metric"] != "rankme"]
    findings = correlate([own, own[own["metric"] == "infonce"].assign(data="STS17")], data="own",
                         resamples=20)  # fmt: skip
    assert correlations.heatmap(findings).rows == ("STS17",)
    none = correlate([table], measures=["rankme", "infonce"], resamples=20)
    empty = correlations.heatmap(none, "partial")
    column = empty.columns.index("rankme")
    assert {row[column] for row in empty.values} == {None}
    (trace,), _ = plotly.parts(empty)
    assert {row[column] for row in trace["text"]} == {""}


def test_a_cloud_is_the_mean_over_the_tasks_of_each_model(three):
    clouds = correlations.clouds(three)
    cloud = clouds.panels[0]
    group = [
        each for each in three.associations
        if each.measure == three.summaries[0].measure and each.score.model == "example/1"
    ]  # fmt: skip
    series = cloud.series[1]
    assert series.name == "example/1 @ main"
    assert [dot.layer for dot in series.dots] == list(range(10))
    assert [dot.y for dot in series.dots] == pytest.approx(
        np.mean([each.scores for each in group], axis=0)
    )
    assert [dot.x for dot in series.dots] == pytest.approx(group[0].curve.values)
    assert [dot.depth for dot in series.dots] == pytest.approx(np.arange(10) / 9)
    assert len({each.symbol for each in cloud.series}) == 3
    assert cloud.y_title == "mean score of 3 tasks"
    assert cloud.x_title == "nats"
    assert series.dots[4].words.startswith("layer 4: ")


def test_one_task_names_its_score():
    cloud = correlations.clouds(correlate([made_up()], scores=["STS17"], resamples=20)).panels[0]
    assert cloud.y_title == "STS17"


@pytest.mark.parametrize("kind", ["matrix", "scatter"])
def test_plotly_and_matplotlib_draw_what_is_described(three, kind, tmp_path):
    pytest.importorskip("matplotlib")
    found = api.Correlations(three)
    figure = found.plot(kind, "spearman")
    names = [trace.type for trace in figure.data]
    assert names == (["heatmap"] if kind == "matrix" else ["scatter"] * 9)
    found.save_plot(tmp_path / "plot.svg", kind, "spearman")
    assert (tmp_path / "plot.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(InputError, match="expected a file ending in .png, .svg, .pdf"):
        found.save_plot(tmp_path / "plot.gif", kind)


def test_unknown_kinds_of_plot_are_refused(one):
    with pytest.raises(InputError, match="unknown kind of plot 'matrx'; did you mean 'matrix'"):
        api.Correlations(one).plot("matrx")
    with pytest.raises(InputError, match="unknown coefficient 'pearson'"):
        api.Correlations(one).plot("matrix", "pearson")


# --- page ---


def drawings(text):
    found = re.search(r'<script id="panels" type="application/json">(.*?)</script>', text, re.S)
    return json.loads(found.group(1))


def test_the_page_holds_all_and_asks_for_nothing(three):
    text = page_module.page(correlations.correlation_view(three))
    own = text.replace(page_module.library(), "")
    assert "default-src 'none'" in own
    assert not re.search(r"src=", own)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', own))
    ids = [each["id"] for each in drawings(text)]
    assert ids == ["matrix-0", "matrix-1", "matrix-2", "cloud-0", "cloud-1", "cloud-2"]
    assert all(f'id="{name}"' in own for name in ids)
    for note in three.notes:
        assert note in own.replace("&#39;", "'")
    assert "example/2 @ main" in own


def test_hostile_names_stay_text():
    text = page_module.page(
        correlations.correlation_view(correlate([made_up(HOSTILE, task=[HOSTILE])], resamples=20))
    )
    assert HOSTILE not in text
    matrix, *_, cloud = drawings(text)
    assert "<" not in matrix["data"][0]["y"][0]
    assert "<" not in cloud["data"][0]["name"]


def test_a_browser_draws_every_panel(three, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    page = tmp_path / "page.html"
    page.write_text(page_module.page(correlations.correlation_view(three)), encoding="utf-8")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom",
         page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    # the two folded matrices wait until they are opened
    assert done.stdout.count('class="plot js-plotly-plot"') >= 4


# --- Python ---


@pytest.fixture
def folders(tmp_path):
    """A scan's and an evaluation's run of one model, in two folders."""
    table = made_up()
    parts = {"scan": table[table["level"] != "task"], "tasks": table[table["level"] == "task"]}
    nothing = pd.DataFrame({name: [] for name in CONTRIBUTION_COLUMNS}).astype(CONTRIBUTION_COLUMNS)
    for name, part in parts.items():
        save_run(Run(part, nothing, {"model": {"name": "example/one"}}), tmp_path / name)
    return tmp_path / "scan", tmp_path / "tasks"


def test_runs_in_any_form_give_the_same(folders, tmp_path, one):
    table = made_up()
    table.to_parquet(tmp_path / "table.parquet")
    nothing = pd.DataFrame()
    forms = [
        list(folders), [str(folder) for folder in folders], [layerscope.load(f) for f in folders],
        table, tmp_path / "table.parquet", str(tmp_path / "table.parquet"),
        Run(table, nothing, {}), api.Evaluation(Run(table, nothing, {})),
    ]  # fmt: skip
    for form in forms:
        found = layerscope.correlate(form, resamples=500)
        pd.testing.assert_frame_equal(found.table(), one.table())
        pd.testing.assert_frame_equal(found.matrix("kendall"), one.matrix("kendall"))
        pd.testing.assert_frame_equal(found.units(), one.units())
        assert found.notes == one.notes


def test_one_name_is_as_good_as_a_list():
    found = layerscope.correlate(
        made_up(), scores="STS17", measures="dataset_entropy", conventions="paper", resamples=20
    )
    (unit,) = found.units().to_dict("records")
    assert (unit["task"], unit["metric"], unit["convention"]) == (
        "STS17", "dataset_entropy", "paper",
    )  # fmt: skip


# --- shell ---


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return partial(run_command, monkeypatch, capsys)


def test_the_command_prints_the_table(command, folders, one):
    finished = command("correlate", *folders, "--resamples", 500, "--verbose")
    assert finished.code == 0
    assert finished.out.strip().splitlines() == shown(one).strip().splitlines()


def test_json_has_every_digit(command, folders, one):
    finished = command("correlate", *folders, "--json", "--resamples", 500)
    found = json.loads(finished.out)
    assert [row["dcor"] for row in found["measures"]] == [each.dcor for each in one.summaries]
    assert len(found["units"]) == len(one.associations)
    assert found["notes"] == list(one.notes)
    assert found["left_out"] == []


@pytest.mark.parametrize(
    ("option", "value", "check"),
    [
        ("--tasks", "STS17,STSBenchmark", lambda units: set(units["task"]) == set(TASKS[1:])),
        ("--metrics", "rankme", lambda units: set(units["metric"]) == {"rankme"}),
        ("--metrics", "all", lambda units: "rankme" in set(units["metric"])),
        ("--convention", "paper", lambda units: set(units["convention"]) == {"paper"}),
        ("--data", "letters.txt", lambda units: set(units["data"]) == {"letters.txt"}),
        ("--stage", "final_norm", lambda units: len(units) == 9),
    ],
)
def test_options_choose(command, folders, option, value, check):
    finished = command("correlate", *folders, "--json", "--resamples", 20, option, value)
    assert check(pd.DataFrame(json.loads(finished.out)["units"]))


def test_seed_and_resamples_change_the_draws(command, folders):
    def walks(*options):
        found = json.loads(command("correlate", *folders, "--json", *options).out)
        return [row["p_walk"] for row in found["measures"]]

    few = walks("--resamples", 30)
    assert few == walks("--resamples", 30)
    assert few != walks("--resamples", 30, "--seed", 1)
    assert few != walks("--resamples", 60)


def test_plots_and_page_are_written(command, folders, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = (
        "--png", "a.png", "--svg", "a.svg", "--out", "a.html", "--plot", "scatter",
        "--resamples", 20,
    )  # fmt: skip
    finished = command("correlate", *folders, *arguments)
    assert finished.code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "nats" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert f"Page: {(tmp_path / 'a.html').as_uri()}" in finished.out
    again = command("correlate", *folders, *arguments)
    assert (again.code, again.err) == (
        2, "layerscope: expected a new page, 'a.html' exists; give --overwrite.\n",
    )  # fmt: skip
    assert command("correlate", *folders, *arguments, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "page.htm"), "expected a page ending in .html, got 'page.htm'"),
        (("--out", "no/page.html"), "expected a folder for the page"),
        (("--png", "x.jpg"), "expected a file ending in .png"),
        (("--plot", "bars"), "unknown plot 'bars'"),
        (("--statistic", "r"), "unknown coefficient 'r'"),
        (("--tasks", "STS18"), "unknown task 'STS18'; did you mean 'STS17'"),
        (("--data", "x.txt"), "unknown data set 'x.txt'"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(command, folders, arguments, said):
    pytest.importorskip("matplotlib")
    finished = command("correlate", *folders, "--resamples", 20, *arguments)
    assert finished.code == 2
    assert finished.err.startswith(f"layerscope: {said}")
    assert finished.err.count("\n") == 1
    assert finished.out == ""


def test_a_run_that_is_none(command):
    finished = command("correlate", "nowhere")
    assert (finished.code, finished.out) == (2, "")
    assert "expected a finished run in 'nowhere'" in finished.err


def test_help_has_an_example(command):
    finished = command("correlate", "--help")
    assert finished.code == 0
    assert "layerscope correlate runs/" in finished.out
