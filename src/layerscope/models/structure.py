"""Find the blocks of an architecture without a row in the table, and how to call it, by measurement."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from layerscope.errors import InputError
from layerscope.models.architectures import (
    Architecture,
    Padding,
    Positions,
    longest_block_list,
)
from layerscope.models.inputs import inputs_of, noise_pixels, reads_images
from layerscope.models.modes import evaluating, random_states_kept


def infer_architecture(core: nn.Module) -> Architecture:
    """Find the blocks and the final norm of a model by its structure and verify them on its states.

    The candidate is the longest list of blocks of one class. On a short input, its outputs must be the
    hidden states that the model reports (the last entry may be normed, by the final norm). It is then
    measured how to call the model so that a text has the same states in every batch.

    Raises:
        InputError: no such list, the model's hidden states differ, or the states of a text always depend
            on its batch.
    """
    path = longest_block_list(core)
    blocks = tuple(core.get_submodule(path).children())
    trial = _trial_of(core, blocks)
    reported, last, seen = _states_both_ways(trial)
    hooked = [seen[id(block)][1] for block in blocks if id(block) in seen]
    refusal = InputError(
        f"{type(core).__name__} is not in layerscope's table of architectures, and the outputs of its "
        f"longest list of like blocks ({path!r}) are not its hidden states; add it to the table."
    )
    if len(hooked) != len(blocks) or len(reported) < len(blocks):
        raise refusal
    inner = zip(reported[-len(blocks) : -1], hooked[:-1], strict=True)
    shifted = zip(reported[: len(blocks) - 1], hooked[:-1], strict=True)
    if not (_all_equal(inner) or _all_equal(shifted)):
        raise refusal
    if last.shape[-1] != hooked[-1].shape[-1]:  # Reformer has two streams
        raise InputError(
            f"{trial.name} returns states of {last.shape[-1]} dimensions where its blocks pass on "
            f"{hooked[-1].shape[-1]}, so that its output is no layer's state; its layers cannot be read."
        )
    raw = _equal(reported[-1], hooked[-1])
    given = last if raw else reported[-1]  # CLIP's list ends before the norm
    norm = None
    if not _equal(given, hooked[-1]):
        norm = _module_between(core, hooked[-1], given, seen)
        if norm is None and not raw:
            raise refusal
    return measured_calls(core, blocks, Architecture(path, norm))


def _states_both_ways(
    trial: _Trial,
) -> tuple[list[Tensor], Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """Return for a short input the reported states, the output, and each module's input and output."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        state = output[0] if isinstance(output, tuple | list) else output
        entered = inputs[0] if inputs and isinstance(inputs[0], Tensor) else torch.empty(0)
        # Llama 4's rotations are complex
        if isinstance(state, Tensor) and state.is_floating_point():
            seen[id(module)] = trial.cropped(entered.float()), trial.cropped(state.float())

    core, blocks = trial.core, trial.blocks
    inside = {id(module) for block in blocks for module in block.modules()}
    watched = [m for m in core.modules() if id(m) not in inside and m is not core] + list(blocks)
    handles = [module.register_forward_hook(keep) for module in watched]
    try:
        named = (
            {"return_dict": True} if trial.takes("return_dict") else {}
        )  # DPR's is a tuple by default
        output = trial.run(trial.inputs([trial.texts[0]]), output_hidden_states=True, **named)
    finally:
        for handle in handles:
            handle.remove()
    reported = getattr(output, "hidden_states", None) or ()
    return (
        [state.float() for state in reported if isinstance(state, Tensor)],
        output[0].float(),
        seen,
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def _all_equal(pairs: Any) -> bool:
    return all(_equal(one, other) for one, other in pairs)


def _module_between(
    core: nn.Module, before: Tensor, after: Tensor, seen: dict[int, tuple[Tensor, Tensor]]
) -> str | None:
    """Return the path of the first module outside the blocks that maps one state to the other."""
    for path, module in core.named_modules():
        entered, left = seen.get(id(module), (before, before))
        if _equal(entered, before) and _equal(left, after):
            return str(path)
    return None


# How far two computations of a state may differ by rounding alone, as a share of the state's norm. Wrong
# masks, norms and orders differ by a tenth and more; rounding in 30 blocks in bfloat16 differs by a
# twentieth at the worst token. Other dtypes use float32's value: in float64 too, transformers computes
# norms and rotary angles in float32.
TOLERANCES: Final[Mapping[str, float]] = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


# The limit if only the ids in the padding differ. Shapes are equal, so most models give equal bits. If
# rounding exceeds the limit (experts, by the number of their tokens), only texts of one length share a
# batch, which is slower but not wrong.
_UNTOUCHED: Final = 1e-3


_SHORT, _LONG = 5, 40  # tokens of the trial texts


def measured_calls(
    core: nn.Module, blocks: tuple[nn.Module, ...], architecture: Architecture
) -> Architecture:
    """Return the layout with the `positions`, `padding` and `mask` that a model needs, by trial.

    A short and a long text run together, padded on either side, and each alone: the states must be the
    same. They must also stay the same with other ids in the padding, which detects leaks that are
    smaller than the rounding of half precision.

    Raises:
        InputError: the states depend on the random state, or on another text of the same length.
    """
    trial = _trial_of(core, blocks)
    trial.refuse_restless()
    found: list[Architecture] = []
    positions: tuple[Positions, ...] = ("given", "own") if trial.takes("position_ids") else ("own",)
    for each in positions:
        called = replace(architecture, positions=each, mask=trial.takes("attention_mask"))
        if trial.keeps(called, [1]):
            found.append(replace(called, padding=trial.padding(called)))
        if found and found[-1].padding == "both":
            break
    if not found:
        raise InputError(
            f"{trial.name} gives {trial.one} other states when its attention mask is given, all of "
            "it ones; its states cannot be read for certain."
        )
    best = max(found, key=lambda each: ("none", "right", "both").index(each.padding))
    if not trial.keeps(best, [1, 2]):
        raise InputError(
            f"{trial.name} gives {trial.one} other states when another {trial.noun} of the same "
            "length is in its batch; its states cannot be read for certain."
        )
    return best


class _Trial:
    """A model and trial texts of ordinary tokens: a short one and two longer ones.

    Attributes:
        texts: their token ids.
        fillers: two alternative ids for the padding.
    """

    noun, one = "text", "a text"

    def __init__(self, core: nn.Module, blocks: tuple[nn.Module, ...]) -> None:
        self.core, self.blocks, self.name = core, blocks, type(core).__name__
        self.device = next(core.parameters()).device
        dtype = str(next(core.parameters()).dtype).removeprefix("torch.")
        self.tolerance = TOLERANCES.get(dtype, TOLERANCES["float32"])
        self.alone: dict[int, list[Tensor]] = {}
        self.choose_texts()

    def choose_texts(self) -> None:
        """Choose ordinary tokens that the model knows."""
        config: Any = self.core.config
        special = [
            value for name, value in config.to_dict().items() if name.endswith(("_id", "_index"))
        ]
        size = int(getattr(config, "vocab_size", 0) or 1000)
        ordinary = [token for token in range(size - 1, -1, -1) if token not in special][:64] or [0]
        room = int(getattr(config, "max_position_embeddings", 0) or 0) - 4
        longer = min(_LONG, room) if room > _SHORT else _LONG
        count = iter(range(_SHORT + 2 * longer))
        self.texts = [
            [ordinary[next(count) % len(ordinary)] for _ in range(length)]
            for length in (_SHORT, longer, longer)
        ]
        named = getattr(config, "pad_token_id", None)
        self.fillers = (named if isinstance(named, int) and named >= 0 else 0, ordinary[0])

    def takes(self, argument: str) -> bool:
        """Whether the model's `forward` names an argument."""
        return argument in inspect.signature(self.core.forward).parameters

    def inputs(self, texts: list[list[int]]) -> dict[str, Any]:
        """Return the inputs for texts of one length, as in a model's own documentation."""
        return inputs_of(self.core, torch.tensor(texts, device=self.device))

    def extent(self, inputs: dict[str, Any]) -> tuple[int, int]:
        """Return how many texts there are, and the tokens that each has at least."""
        rows, tokens = inputs["input_ids"].shape
        return int(rows), int(tokens)

    def run(self, inputs: dict[str, Any], **options: Any) -> Any:
        """Call the model and return its output.

        Raises:
            InputError: the model does not run on these inputs.
        """
        try:
            with evaluating(self.core):
                return self.core(**inputs, **options)
        except Exception as error:  # a model may raise anything for inputs that it does not support
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{self.name} is not in layerscope's table of architectures and does not run on a short "
                f"{self.noun} input, so its layers cannot be told apart: {first.rstrip('.')}."
            ) from error

    def cropped(self, state: Tensor, tokens: int = _SHORT) -> Tensor:
        """Return states without the tokens that the model itself added after the text."""
        return state[:, :tokens] if state.ndim == 3 and state.shape[1] > tokens else state

    def states(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Return the input of block 1, the output of each block and of the model, (text, token, dim).

        Raises:
            InputError: a state has another shape.
        """
        seen: list[Any] = []

        def enter(_module: nn.Module, args: Any, named: dict[str, Any]) -> None:
            seen.append(args[0] if args else named.get("hidden_states"))

        def leave(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.append(output[0] if isinstance(output, tuple | list) else output)

        handles = [self.blocks[0].register_forward_pre_hook(enter, with_kwargs=True)]
        handles += [block.register_forward_hook(leave) for block in dict.fromkeys(self.blocks)]
        try:
            seen.append(self.run(inputs)[0])
        finally:
            for handle in handles:
                handle.remove()
        rows, tokens = self.extent(inputs)
        for state in seen:
            shape = tuple(state.shape) if isinstance(state, Tensor) else ()
            if len(shape) != 3 or shape[0] != rows or shape[1] < tokens:
                raise InputError(
                    f"{self.name} hands its blocks {shape or type(state).__name__} for {rows} "
                    f"{self.noun}s of {tokens} tokens, not a state for each token; its layers cannot be "
                    "read."
                )
        return [self.cropped(state.float(), tokens) for state in seen]

    def own(self, text: int) -> list[Tensor]:
        """Return the states of one text alone, called as in the model's own documentation."""
        if text not in self.alone:
            self.alone[text] = [
                state[0].cpu() for state in self.states(self.inputs([self.texts[text]]))
            ]
        return self.alone[text]

    def together(
        self, called: Architecture, texts: list[int], side: str = "right", filler: int = 0
    ) -> list[list[Tensor]]:
        """Return the states of each text from one batch of some texts."""
        lengths = [len(self.texts[text]) for text in texts]
        width = max(lengths)
        ids = torch.full((len(texts), width), self.fillers[filler])
        real, places = torch.zeros(ids.shape, dtype=torch.bool), torch.zeros_like(ids)
        for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            place = slice(0, length) if side == "right" else slice(width - length, width)
            ids[row, place], real[row, place] = torch.tensor(self.texts[text]), True
            places[row, place] = torch.arange(length)
        found = self.states(
            inputs_of(
                self.core,
                ids.to(self.device),
                real.to(self.device) if called.mask else None,
                places.to(self.device) if called.positions == "given" else None,
            )
        )
        return [[state[row].cpu()[real[row]] for state in found] for row in range(len(texts))]

    def keeps(self, called: Architecture, texts: list[int], side: str = "right") -> bool:
        """Whether each text has the same states in one batch of these texts as alone."""
        try:
            found = self.together(called, texts, side)
            others = self.together(called, texts, side, 1) if side == "right" else found
        except InputError:
            return False
        alone = [self.own(text) for text in texts]
        return all(map(self.same, found, alone)) and all(
            self.same(*pair, min(_UNTOUCHED, self.tolerance / 10))
            for pair in zip(found, others, strict=True)
        )

    def padding(self, called: Architecture) -> Padding:
        """Return the sides on which padding changes nothing."""
        # BigBird's attention is sparse from some hundred tokens on, padding included, which no short
        # text can show.
        if getattr(self.core, "attention_type", "") == "block_sparse":
            return "none"
        if not self.keeps(called, [0, 1]):
            return "none"
        return "both" if self.keeps(called, [0, 1], side="left") else "right"

    def same(
        self, found: list[Tensor], expected: list[Tensor], tolerance: float | None = None
    ) -> bool:
        """Whether states are equal up to a tolerance, by default that of rounding."""
        allowed = self.tolerance if tolerance is None else tolerance
        return all(
            one.shape == other.shape and _apart(one, other) <= allowed
            for one, other in zip(found, expected, strict=True)
        )

    def refuse_restless(self) -> None:
        """Raise an InputError if the states depend on random numbers."""
        found = []
        for seed in range(2):
            with random_states_kept():
                torch.manual_seed(seed)
                np.random.seed(seed)
                random.seed(seed)
                found.append(self.states(self.inputs([self.texts[1]])))
        if not self.same(found[0], found[1]):
            raise InputError(
                f"{self.name} draws random numbers when it runs, so that {self.one} has other states "
                "each time; its layers cannot be read."
            )


class _ImageTrial(_Trial):
    """A model that reads images, with three of noise for the trial texts; they need no padding."""

    noun, one = "image", "an image"

    def choose_texts(self) -> None:
        """Make the images, from the numbers that name them."""
        self.texts = [[0], [1], [2]]

    def inputs(self, texts: list[list[int]]) -> dict[str, Any]:
        """Return the pixels of some images."""
        found = [noise_pixels(self.core, seed) for text in texts for seed in text]
        return {"pixel_values": torch.cat(found)}

    def extent(self, inputs: dict[str, Any]) -> tuple[int, int]:
        """Return how many images there are; each has at least one token."""
        return len(inputs["pixel_values"]), 1

    def cropped(self, state: Tensor, _tokens: int = 0) -> Tensor:
        """Return states as they are: class and register tokens stand before the patches."""
        return state

    def states(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Return the states as of a text.

        Raises:
            InputError: they have not the same tokens at every layer.
        """
        found = super().states(inputs)
        if len({state.shape for state in found[:-1]}) > 1:
            raise InputError(
                f"{self.name} hands on fewer and wider tokens from block to block, as a pyramid does, so "
                "that its layers cannot be compared."
            )
        return found

    def together(
        self, _called: Architecture, texts: list[int], _side: str = "", _filler: int = 0
    ) -> list[list[Tensor]]:
        """Return the states of each image from one batch of some images."""
        found = self.states(self.inputs([self.texts[text] for text in texts]))
        return [[state[row].cpu() for state in found] for row in range(len(texts))]


def _trial_of(core: nn.Module, blocks: tuple[nn.Module, ...]) -> _Trial:
    return (_ImageTrial if reads_images(core) else _Trial)(core, blocks)


def _apart(found: Tensor, expected: Tensor) -> float:
    """Return the difference of two states (..., token, dim) at the worst token, as a share of its norm.

    The median norm replaces the token's norm if it is larger. Infinite if a value is not finite.
    """
    sizes = expected.norm(dim=-1)
    scale = sizes.clamp(min=max(float(sizes.median()), torch.finfo(sizes.dtype).tiny))
    gap = float(((found - expected).norm(dim=-1) / scale).max())
    return gap if math.isfinite(gap) else math.inf
