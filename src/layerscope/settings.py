"""All settings: the configs that define options, keyword arguments and `run.json`.

This module imports nothing slow, because the command line imports it to show its help.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self, TypeVar, get_args

from annotated_types import Ge
from pydantic import AfterValidator, BeforeValidator, model_validator

from layerscope.config import (
    Accepts,
    Augmentation,
    Config,
    Count,
    FirstToken,
    Flag,
    Kind,
    Layers,
    Listed,
    Natural,
    NonFinite,
    Number,
    Option,
    Pair,
    Perturbed,
    Pooling,
    Several,
    Text,
    To,
    Words,
)
from layerscope.errors import InputError, unknown_name

T = TypeVar("T")

DEFAULT_LIMIT: Final = 1000  # texts
FEW_TEXTS: Final = 16  # default number of texts of a diagnosis
DRAWS: Final = 20  # random subsets to compare with a chosen one
DEFAULT_PREDICTOR: Final = "rankme"  # the best of six on five models: benchmarks/results/rank.md
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Probe = Literal["linear", "attention", "knn"]
PROBES: Final[tuple[Probe, ...]] = get_args(Probe)
Format = Literal["sentence-transformers", "transformers", "onnx"]
FinalNorm = Literal["auto", "keep", "drop"]
Scheme = Literal["one-shot", "greedy"]
Heal = Literal["auto", "on", "off"]
Part = Literal["attention", "mlp"]
Parts = Literal["blocks", "attention", "mlp"]
PrunedFormat = Literal["auto", "transformers", "sentence-transformers"]


class Convention(StrEnum):
    """The preprocessing that is part of a measure's identity."""

    PAPER = "paper"
    NORMALIZED = "normalized"
    REFERENCE = "reference"


def parse_conventions(names: Iterable[str]) -> tuple[Convention, ...]:
    """Read names of conventions; `all` stands for every one.

    >>> [convention.value for convention in parse_conventions(["paper"])]
    ['paper']

    Raises:
        InputError: an unknown name.
    """
    chosen: list[Convention] = []
    for name in names:
        if name == "all":
            return tuple(Convention)
        if name not in list(Convention):
            raise unknown_name("convention", name, [*Convention, "all"])
        chosen.append(Convention(name))
    return tuple(dict.fromkeys(chosen))


def _each_once(values: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _with_blocks(stages: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("block", *stages)))


def _torch_name(given: Any) -> Any:
    """Return the name of a torch dtype or device, without importing torch for a name."""
    if isinstance(given, str) or type(given).__module__ != "torch":
        return given
    return str(given).removeprefix("torch.")


def _known_device(name: str) -> str:
    """Refuse a name that is not a device of torch, and `meta`, which holds no numbers."""
    if name in ("auto", "cpu"):
        return name
    import torch

    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = "meta"
    if kind == "meta":
        raise ValueError(name)
    return name


Conventions = Annotated[
    tuple[Convention, ...], To(Annotated[Several[Text], AfterValidator(parse_conventions)])
]
SpecialTokens = Annotated[Flag, Option(words=("exclude", "include"))]


def _two_numbers_of(text: str) -> str:
    part, _, whole = text.partition("/")
    if not (part.isdigit() and whole.isdigit() and 1 <= int(part) <= int(whole)):
        raise ValueError(text)
    return text


Shard = Annotated[Text, AfterValidator(_two_numbers_of), Words("a part like 2/8")]


def _none_for_all(given: Any) -> Any:
    return None if isinstance(given, str) and given == "all" else given


Limit = Annotated[Count | None, BeforeValidator(_none_for_all), Option(zero_is_all=True)]


# --- settings shared by commands -------------------------------------------------------------------


class ReadingConfig(Config):
    """Which texts are read."""

    column: Text | None = None
    """Column that holds the texts."""
    split: Text | None = None
    """Split of a datasets id or of a dict of splits."""
    limit: Limit = DEFAULT_LIMIT
    """Most texts to use, or all (None in Python)."""


class ModelOptions(Config):
    """How a model is loaded."""

    revision: Text | None = None
    """Branch, tag or commit on the hub."""
    dtype: Annotated[Dtype, BeforeValidator(_torch_name), Accepts("str | torch.dtype")] = "auto"
    """auto (the checkpoint's own), float32, bfloat16, float16 or float64."""
    device: Annotated[
        Text,
        BeforeValidator(_torch_name),
        AfterValidator(_known_device),
        Accepts("str | torch.device"),
        Words("a device like auto, cpu, cuda, cuda:1 or mps"),
    ] = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1 or mps."""
    device_map: Annotated[
        str | dict[str, Any] | None, Kind("a device map of transformers, such as 'auto', or None")
    ] = None
    """Passed to transformers; auto spreads a large model. Replaces the device."""
    trust_remote_code: Flag = False
    """Run code that comes with the checkpoint."""


class LengthConfig(Config):
    """How much of a text is read."""

    max_length: Count = 512
    """Most tokens a text may have; fewer if the model takes fewer."""


class TokenConfig(LengthConfig):
    """Which tokens of a text count."""

    special_tokens: SpecialTokens | None = None
    """exclude or include the tokens that the tokenizer adds; by default as a sentence-transformers
    source does, else exclude."""
    first_token: FirstToken = FirstToken.AUTO
    """Whether position 0 counts: auto (as such a source does, else out if it is an attention sink), keep
    or drop."""


class VectorConfig(TokenConfig):
    """How token states become one vector per text."""

    pooling: Pooling | None = None
    """mean, last, first, weighted_mean or max; by default as a sentence-transformers source
    does, else mean."""
    prompt: Text | None = None
    """Prompt put before every text; by default as a sentence-transformers source does."""
    as_tokens: Flag = False
    """Take the mean over all but special tokens, whatever such a source does with them."""
    batch_tokens: Count = 4096
    """Padded tokens in one forward pass; decides memory and speed, not results."""

    @property
    def pools(self) -> Pooling:
        """The pooling, mean where nothing says otherwise."""
        return self.pooling or Pooling.MEAN


# --- a config for each command ----------------------------------------------------------------------


class ScanConfig(VectorConfig):
    """All settings that decide the numbers of a scan; model and texts are arguments."""

    metrics: Several[Text] | None = None
    """Measures to compute, by default all; see layerscope metrics."""
    conventions: Annotated[Conventions, Option("--convention")] = (
        Convention.PAPER,
        Convention.NORMALIZED,
    )
    """paper, normalized, reference, or all."""
    layers: Layers | None = None
    """Layers, like 0,4-6; by default all."""
    stages: Annotated[Several[Text], AfterValidator(_with_blocks)] = ("block",)
    """Stages besides block, which is always read: attn_norm, attn, attn_residual, mlp_norm, mlp."""
    views: Natural = 2
    """Misspelled copies of each text; 16 as in the paper; 0 for no views of any kind."""
    view_texts: Limit = 128
    """Texts that are misspelled, drawn by the seed, or all (None in Python) as in the paper."""
    view_words: Limit = 40
    """Words from the start of a text that are misspelled, or all as in the paper."""
    augmentation: Annotated[Several[Augmentation], AfterValidator(_each_once)] = (
        Augmentation.DEFAULT,
        Augmentation.CROPS,
    )
    """Kinds of views: default or authors (misspelled copies; authors with the caps of the published
    figures), crops, halves, cloze (parts of a text)."""
    span_words: Count = 20
    """Words of a crop, or of the span of a cloze."""
    draws: Count = 1
    """Pairs of crops or clozes per text."""
    readouts: Annotated[Listed[Text], Option(separator=";")] = ()
    """Your own readouts to compare with the others, like "24+30+6 unit, z-score; 12"."""
    perturbation: Perturbed = None
    """Change the tokens of each text first: "repeat p=0.5", "random p=0.5" or "length 64 tokens"; without
    the measures of views, which are made of strings."""
    alpha: Annotated[Number, Ge(0)] = 1.0
    """Order of the matrix-based entropies; may be infinity."""
    non_finite: NonFinite = NonFinite.RAISE
    """raise, or drop texts whose states hold NaN or infinity."""
    seed: Natural = 0
    """Seed of views, permutations and resamples."""
    resamples: Count = 1000
    """Resamples of the texts behind limits."""

    @model_validator(mode="after")
    def _refuse_one_view(self) -> Self:
        if self.views == 1:
            raise InputError("expected 0 views, or at least 2 to compare with each other, got 1.")
        return self


class PrefixConfig(ScanConfig):
    """The settings of a scan of prefixes, in a study."""

    metrics: Several[Text] = ("prompt_entropy",)
    """Measures of the tokens of one text."""
    views: Natural = 0
    """No views: they are of whole texts."""
    every: Count = 16
    """Tokens from one prefix to the next; the first has as many."""


class LiveScanConfig(ScanConfig):
    """The settings of a scan with defaults that cost little, for scans of a model while it trains."""

    metrics: Several[Text] | None = ("prompt_entropy", "dataset_entropy", "curvature")
    """Measures to compute; None for all."""
    views: Natural = 0
    """Misspelled copies of each text; measures of views need at least 2."""


class EvaluateConfig(VectorConfig):
    """All settings that decide the scores; model and tasks are arguments."""

    layers: Layers | None = None
    """Layers, like 0,4-6; by default all."""
    normalize: Flag | None = None
    """Scale vectors to unit length before they are scored; by default as the source does."""
    query_prompt: Text | None = None
    """Prompt put before queries instead."""
    bank_poolings: Listed[Pooling] | None = None
    """Poolings kept in the bank, by default all while it stays below 20 GB."""
    probes: Annotated[Listed[Probe], Option("--probe")] = ()
    """Also train probes on the states of each layer, on tables or images with labels: linear,
    attention (over tokens), knn (nearest neighbors)."""
    probe_seeds: Count = 1
    """Probes of each kind, each trained on four fifths of the data; limits are then over seeds."""
    seed: Natural = 0
    """Seed of the probes; mteb has its own."""

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide a score; a run never mixes scores with different ones."""
        return {
            "pooling": self.pools.value,
            "normalize": bool(self.normalize),
            "prompt": self.prompt,
            "query_prompt": self.prompt if self.query_prompt is None else self.query_prompt,
            "special_tokens": bool(self.special_tokens),
            "first_token": self.first_token.value,
            "max_length": self.max_length,
        }


POOLING_SETTINGS: Final = ("pooling", "special_tokens", "first_token")


class ChoicesConfig(LengthConfig):
    """How multiple-choice questions are asked, in a study."""

    shots: Natural = 0
    """Questions that are shown with their answers before each; the first of the table, not scored."""
    split: Text | None = None
    """Split of a datasets id."""
    limit: Limit = None
    """Most questions to ask; None for all."""
    max_length: Count = 2048
    """Most tokens a prompt may have; its beginning is cut."""


class CutConfig(LengthConfig):
    """How a model is cut and saved."""

    format: Format = "sentence-transformers"
    """Format of the saved folder: sentence-transformers, transformers or onnx."""
    kind: Literal["cut", "pointer"] = "cut"
    """cut, or pointer: the whole model with a pointer to the layer."""
    final_norm: FinalNorm = "auto"
    """drop: the layer as scanned; keep: after the final norm; auto: drop."""
    head: Flag = False
    """Keep the checkpoint's head; needs the format transformers and the final norm."""
    pooling: Pooling | None = None
    """mean, last, first, weighted_mean or max; by default the source's own modules, else mean."""
    special_tokens: SpecialTokens | None = None
    """exclude or include the tokens that the tokenizer adds; by default as the source's modules do."""
    first_token: FirstToken | None = None
    """auto (out if it is an attention sink), keep or drop."""
    normalize: Flag = False
    """Scale vectors to unit length."""

    @model_validator(mode="after")
    def _refuse_lone_head(self) -> Self:
        if self.head and (self.final_norm != "keep" or self.format != "transformers"):
            raise InputError(
                "a head reads what the final norm gives; with --head pass --final-norm keep and "
                "--format transformers."
            )
        return self

    @property
    def asks_for_pooling(self) -> bool:
        """Whether any setting of pooling is given, which then replaces the source's own pooling."""
        return any(getattr(self, name) is not None for name in POOLING_SETTINGS)


def _two_numbers(given: Any) -> Any:
    parts = [part.strip() for part in given.split(",")] if isinstance(given, str) else []
    return (
        [int(part) for part in parts] if len(parts) == 2 and all(map(str.isdigit, parts)) else given
    )


Protected = Annotated[
    Literal["auto"] | tuple[int, int],
    To(
        Annotated[
            Literal["auto"] | Pair[Natural],
            BeforeValidator(_two_numbers),
            Accepts("str | tuple[int, int]"),
            Words("auto or two whole numbers of at least 0 like 1,1, at the start and end"),
        ]
    ),
    Option(whole=True),
]


class PruneConfig(VectorConfig):
    """How blocks are chosen, tried and dropped; rule and budget are arguments."""

    draws: Count = DRAWS
    """Random subsets to compare with; all subsets if there are no more."""
    scheme: Scheme = "one-shot"
    """one-shot, or greedy: measure again after each block."""
    parts: Parts = "blocks"
    """What is dropped: blocks; or the attention or mlp of blocks, which is tried but cannot be saved."""
    protect: Protected = "auto"
    """Blocks that stay: at the start and at the end; auto is 1,1 and blocks that build an attention
    sink, which later blocks rely on."""
    heal: Heal = "auto"
    """Put a linear map in place of dropped blocks, folded into the block before them: auto (where
    held-out texts say that it helps), on or off."""
    format: PrunedFormat = "auto"
    """Format of the saved folder: auto (the source's), transformers or sentence-transformers."""
    head: Flag = True
    """Load and keep the checkpoint's head."""
    readout: Flag = False
    """Save the readout of the smaller model that needs no labels, chosen and fitted as by cut, in place
    of its last layer; needs --out."""
    seed: Natural = 0
    """Seed of the random rule, the subsets and the measures."""

    @model_validator(mode="after")
    def _refuse_readout(self) -> Self:
        if self.readout and self.format == "transformers":
            raise InputError(
                "a readout is saved for sentence-transformers, which pools and maps after the model; "
                "leave --format transformers out."
            )
        return self


class PruneCellConfig(Config):
    """What a cell of a study prunes by, and what it is tried on; paths and names, unlike in Python."""

    rule: Text = "angular"
    """Which blocks go."""
    budget: Several[Text] = ("10%",)
    """How many: shares like 10%, or numbers."""
    evaluate: Listed[Text] = ()
    """Tasks to try the smaller models on."""


class RankConfig(VectorConfig):
    """How the models of a ranking are scanned."""

    also: Listed[Text] = ()
    """Predictors to measure and show besides, or all."""
    resamples: Count = 1000
    """Resamples of the texts."""
    non_finite: NonFinite = NonFinite.RAISE
    """raise, or drop texts whose states hold NaN or infinity."""
    seed: Natural = 0
    """Seed of the choice of texts and of resampling."""


def _repository_name(name: str) -> str:
    """Refuse what no hub takes as the name of a repository."""
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    validate_repo_id(name)
    if "/" not in name:
        raise ValueError(name)
    return name


RepositoryName = Annotated[
    Text, AfterValidator(_repository_name), Words("a repository of the hub like org/name")
]


class HubConfig(Config):
    """Where a saved model is uploaded to."""

    push: RepositoryName | None = None
    """Upload the verified folder to this repository of the hub, like org/name."""
    private: Annotated[Flag, Option("--private/--public")] = True
    """Whether the repository is private."""


class FewTextsConfig(ReadingConfig):
    """Which texts a diagnosis reads."""

    limit: Limit = FEW_TEXTS
    """Most texts to read, or all (None in Python)."""


By = Literal["model", "revision", "data", "perturbation", "stage", "seed", "layer", "run"]


class PlotConfig(Config):
    """How several runs are drawn in one figure."""

    metric: Several[Text] | None = None
    """Measures, or tasks whose scores to draw; by default the seven of the paper that the runs hold."""
    draw: Literal["lines", "distribution", "matrix", "scatter", "data", "models", "none"] = "lines"
    """lines; distribution of the values of single texts; matrix of measures and scores, or scatter of
    their layers; data or models, a dot each against its score; none draws nothing."""
    x: Literal["depth", "layer", "step", "position", "budget", "decay"] = "depth"
    """What runs along lines: depth, layer, step (of training, read from revisions or names), or what is
    read from perturbations: position (of tokens), budget (of blocks dropped), decay."""
    by: Several[By] | None = None
    """What has a line each: model, revision, data, perturbation, stage, seed, layer or run; several are
    combined. By default model, and layer along steps and positions."""
    convention: Literal["paper", "normalized", "reference", "all"] | None = None
    """paper, normalized, reference or all; by default the one to decide by."""
    layers: Layers | None = None
    """Layers to draw, like 0,4-6; by default all, along steps and positions at most six."""
    minus: Text | None = None
    """A model that is subtracted from the others, text by text."""
    band: Literal["limits", "spread"] = "limits"
    """Around lines: 95 % limits of the mean, or the spread of the texts (from 10 to 90 %)."""


class EngineConfig(Config):
    """Where the cells of a study run."""

    engine: Literal["local", "ray"] = "local"
    """local (processes on this machine) or ray (a cluster, or this machine)."""
    workers: Natural = 1
    """Processes or actors, each with one model at a time; 0 runs the cells in this process."""
    address: Text | None = None
    """Of a Ray cluster, like auto or ray://host:10001; by default Ray starts on this machine."""
    threads: Count | None = None
    """CPU threads of a worker; by default the cores, divided by the workers."""
    shard: Shard | None = None
    """Run only a part of the cells, like 2/8, and merge the folders later."""
    retries: Natural = 2
    """How often a cell is tried again whose worker died."""

    @model_validator(mode="after")
    def _refuse_lone_address(self) -> Self:
        if self.address is not None and self.engine != "ray":
            raise InputError("the address is that of a Ray cluster; pass --engine ray with it.")
        return self
