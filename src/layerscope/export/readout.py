"""A fitted readout as stock sentence-transformers modules, so that no code of ours serves it.

Transformer (all hidden states) -> WeightedLayerPooling -> Pooling -> Dense (identity) -> Normalize. The
layers are averaged before pooling, which is the same for poolings that are linear in the token states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from layerscope.config import Pooling
from layerscope.errors import InputError
from layerscope.export.sentence import require_extra
from layerscope.metrics.readouts import Fitted, Floats

_MODES: Final = {
    Pooling.MEAN: "mean",
    Pooling.LAST: "lasttoken",
    Pooling.FIRST: "cls",
    Pooling.WEIGHTED_MEAN: "weightedmean",
}


@dataclass(frozen=True, eq=False)
class ReadoutModules:
    """A readout in the numbers of stock modules.

    Attributes:
        weights: (hidden state,) of `WeightedLayerPooling`, which divides by their sum; None where one
            hidden state is read, that of the last index.
        layer: index of the hidden state that is read where weights is None.
        matrix: (dim', dim) of `Dense`; None where it would be the identity with no bias.
        bias: (dim',) of `Dense`.
        normalize: whether vectors are scaled to unit length.
    """

    weights: Floats | None
    layer: int
    matrix: Floats | None
    bias: Floats | None
    normalize: bool


def as_modules(
    fitted: Fitted,
    hidden_states: int,
    *,
    indices: Mapping[int, int] | None = None,
    normalize: bool = True,
) -> ReadoutModules:
    """Return the numbers of the modules that give what `Fitted.apply` gives.

    `WeightedLayerPooling` divides by the sum of the weights, so the sum goes into the matrix. With unit
    length and without a map the scale is of no effect, and a single layer needs neither module.

    Args:
        fitted: the readout.
        hidden_states: how many the model gives: its blocks and one more. The last is after the final
            norm, where the model has one: the raw output of the last block is not among them.
        indices: site of the readout -> index of its hidden state; by default the same number.
        normalize: whether vectors are scaled to unit length.

    Raises:
        InputError: a layer of the readout is not among the hidden states.
    """
    places = indices if indices is not None else {index: index for index in range(hidden_states)}
    weights = np.zeros(hidden_states)
    for layer, weight in zip(fitted.readout.layers, fitted.weights, strict=True):
        place = places.get(layer)
        if place is None or not 0 <= place < hidden_states:
            raise InputError(
                f"layer {layer} of the readout '{fitted.readout}' is not among the {hidden_states} "
                "hidden states that the model gives; choose another, or cut the model first."
            )
        weights[place] += weight
    total = float(weights.sum())
    diagonal = fitted.matrix.ndim == 1
    matrix = total * (np.diag(fitted.matrix) if diagonal else fitted.matrix)
    plain = fitted.readout.map == "none" and (normalize or total == 1)
    used = np.flatnonzero(weights)
    return ReadoutModules(
        weights=None if len(used) == 1 else weights,
        layer=int(used[-1]),
        matrix=None if plain else matrix,
        bias=None if plain else fitted.bias,
        normalize=normalize,
    )


def sentence_transformer(
    folder: str | Path,
    modules: ReadoutModules,
    *,
    pooling: Pooling = Pooling.MEAN,
    max_length: int | None = None,
) -> Any:
    """Return the SentenceTransformer of a saved model with a readout; save it by `save_pretrained`.

    All tokens of the tokenizer count, also special ones.

    Args:
        folder: of the model and its tokenizer, saved by transformers; or a name on the hub.
        modules: what follows the model.
        pooling: of tokens; not `max`, which is not linear.
        max_length: tokens that a text is cut to; by default what the tokenizer says.

    Raises:
        InputError: sentence-transformers is not installed, the pooling is `max`, or the sizes do not
            fit the model.
    """
    require_extra()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling as StockPooling

    if pooling not in _MODES:
        raise InputError(
            f"{pooling.value} pooling of averaged layers is not the average of pooled layers; use one of "
            f"{', '.join(mode.value for mode in _MODES)}."
        )
    output: Any = "last_hidden_state"
    if modules.weights is None:
        output = ["hidden_states", modules.layer]
    transformer = Transformer(
        str(folder),
        config_kwargs={"output_hidden_states": True},
        modality_config={"text": {"method": "forward", "method_output_name": output}},
        module_output_name="token_embeddings",
        max_seq_length=max_length,
    )
    dim = int(transformer.get_embedding_dimension())
    mode: Any = _MODES[pooling]
    parts: list[Any] = [transformer]
    if modules.weights is not None:
        parts.append(_layer_pooling(modules.weights, dim))
    parts.append(StockPooling(dim, pooling_mode=mode))
    if modules.matrix is not None:
        parts.append(_dense(modules, dim))
    if modules.normalize:
        parts.append(Normalize())
    return SentenceTransformer(modules=parts, device="cpu")


def _layer_pooling(weights: Floats, dim: int) -> Any:
    from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling

    values = torch.from_numpy(weights / weights.sum()).float()
    return WeightedLayerPooling(
        dim,
        num_hidden_layers=len(weights) - 1,
        layer_start=0,
        layer_weights=torch.nn.Parameter(values),
    )


def _dense(modules: ReadoutModules, dim: int) -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense

    matrix, bias = modules.matrix, modules.bias
    if matrix is None or bias is None or matrix.shape[1] != dim:
        found = None if matrix is None else matrix.shape[1]
        raise InputError(
            f"the readout is for vectors of {found} dimensions, the model's have {dim}."
        )
    return Dense(
        in_features=dim,
        out_features=len(matrix),
        activation_function=torch.nn.Identity(),
        init_weight=torch.from_numpy(matrix).float(),
        init_bias=torch.from_numpy(bias).float(),
    )
