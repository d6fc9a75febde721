"""How a model is cut, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from layerscope import surgery
from layerscope.errors import InputError, unknown_name
from layerscope.estimates import Estimates
from layerscope.settings import FirstToken, Pooling, choice
from layerscope.surgery import OutputPath, Shipped, usage_of

FinalNorm = Literal["auto", "keep", "drop"]
NORMS: Final = ("auto", "keep", "drop")
POOLING_SETTINGS: Final = ("pooling", "special_tokens", "first_token")
KINDS: Final = ("cut", "pointer")


@dataclass(frozen=True)
class CutSettings:
    """How a model is cut and saved.

    Attributes:
        format: "sentence-transformers", "transformers" or "onnx".
        kind: "cut" leaves the blocks behind the layer out; "pointer" keeps all of them and says where
            the layer is.
        final_norm: "drop" gives the layer as it was scanned, the state after block K; "keep" the final
            norm of it; "auto" is "drop".
        head: whether the head of the checkpoint comes along (transformers only, with the final norm).
        pooling: token states -> a vector, for sentence-transformers; None takes the source's modules
            if it is a sentence-transformers model, else the mean.
        special_tokens: whether tokens that the tokenizer adds count; None: they do not, unless the
            source's modules are taken.
        first_token: whether position 0 counts; `auto` leaves it out where it is an attention sink.
        normalize: whether vectors are scaled to unit length.
        max_length: most tokens a text may have.
    """

    format: surgery.Format = "sentence-transformers"
    kind: Literal["cut", "pointer"] = "cut"
    final_norm: FinalNorm = "auto"
    head: bool = False
    pooling: Pooling | None = None
    special_tokens: bool | None = None
    first_token: FirstToken | None = None
    normalize: bool = False
    max_length: int = 512

    def __post_init__(self) -> None:
        for name, known in (("format", surgery.FORMATS), ("kind", KINDS), ("final_norm", NORMS)):
            if getattr(self, name) not in known:
                raise unknown_name(name.replace("_", " "), str(getattr(self, name)), known)
        if self.pooling is not None:
            object.__setattr__(self, "pooling", choice("pooling", self.pooling, Pooling))
        if self.first_token is not None:
            token = choice("first_token", self.first_token, FirstToken)
            object.__setattr__(self, "first_token", token)
        if self.head and (self.final_norm != "keep" or self.format != "transformers"):
            raise InputError(
                "a head reads what the final norm gives; with --head pass --final-norm keep and "
                "--format transformers."
            )

    @property
    def asks_for_pooling(self) -> bool:
        """Whether anything was said about pooling, so that a source's own is not taken."""
        return any(getattr(self, name) is not None for name in POOLING_SETTINGS)


@dataclass(frozen=True)
class CutEstimates:
    """What a cut would take.

    Attributes:
        layer: the layer; None where a scan has yet to choose it.
        of: the blocks of the source.
        weight_bytes: of what is saved, at most.
        free_bytes: free where it is to go.
        scan: what the scan that chooses the layer would take, if there has to be one.
    """

    layer: int | None
    of: int
    weight_bytes: int
    free_bytes: int
    scan: Estimates | None = None


@dataclass(frozen=True)
class Cut:
    """A model that was cut and saved.

    Attributes:
        shipped: the folder, its size, and what the new process found.
        layer: the layer that it gives.
        of: the blocks of the source.
        blocks: its own blocks.
        stage: "block", or "final_norm" of that layer.
        output: where in the output of transformers the layer is.
        source_size: bytes of the source's weights.
        notes: what there is to know.
        settings: how it was made.
        evidence: sentences on why this layer.
        reads_pictures: whether it reads images rather than texts.
    """

    shipped: Shipped
    layer: int
    of: int
    blocks: int
    stage: str
    output: OutputPath
    source_size: int
    settings: CutSettings
    notes: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    reads_pictures: bool = False

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.shipped.folder

    @property
    def usage(self) -> str:
        """Python that loads it and uses it."""
        reader, pictures = self.shipped.verification.reader, self.reads_pictures
        return usage_of(self.folder, self.settings.format, self.output, reader, pictures=pictures)
