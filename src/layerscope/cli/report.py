"""`layerscope report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layerscope.cli.app import (
    Failures,
    app,
    check_page,
    print_json,
    print_page,
    print_view,
    records,
    write_page,
)
from layerscope.cli.help import Command
from layerscope.cli.options import Debug, Given, Json, with_settings
from layerscope.settings import PlotConfig

_EXAMPLE = """
Put any number of runs, or a study, on one interactive page.

Example:

    layerscope report runs/bge runs/gemma runs/mamba --out models.html
"""


@app.command(help=_EXAMPLE, cls=Command)
@with_settings(PlotConfig)
def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Folders of runs and studies, or long tables."),
    ],
    out: Annotated[Path, typer.Option(help="The page's file, ending in .html.")] = Path(
        "report.html"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the page in --out.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
    *,
    settings: Given,
) -> None:
    """Put any number of runs on one interactive page."""
    Failures.debug = debug
    check_page(out, overwrite)
    from layerscope import api
    from layerscope.render import page

    found = api.concat(runs)
    fields = PlotConfig.model_fields  # what is not given is as the study has it
    view = found.view(**{k: v for k, v in settings.items() if v != fields[k].default})
    write_page(out, page.page(view), said=False)
    if as_json:
        print_json({"page": str(out), "table": records(found.table())})
        return
    print_view(view)
    print_page(out)
