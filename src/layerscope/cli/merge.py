"""`layerscope merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layerscope.cli.app import Failures, app
from layerscope.cli.help import Command
from layerscope.cli.options import Debug, Json
from layerscope.cli.study import print_study

_EXAMPLE = """
Put the shards of one study together in one folder.

Example:

    layerscope merge runs/part-1 runs/part-2 --out runs/whole
"""


@app.command(help=_EXAMPLE, cls=Command)
def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="What layerscope study --shard wrote.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the whole study.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Put the shards of one study together in one folder."""
    Failures.debug = debug
    from layerscope.studies.study import merge as together

    print_study(together(folders, out), as_json)
