"""What a reader of the summaries must be told, and why there may be none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from layerscope.correlation.pairing import Place
from layerscope.correlation.records import Association, LeftOut, ScoreKey, Summary

FEW_MODELS: Final = 5  # below, limits over models say little: whole models are what is drawn
NAMED: Final = 3


def notes(
    associations: Sequence[Association],
    summaries: Sequence[Summary],
    left_out: Sequence[LeftOut],
    resamples: int,
) -> tuple[str, ...]:
    """Return what must be known to read the summaries right, one sentence each."""
    models = {association.score.cluster for association in associations}
    tasks = {association.score.name for association in associations}
    every = (
        _texts(associations),
        _scope(len(models), len(tasks)),
        _walks(summaries),
        _shifts(summaries, resamples),
        _family(summaries),
        *_missing(left_out),
    )
    return tuple(note for note in every if note)


def _texts(associations: Sequence[Association]) -> str:
    own = [association.data == association.score.task for association in associations]
    if all(own):
        return "the measures are of each task's own texts"
    names = sorted({association.data for association in associations})
    return f"the measures are of {_few(names)}, whatever the task"


def _scope(models: int, tasks: int) -> str:
    if models == 1 and tasks == 1:
        return "one model on one task: nothing to draw again, so no limits and no share of signs"
    if models == 1:
        return f"one model: the limits are over its {tasks} tasks and speak of this model only"
    if models < FEW_MODELS:
        return f"the limits draw whole models again, and {models} models are few"
    return "the limits draw whole models again, each with all its tasks"


def _walks(summaries: Sequence[Summary]) -> str:
    ends = sorted(f"{summary.walk:.2f}" for summary in summaries)
    reach = " to ".join(dict.fromkeys((ends[0], ends[-1])))
    return (
        f"layers are no independent points: random walks over them, which know nothing of the "
        f"scores, reach a dCor of {reach} in 1 of 20 draws; p walk is how often they reach the "
        "measure's"
    )


def _shifts(summaries: Sequence[Summary], resamples: int) -> str:
    least = min(summary.p_shift_least for summary in summaries)
    return "" if least < 1.5 / resamples else f"with these layers no p shift is below {least:.2g}"


def _family(summaries: Sequence[Summary]) -> str:
    count = len(summaries)
    return "" if count == 1 else f"p Holm: the larger of both p, corrected for {count} measures"


def _missing(left_out: Sequence[LeftOut]) -> list[str]:
    """Return a sentence for each reason and measure that leaves something out."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in left_out:
        groups.setdefault((each.measure, each.reason), []).append(each.task)
    return [
        f"left out: {f'{measure} on ' if measure else ''}{_few(sorted(set(tasks)))}: {reason}"
        for (measure, reason), tasks in groups.items()
    ]


def nothing(
    left_out: Sequence[LeftOut], wanted: Iterable[ScoreKey], places: Iterable[Place]
) -> str:
    """Return why no measure meets a score."""
    reasons = list(dict.fromkeys(each.reason for each in left_out))
    if reasons == ["no measures of this model"]:
        scored = _few(sorted({score.cluster for score in wanted}))
        measured = _few(sorted({" @ ".join(filter(None, place[:2])) for place in places}))
        reasons = [f"the scores are of {scored}, the measures of {measured}"]
    return f"no measure can be compared with a score: {'; '.join(reasons)}."


def _few(names: Sequence[str]) -> str:
    """Return at most three names, and how many more there are."""
    if len(names) <= NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
