"""`rank`: which model to use, without labels, by what is measured on the same texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from layerscope import data as data_module
from layerscope import models as models_module
from layerscope.api.common import Result, Watch, backbone_for, plan_of, settings_of, texts_of
from layerscope.api.scanning import estimate_scan, scan
from layerscope.data import Texts, TextSource
from layerscope.errors import InputError, unknown_name
from layerscope.estimates import Estimates
from layerscope.files import refuse_unwritable, write_atomically, write_json
from layerscope.metrics.inputs import Convention
from layerscope.models import ModelOptions
from layerscope.preparation import Progress, refuse_impossible
from layerscope.ranking import (
    DEFAULT,
    Ranking,
    check_comparable,
    needed,
    predictor,
    rank_runs,
    read_scores,
)
from layerscope.ranking.results import refuse_lacking
from layerscope.ranking.scores import Scored, of_frame
from layerscope.runfolder import RunFolder
from layerscope.settings import ScanSettings
from layerscope.table import RECORD_FILE, Run, is_interrupted, load_run

RANKING_FILE: Final = "ranking.json"
TABLE_FILE: Final = "ranking.csv"
# What a ranking may ask of its scans; the measures are its own.
SETTINGS: Final = (
    "pooling", "special_tokens", "first_token", "max_length", "batch_tokens", "non_finite", "seed",
    "resamples",
)  # fmt: skip

Model = str | Path | Run | Result
Scores = str | Path | pd.DataFrame


@dataclass(frozen=True)
class Planned:
    """One model of a ranking before it is made.

    Attributes:
        given: what the caller gave.
        run: its finished scan; None if it is to be scanned.
        folder: where the scan goes; None for nowhere.
    """

    given: str
    run: Run | None = None
    folder: Path | None = None


def rank(
    models: Model | Sequence[Model],
    data: TextSource | None = None,
    *,
    by: str = DEFAULT,
    scores: Scores | Sequence[Scores] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    column: str | None = None,
    split: str | None = None,
    limit: int | None = data_module.DEFAULT_LIMIT,
    model_options: ModelOptions | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Ranking:
    """Return models in order, without labels, by what is measured on the same texts.

    Args:
        models: hub ids, local folders, GGUF files, and scans of the same texts (folders, or what
            `scan` returned), in any mixture.
        data: the texts, as for `scan`; nothing where all models are scanned already.
        by: the predictor to order by (`layerscope.ranking.PREDICTORS`, or width, depth, parameters).
        scores: known task scores besides those in the scans: tables with the columns model, score and
            perhaps task, or long tables, or run folders.
        out: folder for the ranking and a folder in it for each scan; a finished scan there is used
            again, an unfinished one goes on. None writes nothing.
        overwrite: whether a ranking in that folder, and scans there that do not fit, may be replaced.
        column: of a table of texts.
        split: of a datasets id.
        limit: most texts to use; None uses all.
        model_options: how to load the models: revision, dtype, device.
        watch: opens a progress callback for the time of each scan; None shows nothing.
        settings: those fields of `ScanSettings` that are in `SETTINGS`.

    Raises:
        InputError: something given cannot be used; the message says what and what to do. Texts,
            scans, scores and models are all tried before the first pass.
        RunError: a model or the disk failed; finished scans are kept.
    """
    chosen = _scan_settings(settings)
    predictor(by)
    tables = [_scored(each) for each in _several(scores)]
    place = None if out is None else Path(out)
    _refuse_finished(place, overwrite)
    texts, planned = _plan(
        models, data, chosen, model_options, place, column, split, limit, overwrite=overwrite
    )
    refuse_lacking([(each.given, each.run) for each in planned if each.run], predictor(by))
    _try_loading(planned, model_options)
    runs = [
        (each.given, each.run or _scanned(each, number, len(planned), texts, chosen, model_options,
                                          watch, overwrite=overwrite))
        for number, each in enumerate(planned, start=1)
    ]  # fmt: skip
    found = rank_runs(runs, by, tables=tables, seed=chosen["seed"], resamples=chosen["resamples"])
    if place is not None:
        write_atomically(place / TABLE_FILE, found.table().to_csv(index=False).encode())
        write_json(place / RANKING_FILE, found.as_dict())
    return found


def estimate_ranking(
    models: Model | Sequence[Model],
    data: TextSource | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    column: str | None = None,
    split: str | None = None,
    limit: int | None = data_module.DEFAULT_LIMIT,
    model_options: ModelOptions | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> tuple[tuple[str, Estimates | None], ...]:
    """Return what the scan of each model would take, None for one that is scanned already."""
    chosen = _scan_settings(settings)
    place = None if out is None else Path(out)
    _refuse_finished(place, overwrite)
    texts, planned = _plan(
        models, data, chosen, model_options, place, column, split, limit, overwrite=overwrite
    )
    return tuple(
        (
            each.given,
            None
            if each.run or texts is None
            else estimate_scan(
                each.given, texts, model_options=model_options, watch=watch, **chosen
            ),
        )
        for each in planned
    )


def _scan_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of every scan of a ranking.

    Raises:
        InputError: one is unknown, or is not the caller's to choose.
    """
    for name in given:
        if name not in SETTINGS:
            raise unknown_name("setting of a ranking", name, SETTINGS)
    whole = {
        "metrics": needed(), "conventions": (Convention.NORMALIZED,), "views": 0,
        "seed": ScanSettings.seed, "resamples": ScanSettings.resamples,
    } | given  # fmt: skip
    settings_of(ScanSettings, whole)  # refuses a value that cannot be before anything is read
    return whole


def _several(given: Any) -> list[Any]:
    single = isinstance(given, str | Path | Run | Result | pd.DataFrame)
    return [given] if single else list(given)


def _scored(given: Scores) -> Scored:
    return of_frame(given) if isinstance(given, pd.DataFrame) else read_scores(given)


def _refuse_finished(place: Path | None, overwrite: bool) -> None:
    if place is None:
        return
    for folder in (place, *place.parents):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"expected a folder for the ranking, {str(folder)!r} is a file.")
    if (place / RECORD_FILE).exists():
        raise InputError(f"{str(place)!r} holds a scan; choose another --out folder.")
    if (place / RANKING_FILE).exists() and not overwrite:
        raise InputError(
            f"{str(place)!r} already holds a ranking; pass --overwrite to replace it (scans there that "
            "fit are used again), or choose another --out folder."
        )
    refuse_unwritable(place)


# --- which models are to be scanned ---------------------------------------------------------------


def _plan(
    models: Model | Sequence[Model],
    data: TextSource | None,
    settings: dict[str, Any],
    options: ModelOptions | None,
    place: Path | None,
    column: str | None,
    split: str | None,
    limit: int | None,
    *,
    overwrite: bool,
) -> tuple[Texts | None, list[Planned]]:
    """Return the texts, if any model is to be scanned on them, and what is to be done with each."""
    given = _several(models)
    if not given:
        raise InputError("expected at least one model to rank, got none.")
    _refuse_repeated(given)
    finished = [_finished(each) for each in given]
    runs = [(_word(each), run) for each, run in zip(given, finished, strict=True) if run]
    check_comparable(runs)
    if len(runs) == len(given) and data is None:
        return None, [Planned(name, run) for name, run in runs]
    texts = texts_of(data, column, split, limit, settings["seed"])
    check_comparable(runs, texts.fingerprint)
    if len(runs) < len(given):
        refuse_impossible(settings_of(ScanSettings, settings), texts)
    names = _folder_names([str(each) for each, run in zip(given, finished, strict=True) if not run])
    planned = []
    for each, run in zip(given, finished, strict=True):
        if run is not None:
            planned.append(Planned(_word(each), run))
            continue
        folder = None if place is None else place / names[str(each)]
        kept = (
            None
            if folder is None
            else _kept(folder, str(each), texts, settings, options, overwrite=overwrite)
        )
        if folder is not None and kept is None:
            RunFolder(folder, overwrite).claim()  # refuses now what it would refuse after a pass
        planned.append(Planned(str(each), kept, folder))
    check_comparable([(each.given, each.run) for each in planned if each.run], texts.fingerprint)
    return texts, planned


def _refuse_repeated(given: Sequence[Model]) -> None:
    seen: set[str] = set()
    for each in given:
        if isinstance(each, str | Path):
            path = Path(each).expanduser()
            key = str(path.resolve()) if path.exists() else str(each)
            if key in seen:
                raise InputError(f"expected each model once, got {str(each)!r} twice.")
            seen.add(key)


def is_run(given: str | Path) -> bool:
    """Whether a name is that of a finished run's folder."""
    return (Path(given).expanduser() / RECORD_FILE).is_file()


def _finished(given: Model) -> Run | None:
    """Return the run that is given; None for a model that is to be scanned."""
    if isinstance(given, Run):
        return given
    if isinstance(given, Result):
        return given.run
    folder = Path(given).expanduser()
    return load_run(folder) if is_run(folder) or is_interrupted(folder) else None


def _word(given: Model) -> str:
    if isinstance(given, Run):
        return str(given.record.get("model", {}).get("name", "a run"))
    if isinstance(given, Result):
        return str(given.folder or given.record.get("model", {}).get("name", "a run"))
    return str(given)


def _folder_names(models: Sequence[str]) -> dict[str, str]:
    """Return a folder's name for the scan of each model: what it is called, or more of its path.

    Raises:
        InputError: a model is not there.
    """
    called = {model: models_module.label_of(model) for model in models}
    for model, label in called.items():
        if list(called.values()).count(label) > 1:
            called[model] = "/".join(Path(model).parts[-3:])
    return {model: re.sub(r"[^\w.-]+", "-", label).strip("-.") for model, label in called.items()}


def _kept(
    folder: Path,
    model: str,
    texts: Texts,
    settings: dict[str, Any],
    options: ModelOptions | None,
    *,
    overwrite: bool,
) -> Run | None:
    """Return the finished scan in a folder of the ranking, None if there is none to use again.

    Raises:
        InputError: there is one that does not fit, and it may not be replaced; or one that might, and
            the model cannot be loaded to see.
    """
    if not (folder / RECORD_FILE).is_file():
        return None
    run = load_run(folder)
    reason = _misfit(run, model, texts, settings, folder) or _other_model(run, model, options)
    if reason and not overwrite:
        raise InputError(
            f"the scan in {str(folder)!r} {reason}; pass --overwrite to make it again, or choose "
            "another --out folder."
        )
    return None if reason else run


def _misfit(run: Run, model: str, texts: Texts, settings: dict[str, Any], folder: Path) -> str:
    """Return why a finished scan cannot serve, "" if it can."""
    if run.record.get("data", {}).get("fingerprint") != texts.fingerprint:
        return "is of other texts"
    wanted = settings_of(ScanSettings, settings).as_dict()
    found = run.record.get("settings", {})
    for name in SETTINGS:
        decided_by_model = name == "first_token" and wanted[name] == "auto"
        changes_nothing = name in ("batch_tokens", "resamples")
        if not (decided_by_model or changes_nothing) and found.get(name) != wanted[name]:
            return f"was made with {name} {found.get(name)} instead of {wanted[name]}"
    if set(needed()) - set(found.get("metrics") or needed()):
        return "lacks measures that a ranking needs"
    if _newest(Path(model).expanduser()) > (folder / RECORD_FILE).stat().st_mtime:
        return f"is older than the model at {model!r}"
    return ""


def _other_model(run: Run, model: str, options: ModelOptions | None) -> str:
    """Return why a finished scan is not of this model as it is loaded now, "" if it is.

    A folder is named by what a model is called, and other models may be called the same.
    """
    found = run.record.get("model", {})
    for name, wanted in plan_of(backbone_for(model, None, options), {}).items():
        if found.get(name) != wanted:
            word = name.replace("_", " ")
            return f"was made with {word} {found.get(name) or 'none'} instead of {wanted or 'none'}"
    return ""


def _newest(model: Path) -> float:
    """Return when a local model was last changed, 0 for one of the hub."""
    files = [model, *model.rglob("*")] if model.is_dir() else [model]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


# --- scans ------------------------------------------------------------------------------------------


def _try_loading(planned: Sequence[Planned], options: ModelOptions | None) -> None:
    """Load each model once and let it go, so that a bad one does not show after hours of passes.

    A single model needs none of this: its scan loads it before anything else.

    Raises:
        InputError: one cannot be loaded, or is another one again.
    """
    if len(planned) == 1:
        return
    facts = [each.run.record["model"] for each in planned if each.run]
    kept = ("name", "revision", "weights_fingerprint")
    seen = {tuple(model.get(name) for name in kept) for model in facts}
    for each in planned:
        if each.run is None:
            info = backbone_for(each.given, None, options).info
            identity = tuple(getattr(info, name) for name in kept)
            if identity in seen:
                raise InputError(f"expected each model once, got {info.name!r} twice.")
            seen.add(identity)


def _scanned(
    each: Planned,
    number: int,
    count: int,
    texts: Texts | None,
    settings: dict[str, Any],
    options: ModelOptions | None,
    watch: Watch | None,
    *,
    overwrite: bool,
) -> Run:
    return scan(
        each.given,
        texts,
        out=each.folder,
        overwrite=overwrite,
        model_options=options,
        watch=None if watch is None else _counted(watch, f"{number}/{count} "),
        **settings,
    ).run


def _counted(watch: Watch, prefix: str) -> Watch:
    """Return the same, which says before each stage which model it is of."""

    @contextmanager
    def opened() -> Iterator[Progress]:
        with watch() as progress:

            def move(stage: str, done: int, total: int) -> None:
                progress(prefix + stage, done, total)

            yield move

    return opened
