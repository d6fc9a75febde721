"""The records of the measures of several layers: Frenet, NRS, GFMI and their baselines.

Their functions are in `layers`. What Jiang, Yang and Tam 2026 measure under these names could not be
read beyond their abstract, so each record says what is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from layerscope.metrics.measure import NEIGHBORHOODS, SCALES, SUBSPACES, Functions, Measure, Null

if TYPE_CHECKING:
    from layerscope.metrics import layers, neighbors, subspaces
else:
    layers, neighbors, subspaces = map(Functions, ("layers", "neighbors", "subspaces"))

_LRD = "name: Jiang, Yang, Tam 2026 (abstract only)"
_OURS = "LRD's own definition was not available"
_NO_DIRECTION = "no order of layers by it is published"
_EACH: Final = frozenset(
    {"orthogonal", "scaling", "translation", "permutation", "layer scaling", "layer translation"}
)
_ROTATED: Final = _EACH | {"layer rotation"}
_SAME_FRAME: Final = frozenset(
    {"orthogonal", "scaling", "row scaling", "permutation", "layer scaling"}
)
_COSINES: Final = _SAME_FRAME | {"layer rotation"}
_SUBSPACE = (
    "All vectors of a layer are equal (as CLS or EOS pooling makes layer 0), or the subspaces fill "
    "the space."
)
_K_NOTE = (
    "k is lowered to the least rank of a layer; with fewer than 4 k texts noise rules. Directions in "
    "feature space are those of the residual stream, centered."
)
_FEW = "There are not more than k texts, all vectors of a layer are equal, or one is zero."
_GRAPH = "There are fewer than 4 texts, or a vector equals the mean of its layer."
_UNRELATED = "unrelated layers"

_RANDOM: Final = Null("random subspaces", subspaces.random_level, varies=True)
_KEPT_BY_CHANCE: Final = Null(_UNRELATED, lambda n, _d: neighbors.chance_retention(n), varies=True)
_ZERO: Final = Null(_UNRELATED, lambda _n, _d: 0.0)
_RIGHT_ANGLE: Final = Null("random subspaces", lambda _n, _d: math.pi / 2)

# What the measures of a family have in common; a record may say otherwise.
_pair = partial(
    Measure,
    level="pair",
    unit="fraction",
    range="0 to 1",
    direction="none",
    direction_source=_NO_DIRECTION,
)
_frenet = partial(_pair, invariances={"": _EACH}, undefined=_SUBSPACE, reference=_LRD)
_gfmi = partial(_pair, invariances={"": _ROTATED}, undefined=_GRAPH, reference=_LRD, null=_ZERO)
_trust = partial(
    _pair,
    place="step",
    invariances={"": _COSINES},
    undefined="There are not more than 2 k texts, or vectors without a direction.",
    reference="Venna, Kaski 2001",
    null=Null(_UNRELATED, lambda n, _d: neighbors.chance_trustworthiness(n), varies=True),
)
_cka = partial(
    _pair,
    range="about 0 to 1",
    invariances={"": _ROTATED},
    undefined="There are fewer than 4 texts, or all vectors of a layer are equal.",
    reference="Kornblith et al. 2019; Song et al. 2012",
    null=_ZERO,
)
_angle = partial(
    _pair,
    unit="fraction of pi",
    invariances={"": _SAME_FRAME},
    undefined="No text has a nonzero vector in both layers.",
    reference="Gromov et al. 2024",
    null=Null("random directions", lambda _n, _d: 0.5),
)
_dimension = partial(
    _pair,
    place="layer",
    unit="dimensions",
    range="0 to infinity",
    invariances={"": _ROTATED},
    note="Of one layer.",
)


def _names(stem: str, sizes: Sequence[int], *ends: str) -> tuple[str, ...]:
    """Return the names of the variants: all but the first, which is the measure's own."""
    return tuple(f"{stem}_k{k}{end}" for k in sizes for end in ("", *ends))[1:]


def _nrs(
    place: Literal["step", "final", "model"],
    stem: str,
    title: str,
    formula: str,
    *,
    source: str = "",
    note: str = f"{_OURS}.",
) -> tuple[Measure, Measure]:
    """Return the records of NRS at one place: as it is, and above chance."""
    plain = _pair(
        name=f"{stem}_k10",
        title=title,
        function=partial(layers.nrs, place=place),
        place=place,
        variants=_names(stem, NEIGHBORHOODS),
        formula=formula,
        invariances={"": _COSINES},
        undefined=_FEW,
        reference=f"{_LRD}; {source}" if source else _LRD,
        note=note,
        null=_KEPT_BY_CHANCE,
    )
    above = stem.replace("nrs", "nrs_corrected")
    return plain, replace(
        plain,
        name=f"{above}_k10",
        title=f"{title} above chance",
        function=partial(layers.nrs, place=place, corrected=True),
        variants=_names(above, NEIGHBORHOODS),
        formula="mean of nrs_corrected over the blocks"
        if place == "model"
        else f"({stem} - c) / (1 - c), c = k / (N - 1)",
        range="-k / (N - 1 - k) to 1",
        undefined=f"{_FEW} Or k is N - 1.",
        reference=f"{_LRD}; Lee et al. 2013" if source else _LRD,
        note=f"{_OURS}.",
        null=_ZERO,
    )


DYNAMICS: Final[tuple[Measure, ...]] = (
    _frenet(
        name="frenet_speed_k32",
        title="Frenet speed",
        function=layers.frenet_speed,
        place="step",
        variants=_names("frenet_speed", SUBSPACES),
        formula="|theta| / (pi/2 sqrt(min(k, D - k))), theta the principal angles of U_l-1 and U_l",
        unit="fraction of the largest distance",
        reference=f"{_LRD}; geodesic distance: Edelman, Arias, Smith 1998",
        note=f"{_OURS}: centering, k and the metric are our choice. _floor is what estimation noise "
        f"alone gives, from halves of the texts. {_K_NOTE}",
        null=_RANDOM,
    ),
    _frenet(
        name="frenet_turning_k32",
        title="Frenet turning",
        function=layers.frenet_turning,
        place="layer",
        variants=_names("frenet_turning", SUBSPACES),
        formula="angle of -Log_U_l(U_l-1) and Log_U_l(U_l+1)",
        unit="radians",
        range="0 to pi",
        undefined=f"{_SUBSPACE} Or a neighboring layer has the same subspace.",
        reference=f"{_LRD}; log map: Bendokat, Zimmermann, Absil 2024",
        note=f"{_OURS}. 0 straight on, pi back; estimation noise about one subspace gives 2 pi / 3. "
        "Measured models stay within ten degrees of pi / 2.",
        null=_RIGHT_ANGLE,
    ),
    _frenet(
        name="frenet_curvature_k32",
        title="Frenet curvature",
        function=layers.frenet_curvature,
        place="layer",
        variants=_names("frenet_curvature", SUBSPACES),
        formula="2 turning_l / (v_l-1 + v_l), v the distances to both neighbors in radians",
        unit="radians per radian of path",
        range="0 to infinity",
        undefined=f"{_SUBSPACE} Or a neighboring layer has the same subspace.",
        note=f"{_OURS}. Where the turning is near pi / 2 everywhere, little more than 1 / speed.",
    ),
    _frenet(
        name="frenet_displacement_k32",
        title="Frenet displacement d_0,L",
        function=layers.frenet_displacement,
        place="model",
        variants=_names("frenet_displacement", SUBSPACES),
        formula="distance of U_0 and U_L / (pi/2 sqrt(min(k, D - k)))",
        unit="fraction of the largest distance",
        note=f"{_OURS}. The null rises with the hidden width D: compare models by the ratio to it, or "
        f"by frenet_displacement_sample_k32. {_K_NOTE}",
        null=_RANDOM,
    ),
    _frenet(
        name="frenet_displacement_sample_k32",
        title="Displacement over samples",
        function=layers.frenet_displacement_sample,
        place="model",
        variants=_names("frenet_displacement_sample", SUBSPACES),
        formula="distance of the left singular subspaces of X_0 and X_L / its largest",
        unit="fraction of the largest distance",
        invariances={"": _ROTATED},
        undefined="All vectors of a layer are equal, or there are not more than k texts.",
        reference=f"{_LRD}; sample space: Raghu et al. 2017 (SVCCA)",
        note=f"{_OURS}. One null for models of any width, as it depends on N alone. Limits take "
        "2 (k + 2) texts.",
        null=Null("random subspaces", lambda n, _d: subspaces.random_level(10**9, n), varies=True),
    ),
    _frenet(
        name="frenet_arc_length_k32",
        title="Frenet arc length",
        function=layers.frenet_arc_length,
        place="model",
        variants=_names("frenet_arc_length", SUBSPACES),
        formula="sum of frenet_speed over the blocks",
        unit="largest distances",
        range="0 to L",
        reference="ours",
        note="Grows with the number of blocks and, by noise, with fewer texts.",
    ),
    _frenet(
        name="frenet_straightness_k32",
        title="Frenet straightness",
        function=layers.frenet_straightness,
        place="model",
        variants=_names("frenet_straightness", SUBSPACES, "_bound"),
        formula="frenet_displacement / frenet_arc_length",
        undefined=f"{_SUBSPACE} Or the subspace never moves.",
        reference="ours",
        note="_bound is the largest that a path of this length can have: distances are bounded.",
    ),
    _frenet(
        name="frenet_mean_turning_k32",
        title="Frenet mean turning",
        function=layers.frenet_mean_turning,
        place="model",
        variants=_names("frenet_mean_turning", SUBSPACES),
        formula="mean of frenet_turning over the inner layers",
        unit="radians",
        range="0 to pi",
        undefined="No inner layer has a turning.",
        note=f"{_OURS}.",
        null=_RIGHT_ANGLE,
    ),
    *_nrs(
        "step",
        "nrs",
        "NRS",
        "mean over texts of |N_k(l-1) and N_k(l)| / k, N_k the k nearest by cosine",
        source="Doimo et al. 2020",
        note=f"{_OURS}: neighborhood overlap, k = 10 and uncentered cosines are our choice. Compare "
        "only at equal k / (N - 1).",
    ),
    *_nrs(
        "final",
        "nrs_to_final",
        "NRS to the final layer",
        "mean over texts of |N_k(l) and N_k(L)| / k",
        source="Doimo et al. 2020",
        note=f"{_OURS}. The final layer is block L before the final norm.",
    ),
    *_nrs("model", "mean_nrs", "Mean NRS", "mean of nrs over the blocks"),
    _gfmi(
        name="gfmi_edge",
        title="GFMI by edges",
        function=layers.gfmi_edge,
        place="final",
        variants=("gfmi_edge_signed",),
        formula="mean over mean degrees 1, 2, 4, ... of 2 I / (h(a) + h(b)) of a pair being an edge",
        range="0 to 1; signed: -1 to 1",
        reference=f"{_LRD}; edge filtration: Lee, Kang, Chung, Kim, Lee 2012",
        note=f"{_OURS}, and the variant is part of the name. Centered cosines; levels with fewer "
        "common edges than chance count 0, in _signed below 0. _null is the final layer against "
        "itself with the texts shuffled.",
        null=Null(f"{_UNRELATED} of many texts", lambda _n, _d: 0.0),
    ),
    _gfmi(
        name="gfmi_knn",
        title="GFMI by neighbor lists",
        function=layers.gfmi_knn,
        place="final",
        formula="mean over k = 1, 2, ..., up to (N - 1) / 2, of 2 I / (h + h) of being in another's list",
        invariances={"": _COSINES},
        undefined="There are fewer than 4 texts, all vectors of a layer are equal, or one is zero.",
        note=f"{_OURS}. A function of NRS at each k: no evidence beside it.",
    ),
    _gfmi(
        name="gfmi_component",
        title="GFMI by components",
        function=layers.gfmi_component,
        place="final",
        variants=("gfmi_component_counts",),
        formula="mean over levels of the adjusted mutual information of connected components",
        range="about 0 to 1",
        reference=f"{_LRD}; adjusted information: Vinh, Epps, Bailey 2010",
        note=f"{_OURS}. One giant component leaves few levels that say anything. _counts cuts both "
        "trees to the same number of clusters. No limits.",
    ),
    _gfmi(
        name="mean_gfmi_edge",
        title="Mean GFMI by edges",
        function=layers.mean_gfmi_edge,
        place="model",
        formula="mean of gfmi_edge over layers 0..L-1",
        note=f"{_OURS}. _null is the final layer against itself with the texts shuffled.",
        null=Null(f"{_UNRELATED} of many texts", lambda _n, _d: 0.0),
    ),
    _gfmi(
        name="mean_gfmi_knn",
        title="Mean GFMI by neighbor lists",
        function=layers.mean_gfmi_knn,
        place="model",
        formula="mean of gfmi_knn over layers 0..L-1",
        invariances={"": _COSINES},
        undefined="There are fewer than 4 texts, all vectors of a layer are equal, or one is zero.",
        note=f"{_OURS}.",
    ),
    _cka(
        name="cka_unbiased",
        title="CKA with the layer before",
        function=layers.cka,
        place="step",
        formula="HSIC_u(K, K') / sqrt(HSIC_u(K, K) HSIC_u(K', K')), linear kernels",
        direction_source="a block of high CKA changes little",
        note="Unbiased: unrelated layers give 0 on average, so it may be just below.",
    ),
    _pair(
        name="procrustes_angle",
        title="Procrustes angle",
        function=layers.procrustes_angle,
        place="step",
        formula="arccos |X'Y|_*, X and Y centered, of Frobenius norm 1",
        unit="radians",
        range="0 to pi / 2",
        direction_source="a block of small angle changes little",
        invariances={"": _ROTATED},
        undefined="All vectors of a layer are equal.",
        reference="Ding, Denain, Steinhardt 2021; Williams et al. 2021",
        note="No limits.",
    ),
    _angle(
        name="angular_distance",
        title="Angular distance",
        function=layers.angular_distance,
        place="step",
        formula="mean over texts of arccos cos(x_l-1, x_l) / pi",
        direction_source="Gromov et al. 2024 remove the blocks across which it is least",
        note="They take the last token's state; here it is the pooled vector.",
    ),
    _pair(
        name="block_influence",
        title="Block influence",
        function=layers.block_influence,
        place="step",
        crosses_blocks=True,
        formula="1 - mean over tokens of cos(h before a block, h after it)",
        unit="1 - cosine",
        range="0 to 2",
        direction_source="Men et al. 2024 remove the block of least influence first",
        # Of token states, which may be scaled one by one; nothing else is left as it was.
        invariances={"": _SAME_FRAME},
        undefined="No token that counts has a direction before and after the block.",
        reference="Men et al. 2024 (ShortGPT)",
        note="On tokens, not on pooled vectors: every token that counts alike.",
        null=Null("random directions", lambda _n, _d: 1.0),
    ),
    _trust(
        name="trustworthiness_k10",
        title="Trustworthiness",
        function=layers.trustworthiness,
        formula="1 - 2 / (N k (2N - 3k - 1)) sum of max(0, rank before - k) over neighbors after",
        note="Low where a block brings texts together that were far apart.",
    ),
    _trust(
        name="continuity_k10",
        title="Continuity",
        function=layers.continuity,
        formula="trustworthiness with the two layers swapped",
        note="Low where a block tears texts apart that were close.",
    ),
    _cka(
        name="cka_matrix",
        title="CKA of every two layers",
        function=layers.cka_matrix,
        place="matrix",
        formula="cka_unbiased of layers l < m",
        note="No limits.",
    ),
    _pair(
        name="nrs_matrix_k10",
        title="Mutual neighbors of every two layers",
        function=layers.nrs_matrix,
        place="matrix",
        formula="mean over texts of |N_k(l) and N_k(m)| / k, layers l < m",
        invariances={"": _COSINES},
        undefined=_FEW,
        reference="Doimo et al. 2020; between models: Huh, Cheung, Wang, Isola 2024",
        note="No limits.",
        null=_KEPT_BY_CHANCE,
    ),
    _pair(
        name="grassmann_matrix_k32",
        title="Grassmann distance of every two layers",
        function=layers.grassmann_matrix,
        place="matrix",
        formula="frenet_speed between any layers l < m",
        unit="fraction of the largest distance",
        invariances={"": _EACH},
        undefined=_SUBSPACE,
        reference="Edelman, Arias, Smith 1998",
        note="No limits.",
        null=_RANDOM,
    ),
    _angle(
        name="angular_matrix",
        title="Angular distance of every two layers",
        function=layers.angular_matrix,
        place="matrix",
        formula="angular_distance over n = m - l blocks, layers l < m",
        direction_source="Gromov et al. 2024 remove the n blocks across which it is least",
        note="No limits.",
    ),
    _dimension(
        name="two_nn",
        title="Intrinsic dimension, TwoNN",
        function=layers.two_nn,
        formula="(N - 1) / sum ln(r_2 / r_1), r the distances of the two nearest",
        undefined="Over 5 % of the texts have two nearest equally far, or all have a duplicate.",
        reference="Facco, d'Errico, Rodriguez, Laio 2017",
        note="Of one layer, from the neighbor lists of the family. Too low in high dimension.",
    ),
    _dimension(
        name="gride_n2",
        title="Intrinsic dimension, GRIDE",
        function=layers.gride,
        variants=tuple(f"gride_n{scale}" for scale in SCALES[1:]),
        formula="maximum likelihood from ln(r_2n / r_n)",
        undefined="There are not more than 2 n texts, or over 5 % of the distances tie.",
        reference="Denti, Doimo, Laio, Mira 2022",
        note="Of one layer. A plateau over the scales n is the estimate.",
    ),
    _dimension(
        name="levina_bickel_k20",
        title="Intrinsic dimension, MLE",
        function=layers.levina_bickel,
        formula="1 / mean over texts of (1 / (k - 1)) sum over j < k of ln(T_k / T_j), k = 20",
        undefined="There are not more than 20 texts, or all neighbors are equally far.",
        reference="Levina, Bickel 2005; MacKay, Ghahramani 2005",
    ),
)
