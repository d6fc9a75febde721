"""Scan a model while it trains, and leave the training as it would have been without the scan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Unpack

import torch
from torch import nn

from layerscope.analysis.plan import check_measures, prepare, refuse_impossible
from layerscope.analysis.run import scan_backbone
from layerscope.api.common import Data, Tokenizer, refuse_tokenizer, texts_of
from layerscope.api.keywords import LiveScanSettings
from layerscope.api.plans import part, with_settings
from layerscope.api.scanning import Scan
from layerscope.config import AnyPath, Exactly, Flag, Kind, Natural, checked
from layerscope.data.texts import Texts
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.models.backbone import Backbone, backbone_of
from layerscope.models.modes import random_states_kept
from layerscope.render.overlay import in_convention
from layerscope.results.folder import RunFolder
from layerscope.results.table import BLOCK
from layerscope.settings import LiveScanConfig, ReadingConfig, ScanConfig

LoadedModel = Annotated[nn.Module, Kind("a loaded transformers model")]


@with_settings(LiveScanConfig, ReadingConfig)
def scan_live(
    model: LoadedModel,
    tokenizer: Tokenizer,
    texts: Data,
    config: Exactly[ScanConfig] | None = None,
    *,
    step: Natural | None = None,
    out: AnyPath | None = None,
    overwrite: Flag = False,
    **settings: Unpack[LiveScanSettings],
) -> Scan:
    """Measure every layer of a model that is being trained, between two of its steps.

    Random states (torch, its GPUs, numpy, Python), the mode and hooks of every module, gradients,
    autocast and thread counts are the same afterwards, so training continues bit for bit as without
    the scan. The states are those of the weights as they are, without autocast and dropout.

    In distributed training call it on one process; the model must be whole there (as with DDP).

    Args:
        model: the model, which may be wrapped by DDP or `torch.compile`.
        tokenizer: of the model; None for a model of images.
        texts: as `data` of `scan`. A few dozen keep a scan short.
        config: the settings as one object; single settings below change it.
        step: the training step, which `layerscope plot --x step` reads.
        out: folder for the run, without its page; None writes nothing.
        overwrite: whether a run in that folder may be replaced.
        settings: any field of `LiveScanConfig` and `ReadingConfig`.

    Raises:
        InputError: something given cannot be used; the message says what and what to do.
        RunError: the model or the disk failed.
    """
    place = RunFolder(Path(out), overwrite) if out is not None else None
    if place:
        place.claim()
    scan = LiveScan.of(texts, config, settings).run(model, tokenizer, step)
    return scan if place is None else saved(scan, place)


@checked
def log_entries(scan: Annotated[Scan, Kind("a scan")]) -> dict[str, float]:
    """Return the values of a scan under names for a logger, one for each measure and layer.

    A name is `layerscope/prompt_entropy/layer_3`, or `layerscope/lidar/crops of 20 words/layer_3` where
    a measure was taken on several kinds of views, with `_` for what a tracker may refuse. Values
    are in the convention to decide by (normalized where it was computed), of the outputs of blocks. What
    compares every two layers, null levels and noise floors are left out.
    """
    table = scan.table()
    besides = table["metric"].isin(_MATRICES) | table["metric"].str.contains("_(?:null|floor)$")
    rows = table[(table["stage"] == BLOCK) & ~besides & table["value"].notna()]
    rows = in_convention(rows.fillna({"convention": "", "perturbation": ""}), None)
    several = rows.groupby("metric")["perturbation"].transform("nunique") > 1
    kinds = "/" + rows["perturbation"].str.replace(r"[^\w. -]+", "_", regex=True)
    names = "layerscope/" + rows["metric"] + kinds.where(several, "")
    names += "/layer_" + rows["layer"].astype(str)
    return dict(zip(names, map(float, rows["value"]), strict=True))


_MATRICES: Final = frozenset(measure.name for measure in CATALOGUE if measure.place == "matrix")


@dataclass(frozen=True)
class LiveScan:
    """What is measured at every chosen step.

    Attributes:
        texts: what to measure the model on.
        config: the settings.
    """

    texts: Texts
    config: ScanConfig

    @classmethod
    def of(cls, texts: Any, config: ScanConfig | None, settings: Any) -> LiveScan:
        """Read the texts and check the settings, as far as that needs no model.

        Raises:
            InputError: they cannot be used.
        """
        chosen = part(LiveScanConfig, settings, config)
        check_measures(chosen)
        found = texts_of(texts, part(ReadingConfig, settings), chosen.seed)
        refuse_impossible(chosen, found)
        return cls(found, chosen)

    def check(self, model: nn.Module, tokenizer: Any) -> None:
        """Refuse a model that the scan could not measure.

        Raises:
            InputError: texts or settings do not fit the model, or it is not whole in this process.
        """
        with _undisturbed(model):
            prepare(_backbone(model, tokenizer), self.texts, self.config)

    def run(self, model: nn.Module, tokenizer: Any, step: int | None = None) -> Scan:
        """Measure a model as it is; the step becomes its revision, like `step100`."""
        revision = "" if step is None else step_name(step)
        with _undisturbed(model):
            backbone = _backbone(model, tokenizer, revision)
            return Scan(scan_backbone(backbone, self.texts, self.config))


def step_name(step: int) -> str:
    """Return the name of a training step, from which the figures over steps read its number."""
    return f"step{step}"


def saved(scan: Scan, place: RunFolder) -> Scan:
    """Return a scan saved in its place, without a page, which would be most of the time and disk."""
    with place.claimed():
        place.finish(scan.run)
    return Scan(scan.run, place.path)


def _backbone(model: nn.Module, tokenizer: Any, revision: str = "") -> Backbone:
    whole = _unwrapped(model)
    _refuse_sharded(whole)
    refuse_tokenizer(whole, tokenizer)
    return backbone_of(whole, tokenizer, revision=revision)


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of DDP, DataParallel and `torch.compile`."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _refuse_sharded(model: nn.Module) -> None:
    """Refuse a model of which each process holds a part: one process alone cannot run it."""
    by_fsdp = any("FullyShardedDataParallel" in type(part).__name__ for part in model.modules())
    if by_fsdp or any(
        type(weight).__name__ == "DTensor" or hasattr(weight, "ds_id")
        for weight in model.parameters()
    ):
        raise InputError(
            "expected a model that is whole in each process, got one that is sharded (FSDP, DeepSpeed "
            "ZeRO-3 or tensor parallelism); save checkpoints and scan those."
        )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Keep random states, and leave autocast for the time of a scan.

    Each forward pass of a scan restores modes, hooks and autograd by itself. Without autocast the numbers
    are those that a scan of the checkpoint would give, and none of its casts of the weights can get into
    the cache of the training's own pass.
    """
    devices = {"cpu", *(weight.device.type for weight in model.parameters())}
    with ExitStack() as stack:
        stack.enter_context(random_states_kept())
        for device in sorted(filter(torch.amp.is_autocast_available, devices)):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield
