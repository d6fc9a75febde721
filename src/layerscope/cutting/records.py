"""How a model is cut, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import model_validator

from layerscope import surgery
from layerscope.config import Count, Flag, Settings
from layerscope.errors import InputError
from layerscope.estimates import Estimates
from layerscope.settings import FirstToken, Pooling
from layerscope.surgery import OutputPath, Shipped, usage_of

FinalNorm = Literal["auto", "keep", "drop"]
POOLING_SETTINGS: Final = ("pooling", "special_tokens", "first_token")


class CutSettings(Settings):
    """How a model is cut and saved."""

    format: surgery.Format = "sentence-transformers"
    """Of the saved folder: "sentence-transformers", "transformers" or "onnx"."""
    kind: Literal["cut", "pointer"] = "cut"
    """"cut" leaves the blocks behind the layer out; "pointer" keeps all of them and says where the
    layer is."""
    final_norm: FinalNorm = "auto"
    """"drop" gives the layer as it was scanned, the state after block K; "keep" the final norm of it;
    "auto" is "drop"."""
    head: Flag = False
    """Whether the head of the checkpoint is kept (transformers only, with the final norm)."""
    pooling: Pooling | None = None
    """Token states -> a vector, for sentence-transformers; None takes the source's modules if it is a
    sentence-transformers model, else the mean."""
    special_tokens: Flag | None = None
    """Whether tokens that the tokenizer adds count; None: they do not, unless the source's modules are
    taken."""
    first_token: FirstToken | None = None
    """Whether position 0 counts; `auto` leaves it out where it is an attention sink."""
    normalize: Flag = False
    """Whether vectors are scaled to unit length."""
    max_length: Count = 512
    """Most tokens a text may have."""

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
