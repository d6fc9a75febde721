"""A fitted readout as stock sentence-transformers modules or in an ONNX file: no code of ours serves it.

Transformer (all hidden states) -> WeightedLayerPooling -> Pooling -> Dense (identity) -> Normalize. The
layers are averaged before pooling, which is the same for poolings that are linear in the token states.
In an ONNX file the map comes before pooling as well, for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerscope.errors import InputError
from layerscope.metrics.readouts import Fitted, Floats


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

    def vector(self, pooled: Tensor) -> Tensor:
        """Return what the modules after pooling make of pooled vectors (..., dim)."""
        vector = pooled
        if self.matrix is not None and self.bias is not None:
            matrix, bias = torch.from_numpy(self.matrix), torch.from_numpy(self.bias)
            vector = (pooled.double() @ matrix.T + bias).to(pooled.dtype)
        return torch.nn.functional.normalize(vector, dim=-1) if self.normalize else vector


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


class TokenReadout(torch.nn.Module):
    """The readout of every token of a model's hidden states; pooled, they give that of the text."""

    def __init__(self, modules: ReadoutModules) -> None:
        super().__init__()
        weights = modules.weights
        self.layers = [modules.layer] if weights is None else np.flatnonzero(weights).tolist()
        self.shares = [1.0] if weights is None else (weights / weights.sum())[self.layers].tolist()
        plain = modules.matrix is None or modules.bias is None
        self.map = torch.nn.Identity() if plain else _dense(modules)

    def forward(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """Return (text, token, dim') of hidden states (text, token, dim) each."""
        total = hidden_states[self.layers[0]] * self.shares[0]
        for layer, share in zip(self.layers[1:], self.shares[1:], strict=True):
            total = total + hidden_states[layer] * share
        found: Tensor = self.map(total)
        return found


def _dense(modules: ReadoutModules) -> torch.nn.Linear:
    matrix, bias = torch.from_numpy(modules.matrix), torch.from_numpy(modules.bias)
    dense = torch.nn.Linear(matrix.shape[1], matrix.shape[0])
    with torch.no_grad():
        dense.weight.copy_(matrix)
        dense.bias.copy_(bias)
    return dense


def layer_pooling(modules: ReadoutModules, dim: int) -> list[Any]:
    """Return the module that averages layers, none where one is read."""
    if modules.weights is None:
        return []
    from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling

    weights = modules.weights
    values = torch.from_numpy(weights / weights.sum()).float()
    return [
        WeightedLayerPooling(
            dim,
            num_hidden_layers=len(weights) - 1,
            layer_start=0,
            layer_weights=torch.nn.Parameter(values),
        )
    ]


def after_pooling(modules: ReadoutModules) -> list[Any]:
    """Return the modules that follow pooling: the map, where there is one, and unit length."""
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    found: list[Any] = []
    if modules.matrix is not None and modules.bias is not None:
        found.append(
            Dense(
                in_features=modules.matrix.shape[1],
                out_features=len(modules.matrix),
                activation_function=torch.nn.Identity(),
                init_weight=torch.from_numpy(modules.matrix).float(),
                init_bias=torch.from_numpy(modules.bias).float(),
            )
        )
    return [*found, Normalize()] if modules.normalize else found
