"""`layerscope select`: what people and machines read, and options that change something."""

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

import layerscope
from commands import run
from fake_runs import fake_run
from layerscope import api
from layerscope.api.scanning import Scan
from layerscope.decisions import rules
from layerscope.errors import InputError
from layerscope.render import charts, matplotlib
from layerscope.results.foreign import from_long
from layerscope.results.table import Run, save_run

PUBLISHED = Path(__file__).parents[2] / "shared" / "published" / "pythia-410m.parquet"
TASKS = {"STS17": [0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.7, 0.6], "Banking77": [0.3] * 4 + [0.5] * 4}


def scored_run(blocks=7, texts=60):
    """A made-up scan with the scores of two tasks in its table."""
    table, contributions, record = fake_run(blocks=blocks, texts=texts)
    scores = pd.concat(
        pd.DataFrame(
            {"model": table["model"].iloc[0], "data": name, "metric": f"mteb/{name}/accuracy",
             "layer": range(blocks + 1), "value": values}
        )
        for name, values in TASKS.items()
    )  # fmt: skip
    both = pd.concat([table, from_long(scores).table], ignore_index=True)
    return Run(both, contributions, record)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command in a folder that holds a run, `scored`, and one without scores, `plain`."""
    monkeypatch.chdir(tmp_path)
    save_run(scored_run(), tmp_path / "scored")
    save_run(Run(*fake_run(texts=60)), tmp_path / "plain")
    return partial(run, monkeypatch, capsys, "select")


def facts(command, *options):
    finished = command(*options, "--json")
    assert finished.code == 0, finished.err
    return json.loads(finished.out)


# --- for people -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["scored", "plain"])
@pytest.mark.parametrize("options", [(), ("--verbose",)])
def test_it_fits_80_columns(command, monkeypatch, folder, options):
    monkeypatch.setenv("COLUMNS", "80")
    finished = command(folder, *options)
    assert finished.code == 0, finished.err
    assert max(len(line) for line in finished.out.splitlines()) <= 80
    assert not any(line.rstrip().endswith("…") for line in finished.out.splitlines())


def test_it_says_the_layer_and_how_sure_that_is(command):
    out = " ".join(command("scored", "--rule", "least infonce").out.split())
    choice = api.select("scored", rule="least infonce").chosen[0]
    assert f"Layer {choice.layer} of 7 by the rule 'least infonce': it wins in" in out
    assert f"{100 * choice.won:.0f} % of resamples" in out


def test_scores_and_gains_stand_below(command):
    out = command("scored").out
    middle = (TASKS["STS17"][3] + TASKS["Banking77"][3]) / 2
    assert f"{100 * middle:.2f}" in out
    assert "over two" in out
    assert "best single layer" in out
    assert "2 tasks: Banking77, STS17" in out
    assert "over last" not in command("plain").out


def test_what_is_missing_is_counted_and_named_on_request(command):
    short = " ".join(command("plain").out.split())
    assert "rules; --verbose names them" in short
    everything = " ".join(command("plain", "--verbose").out.split())
    assert "most retrieval needs retrieval on crops" in everything
    assert "most alpha_req needs alpha_req" in everything


def test_a_terminal_without_utf8_gets_ascii(command, monkeypatch):
    from rich.console import Console

    from layerscope.render import tasks, terminal

    found = api.select("scored")
    console = Console(width=80, force_terminal=False, legacy_windows=False)
    monkeypatch.setattr(type(console), "encoding", property(lambda _self: "ascii"))
    with console.capture() as captured:
        console.print(terminal.drawn(tasks.selection_view(found, {})))
    captured.get().encode("ascii")


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs the published results of ../shared")
def test_a_long_table_serves_as_a_run(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = " ".join(command(PUBLISHED).out.split())
    assert "Read layer 17 of 24. On 32 tasks it scores 51.92, the model's own output 46.82;" in out
    for score in ("46.82", "50.09", "50.74", "48.60", "51.92", "53.39"):
        assert score in out


# --- for machines ---------------------------------------------------------------------------------


def test_json_holds_everything(command):
    found = facts(command, "scored")
    assert found["layer"] == 3
    assert found["rule"] == rules.FALLBACK_RULE
    by_rule = {choice["rule"]: choice for choice in found["choices"]}
    assert len(by_rule["least dime"]["scores"]) == 8
    assert by_rule["least curvature"]["scores"][0] is None
    gain = next(gain for gain in found["gains"] if gain["rule"] == "least dime")
    assert gain["tasks"] == ["STS17", "Banking77"]
    assert set(gain["over"]) == {"last", "middle", "two thirds", "random"}
    assert "most retrieval" in found["lacking"]


@pytest.mark.parametrize(
    "options",
    [
        ("--rule", "least dime"),
        ("--tasks", "STS17"),
        ("--convention", "paper"),
        ("--seed", "1"),
        ("--resamples", "50"),
    ],
)
def test_each_option_changes_something(command, options):
    assert facts(command, "scored") != facts(command, "scored", *options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "expected a finished run in 'nowhere', there is no such folder"),
        (("scored", "--rule", "zzzz"), "unknown rule 'zzzz'; none of the"),
        (("scored", "--rule", "least dim"), "unknown rule 'least dim'; did you mean 'least dime'"),
        (("plain", "--rule", "most retrieval"), "needs retrieval on crops"),
        (("plain", "--tasks", "STS17"), "run layerscope evaluate first"),
        (("scored", "--convention", "raw"), "unknown convention 'raw'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(command, arguments, message):
    finished = command(*arguments)
    assert finished.code == 2
    assert message in finished.err
    assert finished.err.count("\n") == 1


# --- from Python ----------------------------------------------------------------------------------


def test_every_kind_of_run_is_accepted(command):
    expected = layerscope.select("scored").layer
    loaded = layerscope.load("scored")
    assert layerscope.select(loaded).layer == expected
    assert layerscope.select(loaded.run).layer == expected
    assert layerscope.select(loaded.table()).layer == expected
    assert layerscope.select(Path("scored") / "results.parquet").layer == expected


def test_a_frame_has_no_stability_and_a_scan_has():
    scan = Scan(scored_run())
    assert layerscope.select(scan, rule="least dime").chosen[0].won is not None
    assert layerscope.select(scan.table(), rule="least dime").chosen[0].won is None


def test_the_scores_are_drawn_over_depth_with_the_choice(tmp_path):
    found = api.select(scored_run())
    figure = charts.chosen_scores([found])
    [panel] = figure.panels
    scores = found.scores[0]
    expected = 100 * scores.values.mean(axis=0)
    assert [point.value for point in panel.lines[0].points] == pytest.approx(list(expected))
    assert panel.preferred == found.layer
    matplotlib.save(figure, tmp_path / "scores.svg")
    assert "<svg" in (tmp_path / "scores.svg").read_text()


def test_without_scores_there_is_nothing_to_draw():
    with pytest.raises(InputError, match="expected task scores at every layer to draw"):
        charts.chosen_scores([api.select(Run(*fake_run(texts=60)))])


def test_the_command_draws_too(command):
    assert command("scored", "--png", "scores.png", "--svg", "scores.svg").code == 0
    assert Path("scores.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in Path("scores.svg").read_text()
    assert command("scored", "--png", "scores.jpg").code == 2
