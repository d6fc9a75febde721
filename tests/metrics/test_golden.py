"""Values of the authors' code and of the paper's formulas on fixed arrays, 1e-9 unless said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from layerscope.metrics import samples, tokens, views
from layerscope.metrics.inputs import SampleInputs, TokenInputs, ViewInputs
from layerscope.settings import Convention

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
PAPER, NORMALIZED, REFERENCE = Convention.PAPER, Convention.NORMALIZED, Convention.REFERENCE
ORDERS = ("0.5", "1", "2", "3")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/golden is missing"),
]


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "golden.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture(scope="module")
def values():
    return json.loads((GOLDEN / "golden.json").read_text())


@pytest.fixture(scope="module")
def texts(arrays):
    states = arrays["hidden_N24_D16"]
    return TokenInputs(states, torch.ones(states.shape[:2], dtype=torch.bool))


def close(found, expected, tolerance=1e-9):
    assert np.asarray(found, float) == pytest.approx(np.asarray(expected, float), abs=tolerance)


def test_the_authors_preprocessing(arrays, texts):
    torch.testing.assert_close(texts.unit, arrays["hidden_norm_N24_D16"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("alpha", ORDERS)
def test_prompt_entropy(values, texts, alpha):
    order = float(alpha)
    reference = values["reference"]["hidden_norm_N24_D16"][f"entropy_alpha{alpha}"]
    close(tokens.prompt_entropy(texts, REFERENCE, alpha=order), reference["raw"])
    normalized = tokens.prompt_entropy_normalized(texts, REFERENCE, alpha=order)
    close(normalized, reference["maxEntropy"])
    close(tokens.prompt_entropy_per_log_length(texts, REFERENCE, alpha=order), reference["logN"])
    for convention, array in ((PAPER, "hidden_N24_D16"), (NORMALIZED, "hidden_norm_N24_D16")):
        expected = values["paper"][array][f"entropy_alpha{alpha}_paper"]
        close(tokens.prompt_entropy(texts, convention, alpha=order), expected)


def test_curvature(values, texts):
    reference = values["reference"]["hidden_norm_N24_D16"]["curvature_k1"]["raw"]
    close(tokens.curvature(texts, REFERENCE), reference)
    close(tokens.curvature(texts, PAPER), values["paper"]["hidden_N24_D16"]["curvature_paper"])
    expected = values["paper"]["hidden_norm_N24_D16"]["curvature_paper"]
    close(tokens.curvature(texts, NORMALIZED), expected)


@pytest.mark.parametrize("alpha", ORDERS)
def test_dataset_entropy(arrays, values, alpha):
    layers = [SampleInputs(rows, rows) for rows in arrays["hidden_N24_D16"]]
    for convention, expected in (
        (REFERENCE, values["reference"]["hidden_N24_D16"][f"entropy_alpha{alpha}"]["raw"]),
        (PAPER, values["paper"]["hidden_N24_D16"][f"entropy_alpha{alpha}_paper"]),
        (NORMALIZED, values["paper"]["hidden_norm_N24_D16"][f"entropy_alpha{alpha}_paper"]),
    ):
        found = [samples.dataset_entropy(x, convention, alpha=float(alpha)).value for x in layers]
        close(found, expected)


@pytest.mark.parametrize(("temperature", "key"), [(0.1, "infonce_T0.1"), (0.5, "infonce_T0.5")])
def test_infonce_of_the_authors(arrays, values, temperature, key):
    layers = [ViewInputs(rows, rows) for rows in arrays["aug2_N20_D16"]]
    found = [views.infonce(x, REFERENCE, temperature=temperature).value for x in layers]
    close(found, values["reference"]["aug2_N20_D16"][key]["raw"])


def test_infonce_of_the_paper(arrays, values):
    found = [views.infonce(ViewInputs(rows), PAPER).value for rows in arrays["aug2_N20_D16"]]
    close(found, values["paper"]["aug2_N20_D16"]["infonce_T0.1_cosine"])


def test_lidar(arrays, values):
    for name in ("aug2_N20_D16", "aug16_N20_D16"):
        layers = [ViewInputs(rows, rows) for rows in arrays[name]]
        expected = values["reference"][name]["lidar_alpha1"]
        # The authors' code sums in float32.
        close([views.lidar_log(x, REFERENCE).value for x in layers], expected["raw"], 1e-5)
        found = [views.lidar_log_normalized(x, REFERENCE).value for x in layers]
        close(found, expected["maxEntropy"], 1e-5)
    found = [views.lidar_log(x, PAPER).value for x in layers]
    close(found, values["paper"]["aug16_N20_D16"]["lidar_alpha1_float64"])


@pytest.mark.parametrize("alpha", [1, 2])
def test_dime_of_the_authors(arrays, values, alpha):
    found = [
        views.dime(ViewInputs(rows, rows, permutations=orders), REFERENCE, alpha=alpha).value
        for rows, orders in zip(arrays["aug2_N20_D16"], arrays["perms_aug2_N20_D16"], strict=True)
    ]
    close(found, values["reference"]["aug2_N20_D16"][f"dime_alpha{alpha}_seed0"]["raw"])


def test_dime_of_the_formula(arrays, values):
    """The golden values are of the rows as they are, so below the step that makes them unit."""
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(20, generator=generator) for _ in range(1000)])
    found = []
    for rows in arrays["aug2_N20_D16"]:
        one, two = (view @ view.T for view in (rows[:, 0], rows[:, 1]))
        shuffled = [views._entropy(one * two[order][:, order], 1.0) for order in orders]
        found.append(float(np.mean(shuffled)) - views._entropy(one * two, 1.0))
    expected = values["paper"]["aug2_N20_D16"]["dime_alpha1_NxN_paper_mean2000perms"]
    close(found, expected, 0.02)
