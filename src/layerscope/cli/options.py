"""The options that several commands share, each told once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")]

# --- the model and how it is read ---------------------------------------------------------------

Model = Annotated[
    str, typer.Argument(help="Hub id, local folder, GGUF file or sentence-transformers folder.")
]
Layers = Annotated[str | None, typer.Option(help="Layers, like 0,4-6  [default: all]")]
Pooling = Annotated[str, typer.Option(help="mean, last, first, weighted_mean or max.")]
SpecialTokens = Annotated[
    str, typer.Option(help="exclude or include the tokens that the tokenizer adds.")
]
FirstToken = Annotated[
    str, typer.Option(help="auto (out if it is an attention sink), keep or drop.")
]
MaxLength = Annotated[int, typer.Option(help="Most tokens a text may have.")]
BatchTokens = Annotated[int, typer.Option(help="Padded tokens in one forward pass.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Dtype = Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DeviceMap = Annotated[
    str | None, typer.Option(help="Passed to transformers; auto spreads a large model.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads  [default: torch's]")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]

# --- texts ----------------------------------------------------------------------------------------

Column = Annotated[str | None, typer.Option(help="Column that holds the texts.")]
Split = Annotated[str | None, typer.Option(help="Split of a datasets id.")]

# --- pictures -------------------------------------------------------------------------------------

Png = Annotated[Path | None, typer.Option(help="Also draw it to a .png file.")]
Svg = Annotated[Path | None, typer.Option(help="Also draw it to a .svg file.")]
