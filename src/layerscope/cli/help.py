"""The help of a command: the options that people need first, and on request all, in groups."""

from __future__ import annotations

from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperOption

MANY: Final = 16  # a command with fewer options shows all of them
ALL: Final = "--help-all"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


GROUPS: Final = {
    "Reading": _names(
        "column split limit max_length prompt query_prompt special_tokens first_token pooling as_tokens "
        "normalize"
    ),
    "Views": _names("views view_texts view_words augmentation span_words draws perturbation"),
    "Measures": _names(
        "metrics conventions layers stages readouts also alpha non_finite probes probe_seeds resamples "
        "seed"
    ),
    "Output": _names(
        "out overwrite format push private bank bank_poolings mteb_results png svg as_json verbose "
        "quiet debug"
    ),
    "Machine": _names(
        "revision dtype device device_map trust_remote_code threads batch_tokens dry_run"
    ),
}
"""What options are about, by the names of their parameters; all others are the command's own."""

FIRST: Final = _names(
    "data images out column limit metrics layers tasks table by scores layer run rule budget evaluate "
    "heal prefer readout push help dry_run verbose"
)
"""The options that people need first."""


class Command(TyperCommand):
    """A command whose help fits on a screen; with `--help-all` it has every option, in groups."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        options = [each for each in self.params if isinstance(each, TyperOption)]
        if len(options) > MANY:
            self.epilog = f"All {len(options)} options, in groups: layerscope {self.name} {ALL}"
            for option in options:
                option.hidden = option.name not in FIRST

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the whole help where it is asked for, else read the arguments."""
        if ALL not in args:
            return super().parse_args(ctx, args)
        for option in self.params:
            if isinstance(option, TyperOption):
                option.hidden = False
                option.rich_help_panel = group_of(str(option.name))
        self.params.sort(key=_place)
        self.epilog = None
        self.format_help(ctx, ctx.make_formatter())
        raise typer.Exit


def group_of(name: str) -> str | None:
    """Return the group of an option by the name of its parameter; None for a command's own."""
    return next((group for group, names in GROUPS.items() if name in names), None)


def _place(parameter: Any) -> int:
    group = group_of(str(parameter.name))
    return -1 if group is None else list(GROUPS).index(group)
