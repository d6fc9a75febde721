"""What a block writes to the residual stream, read in a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from layerscope.errors import RunError
from layerscope.models.residual import Writer
from layerscope.states.extract import TokenStates

Form = Literal["full", "diagonal"]


@dataclass(frozen=True)
class Written:
    """What a block wrote for some tokens.

    Attributes:
        left: (token, dim) its output.
        linear: (token, dim) the output of its last linear map; None if that is not seen through the norm.
        normed: (token, dim) the output of the norm after that; None if there is no norm.
        sizes: (token,) by what that norm divides.
    """

    left: Tensor
    linear: Tensor | None
    normed: Tensor | None
    sizes: Tensor | None

    def regression(
        self, writer: Writer, form: Form, wanted: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the states that a map acts on, the changes wanted of them, and the tokens' weights.

        A full map before a norm acts on the linear map's output, whose change the norm divides: so what
        is wanted after the norm is multiplied by its divisor, and the weights are divided by its square.

        Args:
            writer: of the block.
            form: of the map.
            wanted: (token, ...) changes of the block's output.
            weights: (token,) of the squared errors of those.
        """
        inside = writer.kind == "plain" or form == "full"
        states = self.linear if inside else self.normed
        if states is None:
            raise RunError(
                f"the pass never computed {writer.module}, which was found in the block."
            )
        sizes = self.sizes if inside and self.sizes is not None else torch.ones_like(weights)
        return states, wanted * sizes[:, None] / writer.scale, weights * (writer.scale / sizes) ** 2


class Tap:
    """Keeps what the modules of a writer give, while it is entered."""

    def __init__(self, block: Any, writer: Writer) -> None:
        self.block, self.writer = block, writer
        self.seen: dict[str, Tensor] = {}
        self.handles: list[Any] = []

    def __enter__(self) -> Self:
        for name, path in (("linear", self.writer.linear), ("norm", self.writer.norm)):
            if path:
                module = self.block.get_submodule(path)
                self.handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        def keep(_module: Any, args: Any, output: Tensor) -> None:
            self.seen[name] = output.clone()  # some blocks add to it in place
            if name == "norm":
                self.seen["entered"] = args[0].clone()

        return keep

    def read(self, tokens: TokenStates) -> Written:
        """Return what the block wrote for the real tokens of the batch that just went through it."""
        real = tokens.real

        def rows(name: str) -> Tensor | None:
            states = self.seen.get(name)
            if states is None:
                return None
            wide = states.reshape(real.shape[0], -1, states.shape[-1])[:, : real.shape[1]]
            return wide[real] if wide.dtype == torch.float64 else wide[real].float()

        normed, entered = rows("norm"), rows("entered")
        sizes = None
        if normed is not None and entered is not None:
            sizes = self._divisor(normed, entered)
        return Written(tokens.states[real].clone(), rows("linear"), normed, sizes)

    def _divisor(self, normed: Tensor, entered: Tensor) -> Tensor:
        """Return by what a norm divided each token: its input over its output without weights."""
        module: Any = self.block.get_submodule(self.writer.norm)
        gain = (module.weight.detach() + self.writer.shift).to(normed)
        bias = getattr(module, "bias", None)
        plain = (normed if bias is None else normed - bias.detach().to(normed)) / gain
        sure = gain.abs() > 1e-6 * gain.abs().max()
        plain, entered = plain[:, sure], entered[:, sure]
        found: Tensor = (plain * entered).sum(dim=1) / plain.square().sum(dim=1)
        return found
