"""What a chart shows, before plotly or matplotlib draws it: plain records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from layerscope.data.views import of_spans
from layerscope.decisions.rules import middle_layer
from layerscope.results.table import BLOCK

BAND: Final = 0.16  # opacity of limits


@dataclass(frozen=True)
class Point:
    """One value: where it stands, its limits (None where there are none), the texts behind it.

    `at` is its training step, token position or whatever else runs along x besides layers.
    """

    layer: int
    depth: float
    value: float
    low: float | None
    high: float | None
    texts: int | None
    stage: str = BLOCK
    at: float | None = None

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
        listed: whether the legend names it; of many lines in an order it names a few.
    """

    name: str
    convention: str
    points: tuple[Point, ...]
    final: Point | None
    preferred: int | None
    near: tuple[int, ...]
    color: str
    dash: str
    listed: bool = True

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


Along = Literal["layer", "depth", "step", "position", "budget", "decay", "value"]
_WIDE: Final = 50  # a ratio of the ends from which on steps and positions stand at their logarithms
_FEW: Final = 8  # values that are their own ticks
_TITLES: Final = {
    "depth": "depth", "step": "training step", "position": "token position",
    "budget": "share of blocks dropped (%)", "decay": "decay of the eigenvalues",
    "value": "value of a text",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """Panels that share their x axis.

    Attributes:
        title: the run.
        panels: one or more a measure, in the catalogue's order.
        blocks: L.
        along: what runs along x.
        mixed: whether models of several depths are in it, so that a layer has no one depth.
    """

    title: str
    panels: tuple[Panel, ...]
    blocks: int
    along: Along = "layer"
    mixed: bool = False

    @property
    def over_layers(self) -> bool:
        """Whether layers run along x, by their number or their depth."""
        return self.along in ("layer", "depth")

    @property
    def x_title(self) -> str:
        """What stands below x; nothing where ticks show both layer and depth."""
        return "layer" if self.mixed and self.along == "layer" else _TITLES.get(self.along, "")

    @property
    def middle(self) -> float | None:
        """Where the middle layer is on x, None where there is no one place."""
        if self.along == "depth":
            return 0.5
        one = self.along == "layer" and not self.mixed
        return float(middle_layer(self.blocks)) if one else None

    def x(self, point: Point) -> float:
        """Return where a point is on x."""
        if self.over_layers:
            return point.depth if self.along == "depth" else float(point.layer)
        return self._scaled(point.at or 0.0)

    def _scaled(self, at: float) -> float:
        return math.log10(at + 1) if self._logarithmic else at

    @cached_property
    def _values(self) -> list[float]:
        """The steps or positions of all points, in order."""
        lines = (line for panel in self.panels for line in panel.lines)
        return sorted({point.at or 0.0 for line in lines for point in line.points})

    @cached_property
    def _logarithmic(self) -> bool:
        above = [value for value in self._values if value > 0 and self.along != "value"]
        return len(above) > 2 and above[-1] > _WIDE * above[0]

    @property
    def x_range(self) -> tuple[float, float]:
        """The limits of x, equal in all panels, with room for the marks at both ends."""
        if not self.over_layers:
            low, high = self._scaled(self._values[0]), self._scaled(self._values[-1])
            margin = 0.04 * (high - low or 1.0)
            return low - margin, high + margin
        top = 1.0 if self.along == "depth" else float(max(self.blocks, 1))
        return -0.04 * top, 1.04 * top

    @property
    def ticks(self) -> tuple[list[float], list[str]]:
        """At most about eight x positions with their labels: the layer, and its depth below."""
        if self.along == "depth":
            return [0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"]
        if not self.over_layers:
            values = _round_values(self._values, self._logarithmic)
            places = [self._scaled(value) for value in values]
            return places, _readable(places, [f"{value:,.6g}" for value in values])
        stride = max(1, -(-self.blocks // 7))
        layers = list(range(0, self.blocks + 1, stride))
        if layers[-1] != self.blocks:
            # The last layer always has a label; its left neighbor goes where both would not fit.
            layers = [k for k in layers if self.blocks - k > stride / 2] + [self.blocks]
        if self.mixed:
            return [float(layer) for layer in layers], [str(layer) for layer in layers]
        depth = [f"{layer / self.blocks:.2f}" if self.blocks else "0" for layer in layers]
        labels = [f"{layer}\n{deep}" for layer, deep in zip(layers, depth, strict=True)]
        return [float(layer) for layer in layers], labels


def _readable(places: Sequence[float], labels: Sequence[str]) -> list[str]:
    """Return labels without those that would touch the next one: a panel holds about 60 characters."""
    whole, found = places[-1] - places[0], [labels[-1]]
    right, beside = places[-1], labels[-1]
    for place, label in zip(reversed(places[:-1]), reversed(labels[:-1]), strict=True):
        free = right - place >= whole * (0.02 + (len(label) + len(beside)) / 2 / 60)
        found.append(label if free else "")
        right, beside = (place, label) if free else (right, beside)
    return found[::-1]


def _round_values(values: Sequence[float], logarithmic: bool) -> list[float]:
    """Return a few round numbers from the first to the last of some values in order."""
    first, last = values[0], values[-1]
    if logarithmic and len(values) <= _FEW:
        return list(values)
    if logarithmic:
        powers = [10.0**power for power in range(math.ceil(math.log10(last + 1)) + 1)]
        found = [power for power in powers if max(first, 1) <= power <= last]
        return ([0.0] if first == 0 else []) + found
    if first == last:
        return [first]
    rough = (last - first) / 6
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [step * number for number in range(math.ceil(first / step), int(last / step) + 1)]


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
    """One layer, data set or model: its measure, its score, its depth."""

    x: float
    y: float
    layer: int
    depth: float
    name: str = ""

    @property
    def words(self) -> str:
        """The dot as the pointer shows it."""
        return f"{self.name or f'layer {self.layer}'}: {self.x:.4g}, score {self.y:.4g}"


_SYMBOLS: Final = ("circle", "square", "diamond", "cross", "triangle-up", "x")


def symbol(number: int) -> str:
    """Return the symbol of the dots of a model, by its number."""
    return _SYMBOLS[number % len(_SYMBOLS)]


@dataclass(frozen=True)
class Series:
    """The dots of one model."""

    name: str
    symbol: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Cloud:
    """The score against one measure, a dot a layer, data set or model.

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
    """One cloud a measure; where dots are layers, those of a model are joined, in colors of depth."""

    title: str
    panels: tuple[Cloud, ...]
    layers: bool = True


Drawing = Figure | Heatmap | Cloud
