"""Settings as keyword arguments, for editors and type checkers.

Made from the configs by `python -m benchmarks.keywords`; change those, not this file.
"""

# ruff: noqa: D101

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import torch

    from layerscope.config import Augmentation, FirstToken, NonFinite, Pooling


class LengthConfigKeywords(TypedDict, total=False):
    max_length: int


class TokenConfigKeywords(LengthConfigKeywords, total=False):
    special_tokens: bool | None
    first_token: FirstToken | Literal["auto", "keep", "drop"]


class VectorConfigKeywords(TokenConfigKeywords, total=False):
    pooling: Pooling | Literal["mean", "last", "first", "weighted_mean", "max"] | None
    prompt: str | None
    as_tokens: bool
    batch_tokens: int


class ScanConfigKeywords(VectorConfigKeywords, total=False):
    metrics: str | Iterable[str] | None
    conventions: str | Iterable[str]
    layers: str | int | Iterable[int] | None
    stages: str | Iterable[str]
    views: int
    view_texts: int | None
    view_words: int | None
    augmentation: (
        Augmentation
        | Literal["default", "authors", "crops", "halves", "cloze"]
        | Iterable[Augmentation | Literal["default", "authors", "crops", "halves", "cloze"]]
    )
    span_words: int
    draws: int
    readouts: str | Iterable[str]
    perturbation: str | dict[str, Any] | None
    alpha: float
    non_finite: NonFinite | Literal["raise", "drop"]
    seed: int
    resamples: int


class ReadingConfigKeywords(TypedDict, total=False):
    column: str | None
    split: str | None
    limit: int | None


class ModelOptionsKeywords(TypedDict, total=False):
    revision: str | None
    dtype: str | torch.dtype
    device: str | torch.device
    device_map: str | dict[str, Any] | None
    trust_remote_code: bool


class LiveScanConfigKeywords(ScanConfigKeywords, total=False):
    pass


class EvaluateConfigKeywords(VectorConfigKeywords, total=False):
    layers: str | int | Iterable[int] | None
    normalize: bool | None
    query_prompt: str | None
    bank_poolings: (
        Pooling
        | Literal["mean", "last", "first", "weighted_mean", "max"]
        | Iterable[Pooling | Literal["mean", "last", "first", "weighted_mean", "max"]]
        | None
    )
    probes: Literal["linear", "attention", "knn"] | Iterable[Literal["linear", "attention", "knn"]]
    probe_seeds: int
    seed: int


class CutConfigKeywords(LengthConfigKeywords, total=False):
    format: Literal["sentence-transformers", "transformers", "onnx"]
    kind: Literal["cut", "pointer"]
    final_norm: Literal["auto", "keep", "drop"]
    head: bool
    pooling: Pooling | Literal["mean", "last", "first", "weighted_mean", "max"] | None
    special_tokens: bool | None
    first_token: FirstToken | Literal["auto", "keep", "drop"] | None
    normalize: bool


class HubConfigKeywords(TypedDict, total=False):
    push: str | None
    private: bool


class PruneConfigKeywords(VectorConfigKeywords, total=False):
    draws: int
    scheme: Literal["one-shot", "greedy"]
    parts: Literal["blocks", "attention", "mlp"]
    protect: str | tuple[int, int]
    heal: Literal["auto", "on", "off"]
    format: Literal["auto", "transformers", "sentence-transformers"]
    head: bool
    readout: bool
    seed: int


class RankConfigKeywords(VectorConfigKeywords, total=False):
    also: str | Iterable[str]
    resamples: int
    non_finite: NonFinite | Literal["raise", "drop"]
    seed: int


class FewTextsConfigKeywords(ReadingConfigKeywords, total=False):
    pass


class PlotConfigKeywords(TypedDict, total=False):
    metric: str | Iterable[str] | None
    draw: Literal["lines", "distribution", "matrix", "scatter", "data", "models", "none"]
    x: Literal["depth", "layer", "step", "position", "budget", "decay"]
    by: (
        Literal["model", "revision", "data", "perturbation", "stage", "seed", "layer", "run"]
        | Iterable[
            Literal["model", "revision", "data", "perturbation", "stage", "seed", "layer", "run"]
        ]
        | None
    )
    convention: Literal["paper", "normalized", "reference", "all"] | None
    layers: str | int | Iterable[int] | None
    minus: str | None
    band: Literal["limits", "spread"]


class EngineConfigKeywords(TypedDict, total=False):
    engine: Literal["local", "ray"]
    workers: int
    address: str | None
    threads: int | None
    shard: str | None
    retries: int


class ScanSettings(ScanConfigKeywords, ReadingConfigKeywords, ModelOptionsKeywords, total=False):
    pass


class LiveScanSettings(LiveScanConfigKeywords, ReadingConfigKeywords, total=False):
    pass


class EvaluateSettings(EvaluateConfigKeywords, ModelOptionsKeywords, total=False):
    pass


class CutSettings(
    CutConfigKeywords, ReadingConfigKeywords, ModelOptionsKeywords, HubConfigKeywords, total=False
):
    pass


class PruneSettings(
    PruneConfigKeywords, ReadingConfigKeywords, ModelOptionsKeywords, HubConfigKeywords, total=False
):
    pass


class RankSettings(RankConfigKeywords, ReadingConfigKeywords, ModelOptionsKeywords, total=False):
    pass


class DoctorSettings(FewTextsConfigKeywords, ModelOptionsKeywords, total=False):
    pass


class PlotSettings(PlotConfigKeywords, total=False):
    pass


class StudySettings(EngineConfigKeywords, total=False):
    pass
