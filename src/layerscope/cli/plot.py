"""`layerscope plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layerscope.cli.app import Failures, app, check_plot, open_console, print_json, records
from layerscope.cli.help import Command
from layerscope.cli.options import Debug, Given, Json, with_settings
from layerscope.settings import PlotConfig

_EXAMPLE = """
Draw measures of any number of runs, or of a study, in one figure.

Example:

    layerscope plot runs/bge runs/gemma runs/mamba --metric prompt_entropy --out entropy.svg

    layerscope plot runs/training --x step --metric prompt_entropy --out training.png
"""


@app.command(help=_EXAMPLE, cls=Command)
@with_settings(PlotConfig)
def plot(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Folders of runs and studies, or long tables."),
    ],
    out: Annotated[
        Path, typer.Option(help="The figure's file, ending in .svg, .png or .pdf.")
    ] = Path("figure.svg"),
    as_json: Json = False,
    debug: Debug = False,
    *,
    settings: Given,
) -> None:
    """Draw measures of any number of runs in one figure."""
    Failures.debug = debug
    check_plot(out, ".svg", ".png", ".pdf")
    from layerscope import api

    found = api.concat(runs)
    fields = PlotConfig.model_fields  # what is not given is as the study has it
    found.save_plot(out, **{k: v for k, v in settings.items() if v != fields[k].default})
    if as_json:
        print_json({"figure": str(out), "table": records(found.table())})
    else:
        open_console().print(
            f"{found.summary()}.\nFigure: {out.resolve().as_uri()}", soft_wrap=True
        )
