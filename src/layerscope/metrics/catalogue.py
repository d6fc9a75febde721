"""All measures, as one tuple of records.

A new measure takes one function, one record here, and its tests. A test checks every record: the
invariances that it names hold, and all others visibly fail.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from layerscope.errors import unknown_name
from layerscope.metrics.layer_catalogue import DYNAMICS
from layerscope.metrics.measure import Functions, Invariances, Measure, Null
from layerscope.settings import Convention

if TYPE_CHECKING:
    from layerscope.metrics import samples, tokens, views
else:
    samples, tokens, views = map(Functions, ("samples", "tokens", "views"))

PAPER, NORMALIZED, REFERENCE = Convention.PAPER, Convention.NORMALIZED, Convention.REFERENCE
ALL: Final = (PAPER, NORMALIZED, REFERENCE)

LBL = "Skean et al. 2025, Layer by Layer"
_ANALOGY_ENTROPY = "by analogy with dataset entropy, of which Skean et al. 2025 take the least"
_ANALOGY_RANK = "by analogy with RankMe, of which Garrido et al. 2023 take the most"
_NO_SPREAD = "All vectors are zero, or equal where they are centered."
_NO_LIDAR = (
    "There are fewer than 2 views or 3 texts, all texts are equal, or (normalized) the views of "
    "every text are identical."
)
_DELTA = (
    "With N (views - 1) < D the within-scatter is singular and its regularizer rules; with less than "
    "twice as many there are no limits (but under reference)."
)

_RAW: Final = frozenset({"orthogonal", "scaling", "permutation"})
_CENTERED: Final = _RAW | {"translation"}
_DIRECTIONS: Final = _RAW | {"row scaling"}
_TURNED: Final = {"token reversal"}
_TOKEN_SET: Final[Invariances] = {
    PAPER: _RAW | _TURNED,
    NORMALIZED: _CENTERED | _TURNED,
    REFERENCE: (_CENTERED | _TURNED) - {"orthogonal"},
}
_TRAJECTORY: Final[Invariances] = dict.fromkeys(ALL, (_CENTERED | _TURNED) - {"permutation"})
_POOLED: Final[Invariances] = {PAPER: _RAW, NORMALIZED: _CENTERED, REFERENCE: _RAW - {"orthogonal"}}
_ACROSS: Final[Invariances] = {PAPER: _DIRECTIONS, NORMALIZED: _CENTERED}
_INFONCE: Final[Invariances] = {**_ACROSS, REFERENCE: _RAW - {"scaling"}}
_UNSCALED: Final = _CENTERED - {"scaling"}
_SCATTER: Final[Invariances] = {PAPER: _UNSCALED, NORMALIZED: _CENTERED, REFERENCE: _UNSCALED}
# Permutations are drawn in the order of the texts, so another order is another draw.
_DIME: Final[Invariances] = {
    PAPER: _DIRECTIONS - {"permutation"},
    NORMALIZED: _CENTERED - {"permutation"},
    REFERENCE: frozenset({"scaling"}),
}

_RANDOM: Final = Null("random directions", lambda _n, _d: 0.0)
_UNRELATED: Final = Null("views unrelated to texts", lambda _n, _d: 0.0)

# What the measures of a family have in common; a record may say otherwise.
_of_tokens = partial(
    Measure,
    level="prompt",
    conventions=ALL,
    unit="fraction",
    range="0 to 1",
    direction="least",
    direction_source=_ANALOGY_ENTROPY,
    invariances=_TOKEN_SET,
    undefined="The text has fewer than 2 tokens, or all its tokens are zero or (centered) equal.",
    takes_alpha=True,
)
_of_vectors = partial(
    Measure,
    level="dataset",
    unit="directions",
    range="1 to min(N - 1, D)",
    direction="most",
    direction_source=_ANALOGY_RANK,
    invariances={"": _CENTERED},
    undefined=_NO_SPREAD,
)
_of_directions = partial(
    Measure,
    level="dataset",
    unit="nats",
    range="0 to ln min(N, D)",
    direction="least",
    direction_source=_ANALOGY_ENTROPY,
    invariances={"": _DIRECTIONS},
    undefined="Fewer than 3 of the vectors are nonzero.",
)
_of_views = partial(
    Measure,
    level="view",
    unit="nats",
    direction="least",
    direction_source="by analogy with InfoNCE",
    undefined="There are fewer than 2 views, or fewer than 2 texts with nonzero views.",
)
_of_scatter = partial(
    Measure,
    level="view",
    conventions=ALL,
    direction="most",
    direction_source="Thilak et al. 2024",
    invariances=_SCATTER,
    undefined=_NO_LIDAR,
    reference="Thilak et al. 2024",
    note=_DELTA,
)
_of_permutations = partial(
    Measure,
    level="view",
    conventions=ALL,
    unit="nats",
    invariances=_DIME,
    undefined="There are fewer than 2 views or 2 texts, or more than 1000 texts: use dip_order2.",
    takes_alpha=True,
)

CATALOGUE: Final[tuple[Measure, ...]] = (
    _of_tokens(
        name="prompt_entropy",
        title="Prompt entropy",
        function=tokens.prompt_entropy,
        formula="-sum p ln p, p = eigenvalues of Z Z^T / tr(Z Z^T), Z the token states of a text",
        unit="nats",
        range="0 to ln min(T, D); normalized: to ln min(T - 1, D)",
        reference=f"{LBL}, eq. 1",
        note="One huge token rules paper; normalized, one that is T times the others or more.",
        main=True,
        paper_seven=True,
    ),
    _of_tokens(
        name="prompt_entropy_normalized",
        title="Prompt entropy / its maximum",
        function=tokens.prompt_entropy_normalized,
        formula="prompt_entropy / ln min(T - 1, D); paper and reference: / ln min(T, D)",
        undefined="As prompt_entropy, and when the maximum is 0 (normalized: 2 tokens).",
        reference=f"{LBL}; the maximum of centered rows is ours",
    ),
    _of_tokens(
        name="prompt_entropy_per_log_length",
        title="Prompt entropy / ln T",
        function=tokens.prompt_entropy_per_log_length,
        formula="prompt_entropy / ln T",
        reference=LBL,
    ),
    Measure(
        name="curvature",
        title="Curvature",
        function=tokens.curvature,
        level="prompt",
        conventions=ALL,
        formula="mean over k of the angle between z_k+1 - z_k and z_k+2 - z_k+1",
        unit="radians",
        range="0 to pi",
        direction="least",
        direction_source="Hosseini, Fedorenko 2023: models straighten trajectories",
        invariances=_TRAJECTORY,
        undefined="The text has fewer than 3 tokens, or no two successive steps are nonzero.",
        reference=f"{LBL}, section 3.3.2; Hosseini, Fedorenko 2023",
        note="reference: the angle between centered unit tokens themselves, NaN on repeated ones.",
        null=Null("independent tokens (paper, normalized)", lambda _n, _d: 2 * math.pi / 3),
        main=True,
        paper_seven=True,
    ),
    _of_directions(
        name="dataset_entropy",
        title="Dataset entropy",
        function=samples.dataset_entropy,
        conventions=ALL,
        formula="-sum p ln p, p = eigenvalues of X X^T / tr(X X^T), X the pooled vectors",
        direction_source=LBL,
        invariances=_POOLED,
        undefined=_NO_SPREAD,
        reference=f"{LBL}, eq. 1",
        note="paper is uncentered: the common mean direction rules it.",
        main=True,
        paper_seven=True,
        takes_alpha=True,
    ),
    _of_directions(
        name="dataset_entropy_centered",
        title="Dataset entropy, centered",
        function=samples.dataset_entropy_centered,
        formula="dataset_entropy of the vectors less their mean",
        range="0 to ln min(N - 1, D)",
        invariances={"": _CENTERED},
        undefined=_NO_SPREAD,
        reference=f"{LBL}, eq. 1",
        takes_alpha=True,
    ),
    _of_directions(
        name="dataset_entropy_order2",
        title="Dataset entropy of order 2",
        function=samples.dataset_entropy_order2,
        formula="-ln of the mean squared cosine over all pairs, self-pairs included",
        undefined="All vectors are zero.",
        reference="Sanchez Giraldo, Rao, Principe 2014",
        null=Null("random directions", samples.random_directions_entropy, varies=True),
    ),
    _of_vectors(
        name="effective_rank",
        title="Effective rank",
        function=samples.effective_rank,
        conventions=(PAPER, NORMALIZED),
        formula="exp(-sum q ln q), q = singular values of X / their sum",
        range="1 to min(N, D)",
        invariances={PAPER: _RAW, NORMALIZED: _CENTERED},
        reference="Roy, Vetterli 2007",
        main=True,
        paper_seven=True,
    ),
    _of_vectors(
        name="rankme",
        title="RankMe",
        function=samples.rankme,
        formula="exp(-sum p ln p), p = singular values / their sum + 1e-7",
        range="1 to min(N, D)",
        direction_source="Garrido et al. 2023",
        invariances={"": _RAW},
        undefined="All vectors are zero.",
        reference="Garrido, Balestriero, Najman, LeCun 2023",
    ),
    _of_vectors(
        name="participation_ratio",
        title="Participation ratio",
        function=samples.participation_ratio,
        formula="(sum lambda)^2 / sum lambda^2, centered",
        reference="Gao et al. 2017",
    ),
    _of_vectors(
        name="stable_rank",
        title="Stable rank",
        function=samples.stable_rank,
        formula="sum lambda / lambda_1, uncentered",
        range="1 to min(N, D)",
        invariances={"": _RAW},
        undefined="All vectors are zero.",
        reference="Rudelson, Vershynin 2007",
    ),
    _of_vectors(
        name="nesum",
        title="NESum",
        function=samples.nesum,
        formula="sum lambda / lambda_1, centered",
        reference="He, Ozay 2022",
    ),
    _of_vectors(
        name="anisotropy_top_share",
        title="Anisotropy (first component)",
        function=samples.anisotropy_top_share,
        formula="lambda_1 / sum lambda, centered",
        unit="fraction",
        range="1 / min(N - 1, D) to 1",
        direction="least",
        direction_source="by analogy with NESum, of which it is the inverse",
        reference="Razzhigaev et al. 2024",
    ),
    _of_directions(
        name="anisotropy_mean_cosine",
        title="Anisotropy (mean cosine)",
        function=samples.anisotropy_mean_cosine,
        formula="mean cosine over pairs of different vectors",
        unit="cosine",
        range="-1 / (N - 1) to 1",
        direction_source="by analogy with anisotropy_top_share",
        reference="Ethayarajh 2019",
        null=_RANDOM,
    ),
    _of_directions(
        name="self_cluster",
        title="Self-Cluster",
        function=samples.self_cluster,
        formula="(|U U^T|^2 - E) / (N^2 - E), E = N + N (N - 1) / D, U of unit rows",
        unit="fraction",
        range="-1 / (max(N, D) - 1) to 1",
        direction_source="by analogy with anisotropy_mean_cosine",
        undefined="Fewer than 3 of the vectors are nonzero, or D is 1.",
        reference="Tsitsulin, Munkhoeva, Perozzi 2023",
        null=_RANDOM,
    ),
    _of_vectors(
        name="alpha_req",
        title="alpha-ReQ",
        function=samples.alpha_req,
        formula="minus the slope of ln lambda_i on ln i, ranks 11 to 100, weights 1/i, centered",
        unit="exponent",
        range="0 to infinity",
        direction="none",
        direction_source="Agrawal et al. 2022 prefer a value near 1",
        undefined="The rank of the centered vectors is below 15.",
        reference="Agrawal, Mondal, Ghosh, Richards 2022",
    ),
    _of_vectors(
        name="log_det_entropy",
        title="LogDet entropy",
        function=samples.log_det_entropy,
        formula="1/2 sum ln(1 + 4 D lambda / N), centered, lambda summing to N",
        unit="nats",
        range="0 to infinity",
        reference="Yu et al. 2020 (coding rate)",
    ),
    _of_views(
        name="retrieval",
        title="Retrieval",
        function=views.retrieval,
        formula="mean of 1 / rank of a text's other view among the N other views, cosine, centered",
        unit="mean reciprocal rank",
        range="above 0 to 1",
        direction="most",
        direction_source="ours: on crops of paragraphs it goes with task scores over layers",
        invariances={"": _CENTERED},
        reference="ours",
        note="Compare only at equal N. Easy on misspelled copies: read it on spans.",
        null=Null("chance", lambda n, _d: views.chance_of_retrieval(n), varies=True),
        main=True,
        on_spans=True,
    ),
    _of_views(
        name="infonce",
        title="InfoNCE",
        function=views.infonce,
        conventions=ALL,
        formula="mean of logsumexp over the 2N - 1 other vectors - s_positive, s = cosine / 0.1",
        range="ln(1 + (2N - 2) e^-20) to ln(1 + (2N - 2) e^20)",
        direction_source=LBL,
        invariances=_INFONCE,
        reference="Oord et al. 2018; Chen et al. 2020",
        note="Compare only at equal N. reference takes dot products and sits at chance.",
        null=Null("chance", lambda n, _d: math.log(2 * n - 1), varies=True),
        main=True,
        paper_seven=True,
    ),
    _of_views(
        name="infonce_cross",
        title="InfoNCE, other view only",
        function=views.infonce_cross,
        conventions=(PAPER, NORMALIZED),
        formula="mean of logsumexp over the N other views - s_positive, s = cosine / 0.1",
        range="ln(1 + (N - 1) e^-20) to ln(1 + (N - 1) e^20)",
        invariances=_ACROSS,
        reference="Oord et al. 2018",
        null=Null("chance", lambda n, _d: math.log(n), varies=True),
    ),
    _of_views(
        name="infonce_mi_bound",
        title="Mutual information bound",
        function=views.infonce_mi_bound,
        conventions=(PAPER, NORMALIZED),
        formula="ln N - infonce_cross",
        range="at most ln N",
        direction="most",
        direction_source="by analogy with InfoNCE, of which it is the negative",
        invariances=_ACROSS,
        reference=f"{LBL}, theorem 3",
        null=Null("chance", lambda _n, _d: 0.0),
    ),
    _of_scatter(
        name="lidar",
        title="LiDAR",
        function=views.lidar,
        formula="exp(-sum p ln p), p = eigenvalues of Sw^-1/2 Sb Sw^-1/2 / their sum",
        unit="directions",
        range="1 to min(N - 1, D)",
        main=True,
        paper_seven=True,
    ),
    _of_scatter(
        name="lidar_log",
        title="ln LiDAR",
        function=views.lidar_log,
        formula="ln lidar",
        unit="nats",
        range="0 to ln min(N - 1, D)",
        note=f"What the authors of {LBL} call LiDAR. {_DELTA}",
    ),
    _of_scatter(
        name="lidar_log_normalized",
        title="ln LiDAR / its maximum",
        function=views.lidar_log_normalized,
        formula="ln lidar / min(ln N, ln D)",
        unit="fraction",
        range="0 to 1",
        undefined=f"{_NO_LIDAR} Or D is 1.",
        reference=LBL,
    ),
    _of_permutations(
        name="dime",
        title="DiME",
        function=views.dime,
        formula="mean over permutations P of H(K_A o P K_B P^T), - H(K_A o K_B)",
        range="about -ln N to ln N",
        direction="least",
        direction_source=LBL,
        reference="Skean, Osorio, Brockmeier, Sanchez Giraldo 2023",
        note="10 drawn permutations, the same in every layer: see dime_standard_error.",
        null=_UNRELATED,
        main=True,
        paper_seven=True,
    ),
    _of_permutations(
        name="dime_standard_error",
        title="DiME, Monte-Carlo error",
        function=views.dime_standard_error,
        formula="standard deviation of H(K_A o P K_B P^T) over permutations / sqrt(their number)",
        range="0 to infinity",
        direction="none",
        direction_source="it is an error",
        reference="ours",
    ),
    _of_views(
        name="dip_order2",
        title="DiP of order 2",
        function=views.dip_order2,
        formula="ln |K_A o K_B|^2 - ln(N + a b / (N (N - 1))), a = sum of squared cosines, i != j",
        range="about -ln N to ln N",
        direction_source="by analogy with DiME",
        invariances={"": _DIRECTIONS},
        undefined="There are fewer than 2 views, or fewer than 3 texts with nonzero views.",
        reference="Skean, Osorio, Brockmeier, Sanchez Giraldo 2023; closed form ours",
        null=_UNRELATED,
    ),
    *DYNAMICS,
)


def measure(name: str) -> Measure:
    """Return the measure of that name, or the one with a variant of that name.

    Raises:
        InputError: there is none; the message suggests the closest.
    """
    for record in CATALOGUE:
        if name == record.name or name in record.variants:
            return record
    raise unknown_name("measure", name, [record.name for record in CATALOGUE])


def select(names: Iterable[str] | None = None) -> tuple[Measure, ...]:
    """Return the measures with those names in the catalogue's order; None selects all."""
    if names is None:
        return CATALOGUE
    wanted = {measure(name).name for name in names}
    return tuple(record for record in CATALOGUE if record.name in wanted)
