"""What was saved, in a terminal: what it is, what was checked, and the lines that load it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerscope.cutting import Cut, CutEstimates
from layerscope.estimates import Estimates
from layerscope.surgery import LAST, Shipped
from layerscope.terminal.catalogue import estimate_table
from layerscope.terminal.signs import Adaptive, Symbols


def cut_summary(found: Cut) -> RenderableType:
    """Return what `cut` prints: the layer, what it took, what was compared, how to use it."""

    def build(symbols: Symbols) -> RenderableType:
        behind = ", behind the final norm" if found.stage == "final_norm" else ""
        title = Text(f"Layer {found.layer} of {found.of}{behind}", style="bold green")
        title.append(symbols.text(f" saved in {found.folder}"), "not bold default")
        facts = [
            ("blocks", f"{found.blocks} of {found.of}"),
            (
                "weights",
                f"{megabytes(found.shipped.weights)} (source {megabytes(found.source_size)})",
            ),
            *_where(found),
            *checked(found.shipped),
        ]
        parts: list[RenderableType] = [Padding(title, (0, 0, 1, 1)), rows(facts)]
        if found.blocks == found.of and found.settings.kind == "cut":
            parts.append(Text("\n Every block is needed for the last layer: nothing was left out."))
        said = [Text(symbols.text(note)) for note in (*found.evidence, *found.notes)]
        if said:
            parts.append(Padding(Group(*said), (1, 0, 0, 1)))
        code = Text(symbols.text(found.usage), style="cyan", overflow="fold", no_wrap=False)
        parts.append(Padding(code, (1, 0, 0, 1)))
        return Group(*parts)

    return Adaptive(build)


def cut_estimate_table(found: CutEstimates) -> RenderableType:
    """Return what a cut would take, as `--dry-run` prints it."""
    layer = "chosen by the scan" if found.layer is None else f"{found.layer} of {found.of}"
    at_most = "at most " if found.layer is None else ""
    facts = [
        ("layer", layer),
        ("weights to write", f"{at_most}{megabytes(found.weight_bytes)}"),
        ("free there", megabytes(found.free_bytes)),
    ]
    parts: list[RenderableType] = [rows(facts)]
    if found.scan is not None:
        parts += [Text("\n The scan that chooses it:"), estimate_table(found.scan)]
    return Group(*parts)


def pruning_estimate_table(
    facts: Sequence[tuple[str, str]],
    weights: int,
    free: int | None,
    scan: Estimates | None,
) -> RenderableType:
    """Return what a pruning would take, as `--dry-run` prints it.

    Args:
        facts: labels and values.
        weights: bytes that are written at most.
        free: bytes that are free there; None where nothing is saved.
        scan: what one scan that chooses the blocks would take, if there has to be one.
    """
    saved = []
    if free is not None:
        saved = [
            ("weights to write", f"at most {megabytes(weights)}"),
            ("free there", megabytes(free)),
        ]
    parts: list[RenderableType] = [rows([*facts, *saved])]
    if scan is not None:
        parts += [Text("\n A scan that chooses them:"), estimate_table(scan)]
    return Group(*parts)


def _where(found: Cut) -> list[tuple[str, str]]:
    if found.settings.format == "sentence-transformers" or found.output == LAST:
        return []
    return [("in the output", f"hidden_states[{found.output[1]}]")]


def checked(shipped: Shipped) -> list[tuple[str, str]]:
    """Return what the new process found, as labels and values."""
    check = shipped.verification
    apart = (
        f"largest difference {check.largest:.0e} (limit {check.limit:.0e})"
        if check.largest
        else "no difference"
    )
    said = [("checked", f"{check.reader} in a new process, {check.texts} texts: {apart}")]
    if check.generated is not None:
        said.append(("", "text generated alike with and without the cache"))
    return said


def megabytes(size: int) -> str:
    """Return bytes for people."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e6:.1f} MB"


def rows(facts: Sequence[tuple[str, str]]) -> Table:
    """Return labels and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for label, value in facts:
        table.add_row(f" {label}", value)
    return table
