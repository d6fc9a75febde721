"""Running the command in this process, as the shell would."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from layerscope import cli
from layerscope.cli.app import Failures


@dataclass(frozen=True)
class Finished:
    """What a command left: exit code and what it printed."""

    code: int
    out: str
    err: str


def run(monkeypatch: pytest.MonkeyPatch, capsys, *arguments: object) -> Finished:
    """Run `layerscope ARGUMENTS` and return what came of it."""
    monkeypatch.setattr(sys, "argv", ["layerscope", *map(str, arguments)])
    monkeypatch.setattr(Failures, "debug", False)
    monkeypatch.setattr(Failures, "folder", None)
    capsys.readouterr()
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return Finished(code, captured.out, captured.err)
