"""What a chart shows, before plotly or matplotlib draws it: plain records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from layerscope.data.views import of_spans
from layerscope.decisions.rules import middle_layer
from layerscope.results.table import BLOCK

BAND: Final = 0.16  # opacity of limits


@dataclass(frozen=True)
class Point:
    """One value: where it stands, its limits (None where there are none), the texts behind it."""

    layer: int
    depth: float
    value: float
    low: float | None
    high: float | None
    texts: int | None
    stage: str = BLOCK

    @property
    def words(self) -> str:
        """The point as the pointer shows it."""
        bounded = self.low is not None and self.high is not None
        limits = f" [{self.low:.4g}, {self.high:.4g}]" if bounded else ""
        texts = "" if self.texts is None else f", {self.texts:,} texts"
        return f"{self.value:.4g}{limits}{texts}"


@dataclass(frozen=True)
class Line:
    """One measure in one convention of one model, over the layers.

    Attributes:
        name: in the legend.
        convention: the measure's preprocessing.
        points: the blocks' outputs where the measure is defined, by layer.
        final: the value after the final norm, where there is one.
        preferred: the layer that the measure prefers.
        near: the layers within noise of it.
        color: "#rrggbb".
        dash: "solid", "dash" or "dot".
    """

    name: str
    convention: str
    points: tuple[Point, ...]
    final: Point | None
    preferred: int | None
    near: tuple[int, ...]
    color: str
    dash: str

    @property
    def all_points(self) -> tuple[Point, ...]:
        """The blocks' points and the final norm's."""
        return self.points if self.final is None else (*self.points, self.final)


def extent(lines: Iterable[Line]) -> tuple[float, float]:
    """Return the least and the greatest value of some lines, limits left out."""
    values = [point.value for line in lines for point in line.all_points]
    return min(values), max(values)


@dataclass(frozen=True)
class Level:
    """A value to compare with, such as what random directions would give."""

    value: float
    label: str


@dataclass(frozen=True)
class Panel:
    """One measure, its conventions as lines on one value axis.

    Attributes:
        metric: name of the measure.
        title: what stands above the panel.
        unit: unit of the values and the preferred direction, for the value axis.
        lines: what is drawn; the first one is the one to decide by.
        levels: values to compare with, drawn dashed; those far from the curves stand in the caption.
        main: whether this is one of the paper's seven measures.
        between: whether it is a measure of several layers.
        scored: whether it is the score of a task.
        views: what the views are that it is measured on; "" where it is not on views.
    """

    metric: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    levels: tuple[Level, ...]
    main: bool
    between: bool = False
    scored: bool = False
    views: str = ""

    @property
    def on_spans(self) -> bool:
        """Whether it is measured on parts of texts."""
        return of_spans(self.views)

    @property
    def preferred(self) -> int | None:
        """The layer marked in the panel."""
        return self.lines[0].preferred

    def is_near(self, level: Level) -> bool:
        """Whether a level is so near to the curves that drawing it does not flatten them."""
        low, high = extent(self.lines)
        margin = high - low
        return low - margin <= level.value <= high + margin


@dataclass(frozen=True)
class Figure:
    """Panels that share their layers.

    Attributes:
        title: the run.
        panels: one or more a measure, in the catalogue's order.
        blocks: L.
        by_depth: whether depth rather than the layer runs along x.
    """

    title: str
    panels: tuple[Panel, ...]
    blocks: int
    by_depth: bool

    @property
    def middle(self) -> float:
        """Where the middle layer is on x."""
        return 0.5 if self.by_depth else float(middle_layer(self.blocks))

    def x(self, point: Point) -> float:
        """Return where a point is on x."""
        return point.depth if self.by_depth else float(point.layer)

    @property
    def x_range(self) -> tuple[float, float]:
        """The limits of x, equal in all panels, with room for the marks at both ends."""
        top = 1.0 if self.by_depth else float(max(self.blocks, 1))
        return -0.04 * top, 1.04 * top

    @property
    def ticks(self) -> tuple[list[float], list[str]]:
        """At most about eight x positions with their labels: the layer, and its depth below."""
        if self.by_depth:
            return [0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"]
        stride = max(1, -(-self.blocks // 7))
        layers = list(range(0, self.blocks + 1, stride))
        if layers[-1] != self.blocks:
            # The last layer always has a label; its left neighbor goes where both would not fit.
            layers = [k for k in layers if self.blocks - k > stride / 2] + [self.blocks]
        depth = [f"{layer / self.blocks:.2f}" if self.blocks else "0" for layer in layers]
        labels = [f"{layer}\n{deep}" for layer, deep in zip(layers, depth, strict=True)]
        return [float(layer) for layer in layers], labels


@dataclass(frozen=True)
class Heatmap:
    """Numbers of every row with every column.

    Attributes:
        metric: name of the measure or the coefficient.
        title: what stands above it.
        unit: what the values are.
        rows: layers or tasks.
        columns: layers or measures.
        values: (row, column); None where there is none.
        low: the least value that the colors distinguish, 0 or -1, of values up to 1 that are written
            into their cells; None where the colors span the values.
    """

    metric: str
    title: str
    unit: str
    rows: tuple[int | str, ...]
    columns: tuple[int | str, ...]
    values: tuple[tuple[float | None, ...], ...]
    low: float | None = None

    @property
    def signed(self) -> bool:
        """Whether the sign of a value means something."""
        return self.low is not None and self.low < 0


@dataclass(frozen=True)
class Dot:
    """One layer: its measure, its score, its depth."""

    x: float
    y: float
    layer: int
    depth: float

    @property
    def words(self) -> str:
        """The layer as the pointer shows it."""
        return f"layer {self.layer}: {self.x:.4g}, score {self.y:.4g}"


@dataclass(frozen=True)
class Series:
    """The dots of one model, by layer."""

    name: str
    symbol: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Cloud:
    """The score against one measure, a dot a layer.

    Attributes:
        title: the measure.
        below: what the summary says of it.
        x_title: the measure's unit.
        y_title: the score, or over how many tasks it is the mean.
        series: one for each model.
    """

    title: str
    below: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Clouds:
    """One cloud a measure."""

    title: str
    panels: tuple[Cloud, ...]


Drawing = Figure | Heatmap | Cloud
