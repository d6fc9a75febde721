"""A smaller model as an ONNX file, by torch's own exporter, whose one output is the layer."""

from __future__ import annotations

import importlib.util
import os
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from layerscope.errors import InputError
from layerscope.export.formats import bytes_of
from layerscope.export.shorten import LAST, OutputPath
from layerscope.models.backbone import Backbone

FILE: Final = "model.onnx"
_IN_ONE_FILE: Final = 1_500_000_000  # bytes; protobuf ends at two gigabytes
_NEEDED: Final = ("onnx", "onnxscript", "onnxruntime")


class _Layer(nn.Module):
    """A model that gives one state and nothing else."""

    def __init__(self, model: nn.Module, output: OutputPath) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Any = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=self.output != LAST,
        )
        for name in self.output:
            found = found[name]
        state: Tensor = found
        return state


def require_onnx() -> None:
    """Raise an InputError where the exporter or its runtime is not installed."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise InputError("this format needs an extra: pip install 'layerscope[onnx]'.")


def write_onnx(model: Any, backbone: Backbone, folder: Path, output: OutputPath) -> None:
    """Export a model; inputs `input_ids` and `attention_mask`, output `last_hidden_state`.

    Raises:
        InputError: torch's exporter does not do this architecture.
    """
    real: Any = model.to("cpu").eval()
    real.set_attn_implementation("eager")
    real.config.architectures = [type(real).__name__]
    if hasattr(real.config, "use_cache"):
        real.config.use_cache = False
    try:
        external = bytes_of(model) > _IN_ONE_FILE
        _export(_Layer(real, output).eval(), folder, real.config.vocab_size, external=external)
    except Exception as error:  # an exporter raises whatever it meets in the model's code
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"torch's ONNX exporter cannot do {type(model).__name__} ({first}); choose another --format."
        ) from error
    real.config.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)


def _export(layer: nn.Module, folder: Path, vocabulary: int, *, external: bool) -> None:
    ids = torch.arange(16).reshape(2, 8) % vocabulary
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), torch.inference_mode(), open(os.devnull, "w") as nowhere:  # noqa: PTH123
        warnings.simplefilter("ignore")  # of the exporter's own parts, deprecated among themselves
        with redirect_stdout(nowhere):
            torch.onnx.export(
                layer,
                (ids, torch.ones_like(ids)),
                str(folder / FILE),
                input_names=["input_ids", "attention_mask"],
                output_names=["last_hidden_state"],
                dynamic_shapes={"input_ids": axes, "attention_mask": axes},
                dynamo=True,
                external_data=external,
                verbose=False,
            )
