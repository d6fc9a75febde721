"""The command itself: its help, its errors as one sentence and an exit code, and how it prints.

Nothing heavy is imported before a command runs, so that help answers at once.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

import layerscope
from layerscope.errors import InputError, LayerscopeError

if TYPE_CHECKING:
    import pandas as pd

    from layerscope.render.view import Step, View

app = typer.Typer(
    name="layerscope",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
        if Failures.debug:
            traceback.print_exc()
        raise SystemExit(_explain(error)) from None
    if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
        raise SystemExit(_interrupted())


INTERRUPTED: Final = 130


class Failures:
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
    folder = Failures.folder
    kept = folder is not None and any(  # of one run, of a ranking's, or of a study's
        any(folder.glob(pattern)) for pattern in ("parts", "*/parts", "*/run.json", "*/*/run.json")
    )
    after = (
        f"; what was finished is kept in {folder}, run the same command again to go on"
        if kept
        else ""
    )
    _complain(f"interrupted{after}.")
    return INTERRUPTED


def _complain(sentence: str) -> None:
    sys.stderr.write(f"layerscope: {sentence}\n")


def calm_libraries(threads: int | None) -> None:
    """Set the thread count, and keep other libraries' bars and notes out of ours."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read by tqdm when a library imports it
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for library in ("sentence_transformers", "torch.onnx"):
        getLogger(library).setLevel(ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if threads is not None:
        if threads < 1:
            raise InputError(f"expected at least 1 thread, got {threads}.")
        torch.set_num_threads(threads)


def listed(text: str, separator: str = ",") -> tuple[str, ...]:
    """Return the parts of an option that takes several values."""
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def most(flag: str, given: str | int) -> int:
    """Return the number that was given to an option like `--limit`; 0 for `all` or 0."""
    try:
        count = 0 if given == "all" else int(given)
    except ValueError:
        count = -1
    if count < 0:
        raise InputError(f"expected {flag} of at least 1, or all, got {given}.")
    return count


def check_choice(kind: str, value: str, known: tuple[str, ...]) -> None:
    """Raise an InputError unless an option has one of its values."""
    from layerscope.errors import unknown_name

    if value not in known:
        raise unknown_name(kind, value, known)


def plots_asked(png: Path | None, svg: Path | None) -> tuple[Path, ...]:
    """Return where plots are to be written; refuse, before any work, what could not be after it."""
    asked = ((png, ".png"), (svg, ".svg"))
    for path, suffix in asked:
        if path is not None:
            check_plot(path, suffix)
    return tuple(path for path, _ in asked if path is not None)


def check_plot(path: Path, *suffixes: str) -> None:
    """Refuse a plot's file that could not be written, before any work."""
    import importlib.util

    from layerscope.data.files import refuse_unwritable

    if path.suffix.lower() not in suffixes:
        raise InputError(f"expected a file ending in {' or '.join(suffixes)}, got {str(path)!r}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "plots to files need an extra; install it with: pip install 'layerscope[plots]'."
        )
    if not path.parent.is_dir():
        raise InputError(
            f"expected a folder for the plot {str(path)!r}, {str(path.parent)!r} is none."
        )
    refuse_unwritable(path)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row as a dict, every digit of its numbers kept and what is absent as None."""
    plain = table.astype(object).where(table.notna(), None)
    return [dict(zip(plain.columns, row, strict=True)) for row in plain.itertuples(index=False)]


def print_json(value: Any) -> None:
    """Print what a machine reads."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_page(path: Path) -> None:
    """Print where a page lies, as a link."""
    open_console().print(f"\nPage: {path.resolve().as_uri()}", soft_wrap=True)


def step(what: str, *words: str) -> Step:
    """Return a command of ours to paste, and what it gives."""
    from layerscope.render.view import Step

    return Step(shlex.join(("layerscope", *words)), what)


def print_view(view: View, *, verbose: bool = False) -> None:
    """Print a result for people."""
    from layerscope.render import terminal

    open_console().print(terminal.drawn(view, verbose=verbose), crop=False)


def check_page(path: Path | None, overwrite: bool) -> None:
    """Refuse, before any work, a page that could not be written after it."""
    from layerscope.data.files import refuse_unwritable

    if path is None:
        return
    if path.suffix.lower() != ".html":
        raise InputError(f"expected a page ending in .html, got {str(path)!r}.")
    if path.exists() and not overwrite:
        raise InputError(f"expected a new page, {str(path)!r} exists; give --overwrite.")
    if not path.parent.is_dir():
        raise InputError(
            f"expected a folder for the page {str(path)!r}, {str(path.parent)!r} is none."
        )
    refuse_unwritable(path)


def write_page(path: Path, html: str, *, said: bool) -> None:
    """Write a page, and say where it lies."""
    from layerscope.data.files import write_atomically

    write_atomically(path, html.encode())
    if said:
        print_page(path)


def print_pushed(address: str) -> None:
    """Print where a model was uploaded to, if it was."""
    if address:
        open_console().print(f"\nUploaded: {address}", soft_wrap=True)


def open_console() -> Any:
    """Return where people read."""
    from rich.console import Console

    return Console()
