"""Every record of the catalogue is held to what it declares, both ways."""

import math
from functools import partial

import pytest
import torch

from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE, measure, select
from layerscope.metrics.estimates import Estimate
from layerscope.metrics.inputs import SampleInputs, TokenInputs, ViewInputs
from layerscope.metrics.measure import INVARIANCES, Functions, Measure

CASES = [
    pytest.param(record, convention, id=f"{record.name}-{convention or 'plain'}")
    for record in CATALOGUE
    if record.level != "pair"  # those are in test_layers.py
    for convention in (record.conventions or ("",))
]
SINGLE = [record for record in CATALOGUE if record.level != "pair"]
# More rows than dimensions and fewer: what is declared holds in both, what is not fails in one.
SHAPES = {
    "prompt": [(3, 12, 5), (3, 6, 20)],
    "dataset": [(40, 18), (18, 40)],
    "view": [(10, 3, 7), (8, 3, 40)],  # more than 6, of which all permutations would be taken
}


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def states_of(level: str, shape: tuple[int, ...]) -> torch.Tensor:
    states = random_tensor(*shape) + 0.4
    if level == "view":  # views that agree
        states = 0.4 * states + random_tensor(shape[0], 1, shape[2], seed=5)
    return states


def value(record: Measure, convention, states: torch.Tensor) -> torch.Tensor:
    arguments = [convention] if convention else []
    if record.level == "prompt":
        mask = torch.ones(states.shape[:2], dtype=torch.bool)
        return record.function(TokenInputs(states, mask), *arguments)
    # The authors' vectors are short: a tenth makes their absolute constants matter.
    kind = SampleInputs if record.level == "dataset" else ViewInputs
    estimate = record.function(kind(states, 0.1 * states), *arguments)
    assert isinstance(estimate, Estimate)
    if not bool(estimate.contributions.isnan().all()):  # nor where there are none, of an error
        mean = float(estimate.contributions.nanmean())
        assert mean == pytest.approx(estimate.value, rel=1e-9, abs=1e-12)
    return torch.tensor([estimate.value], dtype=torch.float64)


def changed(name: str, level: str, states: torch.Tensor) -> torch.Tensor:
    rows = 1 if level == "prompt" else 0
    match name:
        case "orthogonal":
            return states @ torch.linalg.qr(random_tensor(states.shape[-1], states.shape[-1])).Q
        case "scaling":
            return 0.01 * states
        case "row scaling":
            return states * random_tensor(*states.shape[:-1], 1, seed=3).exp()
        case "translation":
            return states + random_tensor(states.shape[-1], seed=4)
        case "permutation":
            order = torch.randperm(states.shape[rows], generator=torch.Generator().manual_seed(2))
            return states.index_select(rows, order)
        case _:
            return states.flip(1)


def largest_change(record: Measure, convention, name: str) -> list[float]:
    changes = []
    for shape in SHAPES[record.level]:
        states = states_of(record.level, shape)
        before = value(record, convention, states)
        after = value(record, convention, changed(name, record.level, states))
        changes.append(float(((after - before).abs() / before.abs().clamp(min=0.1)).max()))
    return changes


@pytest.mark.parametrize("name", INVARIANCES)
@pytest.mark.parametrize(("record", "convention"), CASES)
def test_declared_invariances_hold_and_others_visibly_fail(record, convention, name):
    if name.startswith("layer ") or (name == "token reversal" and record.level != "prompt"):
        assert name not in record.invariances[convention]
        return
    changes = largest_change(record, convention, name)
    if name in record.invariances[convention]:
        assert max(changes) < 1e-7
    else:
        assert max(changes) > 1e-4


@pytest.mark.parametrize("record", CATALOGUE, ids=lambda record: record.name)
def test_every_record_is_complete(record):
    assert set(record.invariances) == set(record.conventions or ("",))
    assert set().union(*record.invariances.values()) <= set(INVARIANCES)
    for text in (record.title, record.formula, record.unit, record.range, record.reference):
        assert text
    assert record.direction in {"least", "most", "none"}
    assert record.direction_source
    assert record.undefined.endswith(".")
    assert record.level in {"prompt", "dataset", "view", "pair"}
    assert bool(record.place) == (record.level == "pair")


@pytest.mark.parametrize("record", SINGLE, ids=lambda record: record.name)
def test_alpha_is_taken_by_those_that_say_so(record):
    states = states_of(record.level, SHAPES[record.level][0])
    convention = record.conventions[:1]
    inputs = {
        "prompt": lambda: TokenInputs(states, torch.ones(states.shape[:2], dtype=torch.bool)),
        "dataset": lambda: SampleInputs(states),
        "view": lambda: ViewInputs(states),
    }[record.level]
    if record.takes_alpha:
        one, two = (record.function(inputs(), *convention, alpha=alpha) for alpha in (1, 2))
        numbers = [one, two] if record.level == "prompt" else [one.value, two.value]
        assert not torch.equal(*(torch.as_tensor(number) for number in numbers))
    else:
        with pytest.raises(TypeError, match="alpha"):
            record.function(inputs(), *convention, alpha=2)


@pytest.mark.parametrize("record", CATALOGUE, ids=lambda record: record.name)
def test_null_levels_say_whether_they_vary(record):
    if record.null is not None:
        levels = {record.null.level(n, d) for n, d in ((10, 5), (100, 5), (100, 50))}
        assert all(math.isfinite(level) for level in levels)
        assert record.null.varies == (len(levels) > 1)


def test_names_are_unique_and_the_seven_of_the_paper_are_there():
    names = [name for record in CATALOGUE for name in (record.name, *record.variants)]
    assert len(set(names)) == len(names)
    seven = {"prompt_entropy", "dataset_entropy", "curvature", "effective_rank"}
    seven |= {"infonce", "lidar", "dime"}
    assert {record.name for record in CATALOGUE if record.paper_seven} == seven
    assert {record.name for record in CATALOGUE if record.main} == seven | {"retrieval"}
    assert {record.name for record in CATALOGUE if record.on_spans} == {"retrieval"}


def test_directions_of_the_paper():
    least = ("dime", "infonce", "dataset_entropy", "curvature")
    assert {measure(name).direction for name in least} == {"least"}
    assert {measure(name).direction for name in ("lidar", "rankme")} == {"most"}


def test_lookup_by_name():
    assert measure("lidar").title == "LiDAR"
    assert measure("nrs_k50") is measure("nrs_k10")
    with pytest.raises(InputError, match="unknown measure 'curvatur'; did you mean 'curvature'"):
        measure("curvatur")


def test_select_keeps_the_catalogue_order():
    assert select() is CATALOGUE
    assert [record.name for record in select(["lidar", "curvature"])] == ["curvature", "lidar"]
    with pytest.raises(InputError, match="unknown measure"):
        select(["nothing"])


def test_every_record_names_a_function_that_is_there():
    """Records import no function, so that nothing else would find a wrong name before a scan."""
    for record in CATALOGUE:
        function = record.function.func if isinstance(record.function, partial) else record.function
        assert callable(function.resolved), record.name
        if record.null is not None:
            assert isinstance(record.null.level(100, 20), float), record.name
    with pytest.raises(AttributeError):
        _ = Functions("views").nothing.resolved
