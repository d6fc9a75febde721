"""Finished scans in the folder of a ranking: which of them are used again, and why others are not."""

from __future__ import annotations

from pathlib import Path

from layerscope.api.common import plan_of
from layerscope.config import FirstToken
from layerscope.data.files import newest
from layerscope.data.texts import Texts
from layerscope.decisions.predictors import lacking, predictor
from layerscope.errors import InputError
from layerscope.models.backbone import OLDER, Backbone, is_older_fingerprint
from layerscope.models.serving import LEFT_OPEN, as_served
from layerscope.results.table import RECORD_FILE, Run, load_run
from layerscope.settings import ScanConfig


def kept_scan(
    folder: Path,
    model: str,
    texts: Texts,
    settings: ScanConfig,
    *,
    overwrite: bool,
) -> Run | None:
    """Return the finished scan in a folder of the ranking, None if there is none to use again.

    Raises:
        InputError: there is one that does not fit, and it may not be replaced.
    """
    if not (folder / RECORD_FILE).is_file():
        return None
    run = load_run(folder)
    reason = _misfit(run, model, texts, settings, folder)
    if reason and not overwrite:
        raise _does_not_fit(folder, reason)
    return None if reason else run


def still_fits(
    folder: Path | None, kept: Run, backbone: Backbone, settings: ScanConfig, *, overwrite: bool
) -> bool:
    """Whether a kept scan is of the model as it is loaded now, read as it would be read now.

    Raises:
        InputError: it is not, and it may not be replaced.
    """
    decided = as_served(settings, backbone.serving)[0]
    reason = _other_model(kept, backbone) or _other_settings(kept, decided, LEFT_OPEN)
    if reason and not overwrite:
        raise _does_not_fit(folder, reason)
    return not reason


def _does_not_fit(folder: Path | None, reason: str) -> InputError:
    return InputError(
        f"the scan in {str(folder)!r} {reason}; pass --overwrite to make it again, or choose "
        "another --out folder."
    )


def _misfit(run: Run, model: str, texts: Texts, settings: ScanConfig, folder: Path) -> str:
    """Return why a finished scan cannot serve, "" if only its model can tell."""
    if run.record.get("data", {}).get("fingerprint") != texts.fingerprint:
        return f"is of other {texts.noun}"
    # The source may cut texts sooner than the settings: that shows once it is loaded.
    names = [name for name in LEFT_OPEN if name != "max_length"]
    if reason := _other_settings(run, settings, (*names, "non_finite", "seed", "alpha")):
        return reason
    if any(lacking(run, predictor(name)) for name in settings.metrics or ()):
        return "lacks measures that this ranking needs"
    if newest(Path(model).expanduser()) > (folder / RECORD_FILE).stat().st_mtime:
        return f"is older than the model at {model!r}"
    return ""


def _other_settings(run: Run, settings: ScanConfig, names: tuple[str, ...]) -> str:
    """Return how a scan was made otherwise, "" if it was not; what settings leave open is passed over.

    `as_tokens` changes nothing besides what it decides of the others.
    """
    wanted, found = settings.as_dict(), run.record.get("settings", {})
    for name in names:
        open_still = wanted[name] is None or wanted[name] == FirstToken.AUTO
        if open_still or name == "as_tokens":
            continue
        if (found.get(name) or None) != (wanted[name] or None):
            word = name.replace("_", " ")
            return f"was made with {word} {found.get(name)} instead of {wanted[name]}"
    return ""


def _other_model(run: Run, backbone: Backbone) -> str:
    """Return why a finished scan is not of this model as it is loaded now, "" if it is.

    A folder is named by what a model is called, and other models may be called the same.
    """
    found = run.record.get("model", {})
    if is_older_fingerprint(found.get("weights_fingerprint")):
        return f"was {OLDER}"
    for name, wanted in plan_of(backbone, {}).items():
        if found.get(name) != wanted:
            word = name.replace("_", " ")
            return f"was made with {word} {found.get(name) or 'none'} instead of {wanted or 'none'}"
    return ""
