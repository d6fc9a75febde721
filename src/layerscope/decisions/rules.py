"""Rules that choose a layer without labels, as one tuple of records, and how to make new ones.

A rule turns curves over the layers into a score for each layer, of which the greatest is chosen. It
names the measures that it needs, so that a run without them can say which are missing, and it works
on many resampled curves at once, so that any rule gets a stability for nothing. A rule made of
others is one line:

>>> rule = mean_rank(most("lidar"), between(least("curvature"), 1 / 3))
>>> rule.name
'mean rank of most lidar, least curvature in depth 0.33-1'
>>> [need.metric for need in rule.needs]
['lidar', 'curvature']

A user's own rule goes to `layerscope.select(run, rule=...)` as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from layerscope.data.views import ViewKind
from layerscope.errors import InputError, unknown_name
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure

Floats = NDArray[np.float64]
Direction = Literal["least", "most"]

LBL: Final = "Skean et al. 2025, Layer by Layer"
SPANS: Final = ViewKind.CROPS


@dataclass(frozen=True)
class Need:
    """A measure that a rule looks at.

    Attributes:
        metric: its name in the table.
        perturbation: for measures of views, their kind or the whole label in the table; "" means
            the only one there is, or of several that of characters, which is the paper's (of
            retrieval, that of crops).
        convention: its preprocessing; None for the one that the whole choice is made in.
    """

    metric: str
    perturbation: ViewKind | str = ""
    convention: str | None = None

    def __post_init__(self) -> None:
        if self.perturbation in set(ViewKind):
            object.__setattr__(self, "perturbation", ViewKind(self.perturbation))

    def __str__(self) -> str:
        """Name it as errors do."""
        words = [self.metric]
        if self.perturbation:
            words.append(f"on {self.perturbation}")
        if self.convention is not None:
            words.append(f"({self.convention} convention)")
        return " ".join(words)


@dataclass(frozen=True)
class Curves:
    """What a rule sees of a run: the measures that it needs, over the layers.

    Attributes:
        blocks: L, the number of blocks; layers are 0..L.
        values: each measure (..., layer), NaN where it is undefined; leading axes are resamples.
        noise: gives a measure's (2, layer, layer): how far below and above its true value the
            difference [a, b] = value of b less value of a may lie by chance; NaN if unknown.
    """

    blocks: int
    values: Mapping[Need, Floats]
    noise: Callable[[Need], Floats]

    def __getitem__(self, need: Need | str) -> Floats:
        """Return the curve of a need, or of the first need of that metric."""
        return self.values[self._need(need)]

    def noise_of(self, need: Need | str) -> Floats:
        """Return the noise of a need, or of the first need of that metric."""
        return self.noise(self._need(need))

    def _need(self, need: Need | str) -> Need:
        if isinstance(need, Need):
            return need
        for known in self.values:
            if known.metric == need:
                return known
        raise unknown_name("measure of this rule", need, [known.metric for known in self.values])

    @property
    def layers(self) -> Floats:
        """The layers 0..L."""
        return np.arange(self.blocks + 1, dtype=np.float64)

    @property
    def depth(self) -> Floats:
        """Layer / L of each layer; 0 where there is no block."""
        return self.layers / max(1, self.blocks)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way to choose a layer without labels.

    Attributes:
        name: its name in tables and commands.
        description: one sentence for people.
        function: of the curves, to a score (..., layer) with the leading axes of the curves;
            the greatest score is chosen, NaN never, and where all are equal no layer is.
        needs: the measures that it looks at; none for a fixed layer.
        reference: who proposed it.
        normed: whether the layer is meant after the final norm.
        main: whether it stands in a terminal's short table.
    """

    name: str
    description: str
    function: Callable[[Curves], Floats]
    needs: tuple[Need, ...] = ()
    reference: str = "ours"
    normed: bool = False
    main: bool = True

    @property
    def fixed(self) -> bool:
        """Whether it takes the same layer whatever was measured."""
        return not self.needs


# -- scores of layers, all over the last axis -------------------------------------------------------


def standing(scores: Floats) -> Floats:
    """Return the share of the other layers that each one beats, ties half: 0 to 1.

    >>> standing(np.array([3.0, 1.0, np.nan, 2.0]))
    array([1. , 0. , nan, 0.5])
    """
    mine, other = scores[..., :, None], scores[..., None, :]
    beaten = (mine > other).sum(-1) + ((mine == other).sum(-1) - 1) / 2
    rivals = (~np.isnan(scores)).sum(-1, keepdims=True) - 1
    found: Floats = np.where(np.isnan(scores), np.nan, beaten / np.maximum(rivals, 1))
    return found


def running_mean(scores: Floats, width: int) -> Floats:
    """Return the mean over each layer and its neighbors, `width` layers, those undefined left out.

    >>> running_mean(np.array([3.0, 0.0, 6.0, np.nan]), 3)
    array([1.5, 3. , 3. , nan])
    """
    defined = ~np.isnan(scores)
    kernel = np.ones(width)

    def summed(values: Floats) -> Floats:
        wide = np.apply_along_axis(np.convolve, -1, values, kernel, "full")
        start = width // 2
        part: Floats = wide[..., start : start + values.shape[-1]]
        return part

    total = summed(np.where(defined, scores, 0.0))
    count = summed(defined.astype(np.float64))
    found: Floats = np.where(defined, total / np.maximum(count, 1.0), np.nan)
    return found


# -- rules of one measure ---------------------------------------------------------------------------


def least(metric: str, perturbation: str = "", *, reference: str = "ours") -> Rule:
    """Return the rule that takes the layer where a measure is least."""
    return _extreme(metric, "least", perturbation, reference)


def most(metric: str, perturbation: str = "", *, reference: str = "ours") -> Rule:
    """Return the rule that takes the layer where a measure is greatest."""
    return _extreme(metric, "most", perturbation, reference)


def _extreme(metric: str, direction: Direction, perturbation: str, reference: str) -> Rule:
    need = Need(metric, perturbation)
    sign = 1.0 if direction == "most" else -1.0
    words = f"{metric} on {perturbation}" if perturbation else metric
    return Rule(
        name=f"{direction} {words}",
        description=f"The layer where {words} is {'greatest' if sign > 0 else 'least'}.",
        function=lambda curves: sign * curves[need],
        needs=(need,),
        reference=reference,
    )


# -- rules that look at nothing ---------------------------------------------------------------------


def fixed(
    name: str, description: str, layer: Callable[[int], int], *, normed: bool = False
) -> Rule:
    """Return the rule that takes one layer, computed from the number of blocks."""
    return Rule(
        name=name,
        description=description,
        function=lambda curves: -np.abs(curves.layers - layer(curves.blocks)),
        normed=normed,
    )


def middle_layer(blocks: int) -> int:
    """Return L / 2 rounded down, the baseline that every choice of a layer has to beat."""
    return blocks // 2


def two_thirds_layer(blocks: int) -> int:
    """Return 2 L / 3 rounded to the nearest layer.

    >>> two_thirds_layer(24), two_thirds_layer(7)
    (16, 5)
    """
    return round(2 * blocks / 3)


# -- rules made of others ---------------------------------------------------------------------------


def mean_rank(*rules: Rule) -> Rule:
    """Return the rule of the best mean rank; a layer undefined for one of them takes no part."""
    return _combined(
        "mean rank", rules, lambda scores: np.mean([standing(score) for score in scores], axis=0)
    )


def median_rank(*rules: Rule) -> Rule:
    """Return the rule of the best median rank; a layer undefined for one of them takes no part."""
    return _combined(
        "median rank",
        rules,
        lambda scores: np.median([standing(score) for score in scores], axis=0),
    )


def borda(*rules: Rule) -> Rule:
    """Return the rule of most points: one for each layer beaten, none where undefined.

    Like the mean rank, except that a layer undefined for some rules stays a candidate.
    """

    def points(scores: Sequence[Floats]) -> Floats:
        rivals = [np.maximum((~np.isnan(score)).sum(-1, keepdims=True) - 1, 0) for score in scores]
        each = [
            np.nan_to_num(standing(s), nan=0.0) * n for s, n in zip(scores, rivals, strict=True)
        ]
        nowhere = np.all([np.isnan(score) for score in scores], axis=0)
        return np.where(nowhere, np.nan, np.sum(each, axis=0))

    return _combined("Borda count", rules, points)


def between(rule: Rule, low: float, high: float = 1.0) -> Rule:
    """Return a rule's choice among the layers of depth low to high."""

    def restricted(curves: Curves) -> Floats:
        depth = curves.depth
        inside = (depth >= low - 1e-9) & (depth <= high + 1e-9)
        return np.where(inside, rule.function(curves), np.nan)

    where = f"in depth {low:.2g}-{high:.2g}"
    return _changed(rule, where, restricted)


def without(rule: Rule, *layers: int) -> Rule:
    """Return a rule's choice among all layers but those named."""
    named = ", ".join(map(str, layers))
    return _changed(
        rule,
        f"without layer {named}",
        lambda curves: np.where(np.isin(curves.layers, layers), np.nan, rule.function(curves)),
    )


def smoothed(rule: Rule, width: int = 3) -> Rule:
    """Return a rule on the running mean of its scores over `width` layers, an odd number."""
    if width < 1 or width % 2 == 0:
        raise InputError(f"expected an odd number of layers to smooth over, got {width}.")
    return _changed(
        rule,
        f"smoothed over {width} layers",
        lambda curves: running_mean(rule.function(curves), width),
    )


def nearest(rule: Rule, depth: float, tolerance: float) -> Rule:
    """Return the layer nearest to a depth among those nearly as good as a rule's best.

    Nearly as good is within `tolerance` times the range of its scores over the layers.
    """

    def score(curves: Curves) -> Floats:
        scores = rule.function(curves)
        some = (~np.isnan(scores)).any(-1, keepdims=True)
        filled = np.where(some, scores, 0.0)
        top, bottom = (f(filled, axis=-1, keepdims=True) for f in (np.nanmax, np.nanmin))
        good = scores >= top - tolerance * (top - bottom)
        return np.where(
            good, -np.abs(curves.depth - depth), np.where(np.isnan(scores), scores, -2.0)
        )

    return _changed(rule, f"nearest depth {depth:.2g} within {tolerance:.0%}", score)


def vote(*rules: tuple[str, Direction]) -> Rule:
    """Return the rule of most votes: each measure with limits for all layers within noise of its best."""
    needs = [(Need(metric), 1.0 if direction == "most" else -1.0) for metric, direction in rules]

    def votes(curves: Curves) -> Floats:
        ballots = [_within_noise(sign * curves[n], curves.noise_of(n), sign) for n, sign in needs]
        nowhere = np.all([np.isnan(curves[need]) for need, _ in needs], axis=0)
        return np.where(nowhere, np.nan, np.sum(ballots, axis=0, dtype=np.float64))

    names = ", ".join(f"{direction} {metric}" for metric, direction in rules)
    return Rule(
        name=f"vote of {names}",
        description=f"The layer with most votes of {names}, each for all within noise of its best.",
        function=votes,
        needs=tuple(need for need, _ in needs),
    )


def _within_noise(scores: Floats, noise: Floats, sign: float) -> NDArray[np.bool_]:
    """Return which layers are within noise of the best one, (..., layer)."""
    undefined = np.isnan(scores)
    best = np.where(undefined, -np.inf, scores).argmax(-1)
    difference = sign * (scores - np.take_along_axis(scores, best[..., None], -1))
    below, above = noise[0][best], noise[1][best]
    some = ~undefined.all(-1, keepdims=True)
    found: NDArray[np.bool_] = some & (difference >= -above) & (difference <= below)
    return found


def _combined(
    kind: str, rules: Sequence[Rule], combine: Callable[[Sequence[Floats]], Floats]
) -> Rule:
    names = ", ".join(rule.name for rule in rules)

    def score(curves: Curves) -> Floats:
        scores = np.broadcast_arrays(*(rule.function(curves) for rule in rules))
        return combine(scores)

    return Rule(
        name=f"{kind} of {names}",
        description=f"The layer of the best {kind} of: {names}.",
        function=score,
        needs=_union(rules),
    )


def _changed(rule: Rule, words: str, function: Callable[[Curves], Floats]) -> Rule:
    return replace(
        rule,
        name=f"{rule.name} {words}",
        description=f"{rule.description.rstrip('.')}, {words}.",
        function=function,
        reference="ours",
    )


def _union(rules: Iterable[Rule]) -> tuple[Need, ...]:
    return tuple(dict.fromkeys(need for rule in rules for need in rule.needs))


def named(rule: Rule, name: str, description: str = "") -> Rule:
    """Return a rule under a name of its own."""
    return replace(rule, name=name, description=description or rule.description)


# -- the rules --------------------------------------------------------------------------------------

LAST: Final = fixed("last", "What the model itself gives.", lambda blocks: blocks, normed=True)
MIDDLE: Final = fixed("middle", "The layer at half depth, rounded down.", middle_layer)
TWO_THIRDS: Final = fixed("two thirds", "The layer at two thirds of the depth.", two_thirds_layer)
RANDOM: Final = Rule(
    name="random",
    description="Any layer: its score is the mean over all of them.",
    function=lambda curves: np.zeros(curves.blocks + 1),
)
BASELINES: Final = (LAST, MIDDLE, TWO_THIRDS, RANDOM)

_DIRECTIONS: Final[tuple[Direction, ...]] = ("least", "most")
SEVEN: Final = tuple(measure for measure in CATALOGUE if measure.paper_seven)


def _direction(measure: Measure) -> Direction:
    return "most" if measure.direction == "most" else "least"


_PREFERENCES: Final = tuple((measure.name, _direction(measure)) for measure in SEVEN)
_OF_THE_SEVEN: Final = tuple(_extreme(name, direction, "", LBL) for name, direction in _PREFERENCES)
RETRIEVAL: Final = named(
    most("retrieval", SPANS),
    "most retrieval",
    "The layer where one piece of a text best finds another piece of the same text.",
)

# Errors of other measures choose nothing; retrieval has its own record above.
_SINGLE: Final = tuple(
    measure.name
    for measure in CATALOGUE
    if measure.level != "pair" and measure.name not in ("dime_standard_error", "retrieval")
)

RULES: Final[tuple[Rule, ...]] = (
    RETRIEVAL,
    *BASELINES,
    *(
        named(
            combined, f"{kind} of the seven", f"The layer of the best {kind} of the paper's seven."
        )
        for kind, combined in (
            ("mean rank", mean_rank(*_OF_THE_SEVEN)),
            ("median rank", median_rank(*_OF_THE_SEVEN)),
            ("Borda count", borda(*_OF_THE_SEVEN)),
        )
    ),
    named(
        vote(*_PREFERENCES),
        "vote of the seven",
        "The layer that most of the paper's seven prefer or cannot tell from their best.",
    ),
    *_OF_THE_SEVEN,
    *(
        replace(_extreme(name, direction, "", "ours"), main=False)
        for name in _SINGLE
        for direction in _DIRECTIONS
        if (name, direction) not in _PREFERENCES
    ),
    *(
        replace(_extreme(name, direction, SPANS, "ours"), main=False)
        for name in ("infonce", "lidar", "dime")
        for direction in _DIRECTIONS
    ),
)

# Of the rules tried (benchmarks/results/rules.md) the simplest of those that gained most on tasks and
# models they were not chosen on; it was never worse than the last layer there.
DEFAULT_RULE: Final = RETRIEVAL.name
# What is taken where a run lacks what the default rule needs: no published rule beats it.
FALLBACK_RULE: Final = MIDDLE.name


def find(name: str, rules: Iterable[Rule] = RULES) -> Rule:
    """Return the rule of that name.

    Raises:
        InputError: there is none; the message offers the closest.
    """
    known = tuple(rules)
    for rule in known:
        if rule.name == name:
            return rule
    raise unknown_name("rule", name, [rule.name for rule in known])
