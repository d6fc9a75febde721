"""`rank`: which model to use, without labels, by what is measured on the same texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Unpack

import pandas as pd
from torch import nn

from layerscope.analysis.plan import refuse_impossible
from layerscope.analysis.run import Estimates
from layerscope.api.common import (
    Data,
    Pictures,
    Result,
    loaded,
    samples_of,
    texts_of,
)
from layerscope.api.kept import kept_scan, still_fits
from layerscope.api.keywords import RankSettings
from layerscope.api.plans import ShowProgress, command, part, shown_progress
from layerscope.api.scanning import ScanPlan
from layerscope.config import AnyPath, Exactly, Flag, Kind, Listed, Text, To, checked
from layerscope.data.files import (
    LOCK_FILE,
    locked,
    refuse_busy,
    refuse_unwritable,
    write_atomically,
    write_json,
)
from layerscope.data.images import Images
from layerscope.data.texts import Texts
from layerscope.decisions.agreement import Scored, of_frame, read_scores
from layerscope.decisions.predictors import check_comparable, needed, predictor
from layerscope.decisions.rank import Ranking, rank_runs, refuse_lacking
from layerscope.errors import InputError, few_models
from layerscope.models import loading as models_module
from layerscope.models.backbone import Backbone, is_sentence_transformer, name_of
from layerscope.results.folder import RunFolder
from layerscope.results.table import RECORD_FILE, Run, is_interrupted, load_run
from layerscope.settings import (
    DEFAULT_PREDICTOR,
    Convention,
    ModelOptions,
    RankConfig,
    ReadingConfig,
    ScanConfig,
    VectorConfig,
)
from layerscope.states.extract import Progress

RANKING_FILE: Final = "ranking.json"
TABLE_FILE: Final = "ranking.csv"

Model = Annotated[
    str | Path | nn.Module | Run | Result,
    Kind("a hub id, a folder, a GGUF file, a SentenceTransformer or a scan"),
]
Models = Annotated[Model | Sequence[Model], To(Listed[Model])]
Scores = Annotated[str | Path | pd.DataFrame, Kind("a table of scores or a run's folder")]


@dataclass(frozen=True)
class Planned:
    """One model of a ranking before it is made.

    Attributes:
        given: the name that the caller gave, or the one of a loaded model.
        run: its finished scan; None if it is to be scanned.
        folder: where the scan goes; None for nowhere.
        kept: a finished scan there, to be used again if it is of the model as it is loaded now.
        loaded: a `SentenceTransformer` object; None for a model that is given by name.
    """

    given: str
    run: Run | None = None
    folder: Path | None = None
    kept: Run | None = None
    loaded: nn.Module | None = None

    @property
    def model(self) -> str | nn.Module:
        """The model to scan."""
        return self.given if self.loaded is None else self.loaded


@dataclass(frozen=True)
class RankingPlan:
    """A ranking that only its models can still refuse.

    Attributes:
        models: what is to be done with each.
        texts: to scan on, or images; None where every model is scanned.
        config: the settings of every scan.
        by: the predictor to order by.
        scores: known scores.
        place: folder for the ranking and its scans, or None.
        overwrite: whether what is there may be replaced.
        options: how to load the models.
        show_progress: whether, or the function that shows it.
    """

    models: tuple[Planned, ...]
    texts: Texts | None
    config: ScanConfig
    by: str = DEFAULT_PREDICTOR
    scores: tuple[Scored, ...] = ()
    place: Path | None = None
    overwrite: bool = False
    options: ModelOptions | None = None
    show_progress: bool | Progress = True

    def _loaded(self, each: Planned, progress: Progress) -> Backbone:
        images = isinstance(self.texts, Images)
        return loaded(each.model, None, self.options, progress, images=images)

    def estimate(self) -> tuple[tuple[str, Estimates | None], ...]:
        """Return what the scan of each model would take, None for one that is scanned already."""
        with shown_progress(self.show_progress) as progress:
            return tuple((each.given, self._estimated(each, progress)) for each in self.models)

    def _estimated(self, each: Planned, progress: Progress) -> Estimates | None:
        if each.run or self.texts is None:
            return None
        backbone = self._loaded(each, progress)
        if self._keeps(each, backbone):
            return None
        return ScanPlan(backbone, self.texts, self.config, show_progress=progress).estimate()

    def _keeps(self, each: Planned, backbone: Backbone) -> bool:
        """Whether the kept scan of a model, if any, is used again."""
        if each.kept is None:
            return False
        return still_fits(each.folder, each.kept, backbone, self.config, overwrite=self.overwrite)

    def run(self) -> Ranking:
        """Scan the models that are not scanned yet, put them in order, and save the ranking."""
        seed, resamples = self.config.seed, self.config.resamples
        with shown_progress(self.show_progress) as progress, _claimed(self.place, self.overwrite):
            sees = isinstance(self.texts, Images)
            _refuse_unloadable(self.models, self.options, progress, images=sees)
            found = rank_runs(
                self._runs(progress), self.by,
                tables=list(self.scores), seed=seed, resamples=resamples,
            )  # fmt: skip
            if self.place is not None:
                table = found.table().to_csv(index=False).encode()
                write_atomically(self.place / TABLE_FILE, table)
                write_json(self.place / RANKING_FILE, found.as_dict())
        return found

    def _runs(self, progress: Progress) -> list[tuple[str, Run]]:
        """Return the scan of each model, those that are not given made one after the other.

        Models with a scan that is kept come first: what is refused of them is refused before any pass.

        Raises:
            InputError: a model cannot be loaded, is another one again, or its kept scan is of another.
        """
        models = self.models
        seen = {_identity(each.run.record["model"]) for each in models if each.run}
        found = {place: each.run for place, each in enumerate(models) if each.run}
        todo = [place for place in range(len(models)) if place not in found]
        for place in sorted(todo, key=lambda place: models[place].kept is None):
            counted = _counted(progress, f"{place + 1}/{len(models)} ")
            backbone = self._loaded(models[place], counted)
            identity = _identity(backbone.info.as_dict())
            if identity in seen:
                raise InputError(f"expected each model once, got {backbone.info.name!r} twice.")
            seen.add(identity)
            found[place] = self._scanned(models[place], backbone, counted)
            del backbone  # before the next is loaded
        return [(each.given, found[place]) for place, each in enumerate(models)]

    def _scanned(self, each: Planned, backbone: Backbone, progress: Progress) -> Run:
        if each.kept is not None and self._keeps(each, backbone):
            return each.kept
        place = None if each.folder is None else RunFolder(each.folder, self.overwrite)
        texts = texts_of(self.texts)
        return ScanPlan(backbone, texts, self.config, place, show_progress=progress).run().run


@command(RankConfig, ReadingConfig, ModelOptions)
def rank(
    models: Models,
    data: Data | None = None,
    config: Exactly[RankConfig] | None = None,
    *,
    images: Pictures | None = None,
    by: Text = DEFAULT_PREDICTOR,
    scores: Annotated[Scores | Sequence[Scores], To(Listed[Scores])] = (),
    out: AnyPath | None = None,
    overwrite: Flag = False,
    show_progress: ShowProgress = True,
    **settings: Unpack[RankSettings],
) -> RankingPlan:
    """Return models in order, without labels, by what is measured on the same texts or images.

    Args:
        models: hub ids, local folders, GGUF files, `SentenceTransformer` objects, and scans of the
            same texts (folders, or what `scan` returned), in any mixture.
        data: the texts, as for `scan`; nothing where all models are scanned already.
        config: the settings as one object; single settings below change it.
        images: in place of `data`, for models of images, as for `scan`.
        by: the predictor to order by (`decisions.predictors.PREDICTORS`, or width, depth, parameters);
            it alone is measured, besides those of the setting `also`.
        scores: known task scores besides those in the scans: tables with the columns model, score and
            perhaps task, or long tables, or run folders.
        out: folder for the ranking and a folder in it for each scan; a finished scan there is used
            again, an unfinished one goes on. None writes nothing.
        overwrite: whether a ranking in that folder, and scans there that do not fit, may be replaced.
        show_progress: as of `scan`.
        settings: any field of `RankConfig`, `ReadingConfig` (which texts) and `ModelOptions`
            (how the models are loaded).

    Raises:
        InputError: something given cannot be used; the message says what and what to do. Texts,
            scans and scores are tried before the first pass, and models as far as shows without
            their weights: each is loaded once, when its turn comes, and let go before the next.
        RunError: a model or the disk failed; finished scans are kept.
    """
    asked = part(RankConfig, settings, config)
    which, options = part(ReadingConfig, settings), part(ModelOptions, settings)
    ordering = predictor(by)
    shared = (*VectorConfig.model_fields, "resamples", "non_finite", "seed")
    chosen = ScanConfig(
        metrics=needed(by, asked.also), conventions=(Convention.NORMALIZED,), views=0,
        **{name: getattr(asked, name) for name in shared},
    )  # fmt: skip
    tables = tuple(_scored(each) for each in _several(scores))
    place = None if out is None else Path(out)
    _refuse_finished(place, overwrite)
    given = _several(models)
    _refuse_models(given)
    finished = [_finished(each) for each in given]
    runs = [(_word(each), run) for each, run in zip(given, finished, strict=True) if run]
    check_comparable(runs)
    texts = None
    if len(runs) < len(given) or data is not None or images is not None:
        texts = samples_of(data, images, which, chosen.seed)
    planned = _planned(given, finished, texts, chosen, place, overwrite=overwrite)
    refuse_lacking([(each.given, each.run) for each in planned if each.run], ordering)
    return RankingPlan(
        tuple(planned), texts, chosen, by, tables, place, overwrite, options, show_progress
    )


def _several(given: Any) -> list[Any]:
    single = isinstance(given, str | Path | nn.Module | Run | Result | pd.DataFrame)
    return [given] if single else list(given)


def _scored(given: Scores) -> Scored:
    return of_frame(given) if isinstance(given, pd.DataFrame) else read_scores(given)


@contextmanager
def _claimed(place: Path | None, overwrite: bool) -> Iterator[None]:
    """Keep other rankings out of a folder for the time of a block.

    Raises:
        InputError: see `_refuse_finished`, or another process is at work there.
    """
    _refuse_finished(place, overwrite)
    if place is None:
        yield
        return
    with locked(place / LOCK_FILE, lambda: refuse_busy(place)):
        _refuse_finished(place, overwrite)  # the process that was there may have finished just now
        yield


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


def _planned(
    given: Sequence[Model],
    finished: Sequence[Run | None],
    texts: Texts | None,
    settings: ScanConfig,
    place: Path | None,
    *,
    overwrite: bool,
) -> list[Planned]:
    """Return what is to be done with each model; without texts all are scanned already."""
    runs = [(_word(each), run) for each, run in zip(given, finished, strict=True) if run]
    if texts is None:
        return [Planned(name, run) for name, run in runs]
    check_comparable(runs, texts.fingerprint)
    if len(runs) < len(given):
        refuse_impossible(settings, texts)
    names = _folder_names([each for each, run in zip(given, finished, strict=True) if not run])
    planned = []
    for each, run in zip(given, finished, strict=True):
        if run is not None:
            planned.append(Planned(_word(each), run))
            continue
        word = _word(each)
        folder = None if place is None else place / names[word]
        kept = (
            None
            if folder is None
            else kept_scan(folder, word, texts, settings, overwrite=overwrite)
        )
        if folder is not None and kept is None:
            RunFolder(folder, overwrite).claim()  # refuses now what it would refuse after a pass
        module = each if isinstance(each, nn.Module) else None
        planned.append(Planned(word, None, folder, kept, module))
    check_comparable(
        [(each.given, run) for each in planned if (run := each.run or each.kept)], texts.fingerprint
    )
    return planned


def _refuse_models(given: Sequence[Model]) -> None:
    """Refuse, before any work, models of which there is no order.

    Raises:
        InputError: fewer than two models, one that comes twice, or a loaded one without its tokenizer.
    """
    if len(given) < 2:
        raise few_models([_word(each) for each in given])
    seen: set[str] = set()
    for each in given:
        if isinstance(each, nn.Module) and not is_sentence_transformer(each):
            raise InputError(
                f"expected models by name, scans or SentenceTransformer objects, got a loaded "
                f"{type(each).__name__}, which has no tokenizer; save both to a folder, or scan it first."
            )
        if isinstance(each, str | Path | nn.Module):
            path = Path(_word(each)).expanduser()
            named = isinstance(each, str | Path) and path.exists()
            key = str(path.resolve()) if named else _word(each)
            if key in seen:
                raise InputError(f"expected each model once, got {_word(each)!r} twice.")
            seen.add(key)


@checked
def is_run(given: AnyPath) -> bool:
    """Whether a name is that of a finished run's folder."""
    return (Path(given).expanduser() / RECORD_FILE).is_file()


def _finished(given: Model) -> Run | None:
    """Return the run that is given; None for a model that is to be scanned."""
    if isinstance(given, Run):
        return given
    if isinstance(given, Result):
        return given.run
    if isinstance(given, nn.Module):
        return None
    folder = Path(given).expanduser()
    return load_run(folder) if is_run(folder) or is_interrupted(folder) else None


def _word(given: Model) -> str:
    if isinstance(given, Run):
        return str(given.record.get("model", {}).get("name", "a run"))
    if isinstance(given, Result):
        return str(given.folder or given.record.get("model", {}).get("name", "a run"))
    return name_of(given) if isinstance(given, nn.Module) else str(given)


def _folder_names(models: Sequence[Any]) -> dict[str, str]:
    """Return a folder's name for the scan of each model: what it is called, or more of its path.

    Raises:
        InputError: a model is not there.
    """
    called = {
        _word(model): Path(_word(model)).name
        if isinstance(model, nn.Module)
        else models_module.label_of(model)
        for model in models
    }
    for model, label in called.items():
        if list(called.values()).count(label) > 1:
            called[model] = "/".join(Path(model).parts[-3:])
    return {model: re.sub(r"[^\w.-]+", "-", label).strip("-.") for model, label in called.items()}


# --- scans ------------------------------------------------------------------------------------------


def _refuse_unloadable(
    planned: Sequence[Planned],
    options: ModelOptions | None,
    progress: Progress,
    *,
    images: bool,
) -> None:
    """Refuse what cannot be loaded before any pass, without reading a weight.

    Raises:
        InputError: one of several models cannot be loaded; a single one is loaded at once anyway.
    """
    wanted = [each for each in planned if each.run is None and each.loaded is None]
    if len(wanted) < 2:
        return
    for number, each in enumerate(wanted):
        progress("checking the models", number, len(wanted))
        models_module.refuse_unloadable(each.given, options, images=images)
    progress("checking the models", len(wanted), len(wanted))


def _identity(model: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(model.get(name) for name in ("name", "revision", "weights_fingerprint"))


def _counted(progress: Progress, prefix: str) -> Progress:
    """Return the same, with which model it is of before each stage."""

    def move(stage: str, done: int, total: int) -> None:
        progress(prefix + stage, done, total)

    return move
