"""The command line: options in, one public call, what people or machines read out.

Nothing heavy is imported before a command runs, so that help answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

import layerscope
from layerscope.errors import InputError, LayerscopeError

if TYPE_CHECKING:
    import pandas as pd

    from layerscope.api import Scan
    from layerscope.estimates import Estimates

app = typer.Typer(
    name="layerscope",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_SCAN_EXAMPLE = """
Measure every layer of a model on texts, in one pass.

Example:

    layerscope scan sentence-transformers/all-MiniLM-L6-v2 --data sample

    layerscope scan ./my-model --data notes.csv --column text --views 16
"""

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.callback(invoke_without_command=True)
def common(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Which layer of a model to use, measured on your own texts in one pass, without labels."""
    if version:
        typer.echo(f"layerscope {layerscope.__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command(help=_SCAN_EXAMPLE)
def scan(
    model: Annotated[
        str,
        typer.Argument(help="Hub id, local folder, GGUF file or sentence-transformers folder."),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Texts: .txt, .jsonl, .csv, .parquet, a datasets id, - for standard input, or sample."
        ),
    ] = "sample",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the run  [default: runs/MODEL--DATA]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in --out.")] = False,
    column: Annotated[str | None, typer.Option(help="Column that holds the texts.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a datasets id.")] = None,
    limit: Annotated[int, typer.Option(help="Most texts to use; 0 uses all.")] = 1000,
    views: Annotated[
        int, typer.Option(help="Augmented copies of each text; 0 for none, 16 as in the paper.")
    ] = 2,
    metrics: Annotated[
        str | None, typer.Option(help="Measures, comma-separated; see layerscope metrics.")
    ] = None,
    convention: Annotated[
        str, typer.Option(help="paper, normalized, reference (comma-separated), or all.")
    ] = "paper,normalized",
    layers: Annotated[str | None, typer.Option(help="Layers, like 0,4-6  [default: all]")] = None,
    stages: Annotated[
        str,
        typer.Option(help="Besides block: attn_norm, attn, attn_residual, mlp_norm, mlp."),
    ] = "block",
    pooling: Annotated[str, typer.Option(help="mean, last, first, weighted_mean or max.")] = "mean",
    special_tokens: Annotated[
        str, typer.Option(help="exclude or include the tokens that the tokenizer adds.")
    ] = "exclude",
    first_token: Annotated[
        str, typer.Option(help="auto (out if it is an attention sink), keep or drop.")
    ] = "auto",
    augmentation: Annotated[
        str, typer.Option(help="default, or authors: the capped strength of the published figures.")
    ] = "default",
    alpha: Annotated[float, typer.Option(help="Order of the matrix-based entropies.")] = 1.0,
    max_length: Annotated[int, typer.Option(help="Most tokens a text may have.")] = 512,
    batch_tokens: Annotated[int, typer.Option(help="Padded tokens in one forward pass.")] = 4096,
    non_finite: Annotated[
        str, typer.Option(help="raise, or drop texts whose states hold NaN or infinity.")
    ] = "raise",
    seed: Annotated[int, typer.Option(help="Seed of views, permutations and bootstrap.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    dtype: Annotated[
        str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="Passed to transformers; auto spreads a large model.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads  [default: torch's]")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    png: Annotated[Path | None, typer.Option(help="Also write the plots to a .png file.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Also write the plots to a .svg file.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, and stop.")
    ] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    debug: Debug = False,
) -> None:
    """Measure every layer of a model on texts, in one pass."""
    _Failures.debug = debug
    _check_choice("special tokens", special_tokens, ("exclude", "include"))
    _calm_libraries(threads)
    from layerscope import api
    from layerscope.models import ModelOptions
    from layerscope.progress import bars
    from layerscope.settings import parse_layers

    arguments: dict[str, Any] = {
        "column": column,
        "split": split,
        "limit": limit or None,
        "model_options": ModelOptions(revision, dtype, device, device_map, trust_remote_code),
        "watch": None if quiet or as_json else bars,
        "metrics": None if metrics is None else _listed(metrics),
        "conventions": _listed(convention),
        "layers": None if layers is None else parse_layers(layers),
        "stages": _listed(stages),
        "views": views,
        "augmentation": augmentation,
        "alpha": alpha,
        "pooling": pooling,
        "special_tokens": special_tokens == "include",
        "first_token": first_token,
        "max_length": max_length,
        "batch_tokens": batch_tokens,
        "non_finite": non_finite,
        "seed": seed,
    }
    if dry_run:
        _print_estimate(api.estimate_scan(model, data, **arguments), as_json)
        return
    folder = out or api.default_folder(model, data)
    _Failures.folder = folder
    for path, suffix in ((png, ".png"), (svg, ".svg")):
        if path is not None:
            _check_plot(path, suffix)
    found = api.scan(model, data, out=folder, overwrite=overwrite, **arguments)
    for path in (png, svg):
        if path is not None:
            found.save_plot(path)
    if not quiet:
        _print_scan(found, as_json)


@app.command()
def metrics(
    name: Annotated[str | None, typer.Argument(help="One measure; all if left out.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List every measure, or explain one: formula, range, direction, conventions, reference.

    Example:
        layerscope metrics curvature
    """
    _Failures.debug = debug
    from layerscope import api, terminal

    chosen = api.metrics() if name is None else (api.metrics(name),)
    if as_json:
        _print_json([_measure_facts(measure) for measure in chosen])
    elif name is None:
        _console().print(terminal.catalogue_table(chosen))
    else:
        _console().print(terminal.measure_page(chosen[0]))


def main() -> None:
    """Run the command; an error is one sentence and an exit code, a traceback only on --debug."""
    try:
        code = app(prog_name="layerscope", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        raise SystemExit(_interrupted()) from None
    except (BrokenPipeError, SystemExit) as stop:
        # typer and rich meet a broken pipe first and make an exit of it
        if not isinstance(stop, BrokenPipeError) and not isinstance(
            stop.__context__, BrokenPipeError
        ):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # its reader has seen enough
        raise SystemExit(0) from None
    except Exception as error:
        if _Failures.debug:
            traceback.print_exc()
        raise SystemExit(_explain(error)) from None
    if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
        raise SystemExit(_interrupted())


INTERRUPTED: Final = 130


class _Failures:
    """What an error handler needs to know of the command that failed."""

    debug = False
    folder: Path | None = None


def _explain(error: Exception) -> int:
    """Print one sentence for an error and return the exit code."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # a usage error of typer's own
        if str(error):
            said = error.format_message().rstrip(".")  # type: ignore[attr-defined]
            command = getattr(getattr(error, "ctx", None), "command_path", "layerscope")
            _complain(f"{said[:1].lower()}{said[1:]}; see {command} --help.")
        else:  # no command at all: the help itself
            error.show()
        return int(error.exit_code)
    if isinstance(error, LayerscopeError):
        _complain(str(error))
        return error.exit_code
    _complain(
        f"unexpected {type(error).__name__}: {error} This is a fault of layerscope; run again with "
        "--debug and report what it prints."
    )
    return 1


def _interrupted() -> int:
    folder = _Failures.folder
    kept = folder is not None and (folder / "parts").exists()
    after = (
        f"; what was finished is kept in {folder}, run the same command again to go on"
        if kept
        else ""
    )
    _complain(f"interrupted{after}.")
    return INTERRUPTED


def _complain(sentence: str) -> None:
    sys.stderr.write(f"layerscope: {sentence}\n")


def _calm_libraries(threads: int | None) -> None:
    """Set the thread count, and keep other libraries' bars and notes out of ours."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read by tqdm when a library imports it
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if threads is not None:
        if threads < 1:
            raise InputError(f"expected at least 1 thread, got {threads}.")
        torch.set_num_threads(threads)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check_choice(kind: str, value: str, known: tuple[str, ...]) -> None:
    from layerscope.errors import unknown_name

    if value not in known:
        raise unknown_name(kind, value, known)


def _check_plot(path: Path, suffix: str) -> None:
    """Refuse, before any work, a plot that could not be written after it."""
    import importlib.util

    if path.suffix.lower() != suffix:
        raise InputError(f"expected a file ending in {suffix}, got {str(path)!r}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "plots to files need an extra; install it with: pip install 'layerscope[plots]'"
        )
    if not path.parent.is_dir():
        raise InputError(
            f"expected a folder for the plot {str(path)!r}, {str(path.parent)!r} is none."
        )


def _print_scan(found: Scan, as_json: bool) -> None:
    from layerscope import terminal

    if as_json:
        _print_json(
            {
                "folder": str(found.folder),
                "recommendation": asdict(found.select()),
                "preferences": [asdict(choice) for choice in found.preferences()],
                "record": found.record,
                "table": _records(found.table()),
            }
        )
        return
    run = found.run
    console = _console()
    console.print(terminal.scan_summary(run.table, run.contributions, run.record))
    page = (Path(str(found.folder)) / "page.html").resolve()
    console.print(f"\nPage: {page.as_uri()}", soft_wrap=True)


def _print_estimate(estimates: Estimates, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(estimates))
        return
    from layerscope import terminal

    _console().print(terminal.estimate_table(estimates))


def _measure_facts(measure: Any) -> dict[str, Any]:
    facts = {name: _plain(getattr(measure, name)) for name in measure.__dataclass_fields__}
    return {name: value for name, value in facts.items() if name != "function"}


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset | set | tuple | list):
        return sorted(value) if isinstance(value, frozenset | set) else [_plain(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return None if isinstance(value, Callable) else value  # type: ignore[arg-type]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row as a dict, every digit of its numbers kept and what is absent as None."""
    plain = table.astype(object).where(table.notna(), None)
    return [dict(zip(plain.columns, row, strict=True)) for row in plain.itertuples(index=False)]


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def _console() -> Any:
    from rich.console import Console

    return Console()
