"""Predictors that rank models, read from their runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from layerscope.errors import InputError, unknown_name
from layerscope.metrics.catalogue import measure
from layerscope.results.display import in_words_of
from layerscope.results.table import BLOCK, FINAL_NORM, Run
from layerscope.settings import DEFAULT_PREDICTOR, Convention

RANDOM: Final = "random"
_LRD: Final = "Jiang, Yang, Tam 2026, abstract: goes with MTEB scores over 31 models"
_SIZE: Final = "larger models score higher more often than not"


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """One number of a model by which models can be ordered.

    Attributes:
        name: in commands and tables.
        title: for headings.
        metric: name of its measure in tables; of trivial predictors, of a field of the model's record.
        convention: of the measure.
        kind: whether the measure is of the whole model or of its last layer, or the fact is of its
            size.
        direction: which models should be better.
        source: of the direction.
        bound: (number of texts, width) -> divisor of the measure.
        formula: in words or symbols.
    """

    name: str
    title: str
    metric: str
    convention: str = ""
    kind: Literal["model", "last layer", "size"]
    direction: Literal["most", "least"]
    source: str
    bound: Callable[[int, int], float] | None = None
    formula: str

    def oriented(self, value: float) -> float:
        """Return the value, negated where less is better."""
        return value if self.direction == "most" else -value


def _of_last_layer(
    name: str, title: str, metric: str, formula: str,
    *, convention: str = "", bound: Callable[[int, int], float] | None = None,
) -> Predictor:  # fmt: skip
    """Return a predictor whose direction is the catalogue's."""
    record = measure(metric)
    return Predictor(
        name=name, title=title, metric=metric, convention=convention, kind="last layer",
        direction="most" if record.direction == "most" else "least",
        source=f"{record.direction_source} (over layers or trainings)",
        bound=bound, formula=formula,
    )  # fmt: skip


PREDICTORS: Final = (
    _of_last_layer(
        "rankme", "RankMe", "rankme", "RankMe of the last layer / min(N, D)",
        bound=lambda n, d: float(min(n, d)),
    ),
    Predictor(
        name="d_0L",
        title="d_0,L",
        metric="frenet_displacement_sample_k32",
        kind="model",
        direction="most",
        source=_LRD,
        formula="distance of the first and last layer's 32 leading patterns over texts / its largest",
    ),
    Predictor(
        name="mean_nrs",
        title="mean NRS",
        metric="mean_nrs_k10",
        kind="model",
        direction="most",
        source=_LRD,
        formula="share of the 10 nearest neighbors that a block keeps, mean over blocks",
    ),
    Predictor(
        name="mean_gfmi",
        title="mean GFMI",
        metric="mean_gfmi_edge",
        kind="model",
        direction="most",
        source=_LRD,
        formula="mutual information of a layer's and the last layer's graphs, mean over layers",
    ),
    _of_last_layer(
        "dataset_entropy", "dataset entropy", "dataset_entropy",
        "dataset entropy of the last layer, centered unit rows, / ln min(N - 1, D)",
        convention=Convention.NORMALIZED, bound=lambda n, d: math.log(min(n - 1, d)),
    ),
    _of_last_layer(
        "prompt_entropy", "prompt entropy", "prompt_entropy_normalized",
        "prompt entropy of the last layer, centered unit rows, / ln min(T - 1, D)",
        convention=Convention.NORMALIZED,
    ),
)  # fmt: skip

TRIVIAL: Final = tuple(
    Predictor(
        name=name, title=name, metric=metric, kind="size", direction="most", source=_SIZE,
        formula=formula,
    )
    for name, metric, formula in (
        ("width", "dim", "D, the width of a hidden state"),
        ("depth", "blocks", "L, the number of blocks"),
        ("parameters", "parameters", "ln of the number of parameters"),
    )
)  # fmt: skip

ALL: Final = (*PREDICTORS, *TRIVIAL)
EVERY: Final = "all"


def predictor(name: str) -> Predictor:
    """Return the predictor of that name, or of that measure.

    Raises:
        InputError: there is none; the message offers the closest.
    """
    for each in ALL:
        if name in (each.name, each.metric):
            return each
    raise unknown_name("predictor", name, [each.name for each in ALL])


def needed(by: str = DEFAULT_PREDICTOR, also: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the measures that a scan must make for a ranking.

    Args:
        by: the predictor to order by; a size needs no measure, and the default is measured then.
        also: others to show, or "all".

    Raises:
        InputError: no predictor has that name.
    """
    others = PREDICTORS if EVERY in also else tuple(predictor(name) for name in also)
    wanted = [each for each in (predictor(by), *others) if each.kind != "size"]
    return tuple(dict.fromkeys(e.metric for e in wanted or [predictor(DEFAULT_PREDICTOR)]))


# Settings that change what is measured; the others change nothing or are decided for each model.
SAME: Final = ("pooling", "special_tokens", "prompt", "max_length", "alpha")


@dataclass(frozen=True, eq=False)
class Value:
    """One number of one model.

    Attributes:
        value: as models are ordered by it; None where it is undefined.
        low: its lower 95 % limit over texts, None where there is none.
        high: the upper limit.
        raw: before division by its maximum, or before its logarithm was taken.
        contributions: (text,) numbers whose mean is the value, None where there are none.
        reason: why there is no value.
        measured: whether the run measured it or says why it has no value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    raw: float | None = None
    contributions: pd.Series[float] | None = field(default=None, repr=False)
    reason: str = ""
    measured: bool = True


@dataclass(frozen=True, eq=False)
class Candidate:
    """One model of a ranking.

    Attributes:
        name: unique in the ranking.
        given: path or name from the caller.
        called: the name in the run's record, which tables of scores use.
        architecture: its name in transformers.
        texts: number of measured texts.
        values: by the name of a predictor.
        notes: sentences on how comparable its numbers are.
    """

    name: str
    given: str
    called: str
    architecture: str
    texts: int
    values: Mapping[str, Value]
    notes: tuple[str, ...] = ()


def candidates(runs: Sequence[tuple[str, Run]]) -> tuple[Candidate, ...]:
    """Return the models of some runs, in order.

    Args:
        runs: what the caller gave, and the run that it is or became.

    Raises:
        InputError: the same model comes twice, or the runs cannot be compared.
    """
    check_comparable(runs)
    names = _names(runs)
    return tuple(
        Candidate(
            name=name,
            given=given,
            called=str(run.record["model"].get("name", "")),
            architecture=str(run.record["model"].get("architecture", "")),
            texts=int(run.record["data"].get("texts", 0)),
            values={each.name: value_of(run, each) for each in ALL},
            notes=(*_as_served(run.record), *_of_fewer_dimensions(run.record)),
        )
        for name, (given, run) in zip(names, runs, strict=True)
    )


def check_comparable(runs: Sequence[tuple[str, Run]], fingerprint: str | None = None) -> None:
    """Refuse runs whose numbers cannot be compared.

    Args:
        runs: what the caller gave, and the run that it is.
        fingerprint: of the texts on which other models will be scanned, if any will.

    Raises:
        InputError: a run holds no scan, or runs differ in their texts or in how texts were read.
    """
    for given, run in runs:
        if not run.record.get("data", {}).get("fingerprint") or "settings" not in run.record:
            raise InputError(
                f"expected a scan in {given!r}, found none; make it with layerscope scan."
            )
        if fingerprint is not None and run.record["data"]["fingerprint"] != fingerprint:
            said = (
                f"was scanned on other texts ({_texts(run)}) than those given ({fingerprint}); models "
                "are compared on the same texts only, so give the same ones with the same --column, "
                "--limit and --seed."
            )
            raise InputError(f"{given!r} {in_words_of(run.record, said)}")
    for given, run in runs[1:]:
        first, reference = runs[0]
        if run.record["data"]["fingerprint"] != reference.record["data"]["fingerprint"]:
            said = (
                f"were scanned on different texts ({_texts(reference)}; {_texts(run)}); models are "
                "compared on the same texts only, so scan them again on the same ones with the same "
                "--limit and --seed."
            )
            raise InputError(f"{first!r} and {given!r} {in_words_of(run.record, said)}")
        _check_settings(first, reference, given, run)


def _texts(run: Run) -> str:
    data = run.record["data"]
    return f"{data.get('texts', '?')} of {data.get('name', '?')}, {data['fingerprint']}"


def _check_settings(first: str, reference: Run, given: str, run: Run) -> None:
    one, other = reference.record["settings"], run.record["settings"]
    for name in SAME:
        if not _alike(reference, run, name):
            raise InputError(
                f"{first!r} and {given!r} were scanned with different {name.replace('_', ' ')} "
                f"({one.get(name)} and {other.get(name)}); scan one of them again like the other."
            )


def _alike(reference: Run, run: Run, name: str) -> bool:
    """Whether a setting is the same in two runs, or was left to both models in the same way.

    Vectors of each model as it is served are compared, though one may count special tokens.
    """
    one, other = (each.record["settings"].get(name) or None for each in (reference, run))
    asked, wanted = (each.record.get("asked", {}) for each in (reference, run))
    left = name in asked and all(
        asked[setting] == wanted.get(setting) for setting in (name, "as_tokens")
    )
    return one == other or left


def _names(runs: Sequence[tuple[str, Run]]) -> list[str]:
    """Return a name for each, that of its model where only one has that.

    Raises:
        InputError: the same model comes twice.
    """
    called = [_called(run) for _, run in runs]
    identities = Counter(
        (*pair, _weights(run)) for pair, (_, run) in zip(called, runs, strict=True)
    )
    for (name, _, _), count in identities.items():
        if count > 1:
            raise InputError(f"expected each model once, got {name!r} {count} times.")
    plain, with_revision = (Counter(pair[:size] for pair in called) for size in (1, 2))
    names = []
    for (name, revision), (given, _) in zip(called, runs, strict=True):
        if plain[(name,)] == 1:
            names.append(name)
        elif with_revision[name, revision] == 1:
            names.append(f"{name} @ {revision or 'no revision'}")
        else:
            names.append("/".join(Path(given).parts[-2:]))
    return names if len(set(names)) == len(names) else [given for given, _ in runs]


def _called(run: Run) -> tuple[str, str]:
    model = run.record["model"]
    return str(model.get("name", "")), str(model.get("revision", ""))


def _weights(run: Run) -> str:
    return str(run.record["model"].get("weights_fingerprint", ""))


def lacking(run: Run, wanted: Predictor) -> bool:
    """Whether a run lacks the measure of a predictor and has no reason why it is undefined."""
    return not value_of(run, wanted).measured


def value_of(run: Run, wanted: Predictor) -> Value:
    """Return a predictor's number of the model of a run."""
    if wanted.kind == "size":
        return _size(run.record["model"], wanted)
    rows = run.table[
        (run.table["metric"] == wanted.metric)
        & (run.table["convention"].fillna("") == wanted.convention)
        & run.table["value"].notna()
    ]
    row = _last(rows, int(run.record["model"]["blocks"]))
    if row is None:
        return _undefined(run.record, wanted)
    divisor = 1.0
    if wanted.bound is not None:
        texts, dim = int(run.record["data"]["texts"]), int(run.record["model"]["dim"])
        divisor = wanted.bound(texts, dim)
    if divisor <= 0:
        return Value(None, raw=float(row["value"]), reason="the states have one dimension")
    contributions = _contributions(run.contributions, row)
    return Value(
        value=float(row["value"]) / divisor,
        low=_over(row["low"], divisor),
        high=_at_most_one(_over(row["high"], divisor)),
        raw=float(row["value"]),
        contributions=None if contributions is None else contributions / divisor,
    )


def _at_most_one(limit: float | None) -> float | None:
    """Return a limit within the range of all that is measured here: some may reach beyond it."""
    return None if limit is None else min(1.0, limit)


def _size(model: Mapping[str, Any], wanted: Predictor) -> Value:
    number = model.get(wanted.metric)
    if not number:
        return Value(None, reason="the run's record does not say")
    value = math.log(number) if wanted.metric == "parameters" else float(number)
    return Value(value=value, raw=float(number))


def _last(rows: pd.DataFrame, blocks: int) -> pd.Series[Any] | None:
    """Return the row of the model's output: after its final norm, else of its last block."""
    for stage in (FINAL_NORM, BLOCK):
        found = rows[(rows["stage"] == stage) & (rows["layer"] == blocks)]
        if len(found):
            return found.iloc[0]
    return None


def _over(limit: Any, divisor: float) -> float | None:
    return None if pd.isna(limit) else float(limit) / divisor


def _contributions(frame: pd.DataFrame, row: pd.Series[Any]) -> pd.Series[float] | None:
    convention = "" if pd.isna(row["convention"]) else row["convention"]
    rows = frame[
        (frame["metric"] == row["metric"])
        & (frame["layer"] == row["layer"])
        & (frame["stage"] == row["stage"])
        & (frame["convention"] == convention)
        & frame["value"].notna()
    ]
    return None if rows.empty else rows.set_index("text")["value"]


def _undefined(record: Mapping[str, Any], wanted: Predictor) -> Value:
    for entry in record.get("undefined", ()):
        if entry.get("metric") == wanted.metric:
            return Value(None, reason=str(entry.get("reason", "undefined")))
    return Value(None, reason="not measured in this run", measured=False)


def _as_served(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the vectors were made where the source decided that."""
    made, asked = record["settings"], record.get("asked", {})
    if made.get("special_tokens") and asked.get("special_tokens", True) is None:
        yield (
            f"vectors as it is served, {made['pooling']} pooling over all of at most "
            f"{made['max_length']} tokens"
        )


def _of_fewer_dimensions(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield notes on predictors whose subspaces are smaller than those of other models."""
    used = record.get("subspace_dimensions", {})
    for each in ALL:
        if each.metric in used:
            yield f"{each.name} is of {used[each.metric]} dimensions only, the least rank of a layer"
