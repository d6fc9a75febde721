"""The studies of the papers: every file can be read, and every small twin runs from its one command."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

import layerscope
from layerscope.studies.grid import read_declared

STUDIES = Path(__file__).parents[1] / "studies"
SMALL = STUDIES / "small"
NAMES = sorted(path.stem for path in STUDIES.glob("*.yaml"))
ALONE = ("entropy-orders", "theory")  # they need no model, so that they are their own twins


def test_every_study_of_the_papers_is_there_with_its_twin():
    assert len(NAMES) == 15
    assert sorted(path.stem for path in SMALL.glob("*.yaml")) == [
        name for name in NAMES if name not in ALONE
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_can_be_read(name):
    declared = read_declared(STUDIES / f"{name}.yaml")
    assert declared.cells
    if name not in ALONE:
        twin = read_declared(SMALL / f"{name}.yaml")
        commands = {cell.command for cell in twin.cells}
        assert commands == {cell.command for cell in declared.cells}
        assert twin.tables == declared.tables
        assert twin.plot.draw == declared.plot.draw
        assert twin.plot.x == declared.plot.x


def quicker(given: dict) -> dict:
    """The same study with fewer texts, questions, data sets and resamples, in as many cells a part."""
    found = dict(given)
    for part in (found, *(found.get("parts") or ())):
        part["settings"] = settings = dict(part.get("settings") or {})
        command = part.get("command", found.get("command", "scan"))
        if command in ("scan", "prefixes") and (part is not found or "parts" not in found):
            settings |= {"limit": 24, "resamples": 20}
        if settings.get("probes"):  # of one kind, on two models
            settings |= {"probes": settings["probes"][:1]}
            found["models"] = found["models"][:2]
        if command == "evaluate":
            dropped = {Path(name).name for name in part["data"][1:]}
            part["data"] = part["data"][:1]
            found["plot"]["metric"] = [
                name for name in found["plot"].get("metric", ()) if name not in dropped
            ] or None
        if command == "choices":
            settings |= {"limit": 6}
        if command == "prune":
            settings |= {"limit": 24, "draws": 3}
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name != "theory"])
def test_a_twin_runs_from_its_one_command(name, tmp_path, monkeypatch):
    file = SMALL / f"{name}.yaml"
    file = file if file.is_file() else STUDIES / f"{name}.yaml"
    monkeypatch.chdir(file.parent)
    given = quicker(yaml.safe_load(file.read_text()))
    found = layerscope.study(given, out=tmp_path / "out", workers=0, show_progress=False)
    assert not found.failures
    assert not found.note
    assert (tmp_path / "out/figure.svg").stat().st_size > 10_000
    assert list(found.tables) == (given.get("tables") or [])
    for table in found.tables:
        assert len(pd.read_csv(tmp_path / "out" / f"{table}.csv"))
