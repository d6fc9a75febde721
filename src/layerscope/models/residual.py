"""Where a block writes to the residual stream, and how a map is folded into the weights there.

Found by the order in which the modules of a block run, and proven on a copy of the block in float32:
with a random map folded in, the block must give what the map says. So no table of architectures is
needed, and what is not exact is refused.

    plain   h = y + r m          a map of m goes into the linear map that gives m, and into its bias
    branch  h = y + r norm(m)    Gemma 2 and 3, OLMo 2: a diagonal map goes into the norm's own weights
    outer   h = norm(y + m)      BERT and other post-norm encoders: likewise
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from layerscope.errors import InputError
from layerscope.models.backbone import Backbone, non_finite_states, probe
from layerscope.models.modes import evaluating

Kind = Literal["plain", "branch", "outer"]
# What may be off by rounding, as a share of a state's change, and of the state itself. Float32, because
# kernels of experts take nothing wider.
_LIMIT: Final = 1e-3
_ROUNDING: Final = 1e-5


@dataclass(frozen=True)
class Writer:
    """The last map of a block that writes to the residual stream.

    Attributes:
        kind: what follows it.
        linear: path in the block of the linear map that gives m; "" if a fold there is not seen
            through the norm.
        norm: path of the norm after it, "" for a plain one.
        scale: r.
        shift: what the norm adds to its weights before it multiplies by them: 1 in Gemma's.
        offset: whether a map folded in may have an offset: where there is a bias.
    """

    kind: Kind
    linear: str
    norm: str
    scale: float
    shift: float
    offset: bool

    @property
    def module(self) -> str:
        """The path of what an exact map is folded into."""
        return self.linear if self.kind == "plain" else self.norm


Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class _Call:
    """A call of a module: its path, input and output."""

    path: str
    entered: Tensor
    left: Tensor


def writer_of(backbone: Backbone, number: int) -> Writer:
    """Return where block `number`, from 1, writes to the residual stream.

    Raises:
        InputError: nothing in it writes there in a way that a map could be folded into.
        NonFiniteError: its states are NaN or infinite.
    """
    block = backbone.blocks[number - 1]
    inputs = _inputs_of(backbone, block)
    wide = copy.deepcopy(block).to("cpu", torch.float32).eval()
    try:
        with evaluating(wide):
            calls, left = _traced(wide, inputs)
            finite = bool(left.isfinite().all())
            found = _found(wide, inputs, calls, left) if finite else None
    except Exception:  # a block alone, on the CPU and in float32, may raise anything
        found, finite = None, True
    if not finite:
        raise non_finite_states(backbone, f" in block {number}")
    if found is not None:
        _refuse_shared(backbone, number, found)
        return found
    raise InputError(
        f"block {number} of {backbone.info.name}, a {type(block).__name__}, has no one linear map that "
        "writes to the residual stream last (experts share that), so no map can be folded into it; pass "
        "--heal off, or choose other blocks."
    )


def _refuse_shared(backbone: Backbone, number: int, writer: Writer) -> None:
    """Raise an InputError if a map folded into a block would change others too."""
    block = backbone.blocks[number - 1]
    paths = [path for path in (writer.linear, writer.norm) if path]
    own = {id(weight) for path in paths for weight in block.get_submodule(path).parameters()}
    inside = {id(module) for module in block.modules()}
    for other in backbone.whole.modules():
        if id(other) not in inside and own & {id(w) for w in other.parameters(recurse=False)}:
            raise InputError(
                f"block {number} of {backbone.info.name} shares the weights that a map would be folded "
                "into with other blocks; pass --heal off, or choose other blocks."
            )


def _found(block: nn.Module, inputs: Inputs, calls: Sequence[_Call], left: Tensor) -> Writer | None:
    for place in reversed(range(len(calls))):
        call = calls[place]
        if not _is_linear(block, call, left):
            continue
        found = _plain(block, call, inputs, left) or _normed(
            block, call, calls[place + 1 :], inputs, left
        )
        if found is not None:
            return found
    return None


def _inputs_of(backbone: Backbone, block: nn.Module) -> Inputs:
    """Return the arguments of a block for a short input, in float32 on the CPU."""
    seen: list[Inputs] = []

    def keep(_module: nn.Module, args: Any, named: dict[str, Any]) -> None:
        seen.append((_wide(args), _wide(named)))

    handle = block.register_forward_pre_hook(keep, with_kwargs=True)
    options = {"use_cache": False} if hasattr(backbone.model.config, "use_cache") else {}
    try:
        with evaluating(backbone.model):
            backbone.model(**probe(backbone), **options)
    finally:
        handle.remove()
    return seen[0]


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        copied = value.detach().to("cpu", copy=True)
        return copied.float() if copied.is_floating_point() else copied
    if isinstance(value, tuple | list):
        return type(value)(_wide(each) for each in value)
    return {name: _wide(each) for name, each in value.items()} if isinstance(value, dict) else value


def _run(block: nn.Module, inputs: Inputs) -> Tensor:
    args, named = _wide(inputs[0]), _wide(inputs[1])  # copies: some blocks change theirs
    output = block(*args, **named)
    state: Tensor = output[0] if isinstance(output, tuple | list) else output
    return state


def _traced(block: nn.Module, inputs: Inputs) -> tuple[list[_Call], Tensor]:
    """Return the calls of modules with weights of their own, in order, and what the block gives."""
    calls: list[_Call] = []

    def hook(path: str) -> Callable[..., None]:
        def keep(_module: nn.Module, args: Any, output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                calls.append(_Call(path, args[0].clone(), output.clone()))

        return keep

    handles = [
        module.register_forward_hook(hook(path))
        for path, module in block.named_modules()
        if path and isinstance(getattr(module, "weight", None), Tensor)
    ]
    try:
        left = _run(block, inputs)
    finally:
        for handle in handles:
            handle.remove()
    once = [path for path in {call.path for call in calls}
            if sum(call.path == path for call in calls) == 1]  # fmt: skip
    return [call for call in calls if call.path in once], left.clone()


def _is_linear(block: nn.Module, call: _Call, left: Tensor) -> bool:
    weight: Any = block.get_submodule(call.path).weight
    return weight.ndim == 2 and call.left.numel() == left.numel()


def _plain(block: nn.Module, call: _Call, inputs: Inputs, left: Tensor) -> Writer | None:
    offset = getattr(block.get_submodule(call.path), "bias", None) is not None
    writer = Writer("plain", call.path, "", 1.0, 0.0, offset)
    scale = _proven(block, writer, call.left, inputs, left)
    return None if scale is None else replace(writer, scale=scale)


def _normed(
    block: nn.Module, call: _Call, after: Sequence[_Call], inputs: Inputs, left: Tensor
) -> Writer | None:
    """Return the writer whose output a norm changes, with what is proven of that norm."""
    for norm in reversed(after):
        module: Any = block.get_submodule(norm.path)
        if module.weight.ndim != 1 or norm.left.numel() != left.numel():
            continue
        offset = getattr(module, "bias", None) is not None
        for shift in (0.0, 1.0):
            writer = Writer("branch", "", norm.path, 1.0, shift, offset)
            scale = _proven(block, writer, norm.left, inputs, left)
            if scale is None:
                continue
            outer = torch.allclose(norm.left.reshape(left.shape), left, rtol=1e-5, atol=1e-6)
            linear = call.path if _enters(block, call, norm, inputs) else ""
            return replace(writer, kind="outer" if outer else "branch", scale=scale, linear=linear)
    return None


def _enters(block: nn.Module, call: _Call, norm: _Call, inputs: Inputs) -> bool:
    """Whether a linear map's output is added, as it is, to what enters a norm."""
    with _doubled(block.get_submodule(call.path)):
        again, _ = _traced(block, inputs)
    after = next(each.entered for each in again if each.path == norm.path)
    change = (after - norm.entered).reshape(call.left.shape)
    return _apart(change, call.left, call.left) is None


@contextmanager
def _doubled(module: Any) -> Iterator[None]:
    weights = [module.weight, *([module.bias] if getattr(module, "bias", None) is not None else [])]
    for weight in weights:
        weight.data.mul_(2)
    try:
        yield
    finally:
        for weight in weights:
            weight.data.div_(2)


def _proven(
    block: nn.Module, writer: Writer, written: Tensor, inputs: Inputs, left: Tensor
) -> float | None:
    """Return the scale r if a random map, folded in, does what it should; else None."""
    dim = written.shape[-1]
    generator = torch.Generator().manual_seed(0)
    shape = (dim, dim) if writer.kind == "plain" else (dim,)
    drawn = torch.randn(shape, generator=generator) / dim ** (len(shape) - 1) ** 0.5
    offset = torch.randn(dim, generator=generator) if writer.offset else None
    wanted = written @ drawn if writer.kind == "plain" else written * drawn
    change = (wanted + (0 if offset is None else offset) - written).reshape(left.shape)
    with folded(block, fold_weights(block, writer, drawn, offset)):
        found = _run(block, inputs) - left
    scale = float((found * change).sum() / change.square().sum())
    if not scale or _apart(found, scale * change, left) is not None:
        return None
    return 1.0 if abs(scale - 1) < _LIMIT else scale


def _apart(found: Tensor, wanted: Tensor, state: Tensor) -> float | None:
    """Return by how much a change is off at the worst token, None if that is rounding."""
    off = (found - wanted).norm(dim=-1)
    allowed = _LIMIT * wanted.norm(dim=-1) + _ROUNDING * state.norm(dim=-1)
    worst = float((off / allowed.clamp(min=torch.finfo(torch.float32).tiny)).max())
    return worst if not worst <= 1 else None


# --- folding ---------------------------------------------------------------------------------------


def fold_weights(
    block: nn.Module,
    writer: Writer,
    matrix: Tensor,
    offset: Tensor | None = None,
    *,
    linear: bool | None = None,
) -> dict[str, Tensor]:
    """Return the new weights of a block with a map folded in, by their names in it.

    Args:
        block: the block.
        writer: where it writes.
        matrix: T, (dim, dim), or its diagonal (dim,).
        offset: c, (dim,), where there is a bias to take it.
        linear: whether the map goes into the linear map, even where a norm follows it; by default
            where it is exact.
    """
    into_linear = writer.kind == "plain" if linear is None else linear
    path = writer.linear if into_linear else writer.norm
    module: Any = block.get_submodule(path)
    weight, bias = module.weight.detach().double(), getattr(module, "bias", None)
    full, shift = matrix.to(weight), None if offset is None else offset.to(weight)
    after = None if bias is None else bias.detach().double()
    if not into_linear:
        weight = full * (weight + writer.shift) - writer.shift
        after = None if after is None else full * after
    elif isinstance(module, nn.Linear):
        weight = full[:, None] * weight if full.ndim == 1 else full.T @ weight
        after = None if after is None else _mapped(after, full)
    else:  # GPT-2's Conv1D holds (input, output)
        weight = _mapped(weight, full)
        after = None if after is None else _mapped(after, full)
    found = {f"{path}.weight": weight.to(module.weight.dtype)}
    if after is not None and bias is not None:
        found[f"{path}.bias"] = (after if shift is None else after + shift).to(bias.dtype)
    return found


def _mapped(states: Tensor, full: Tensor) -> Tensor:
    return states * full if full.ndim == 1 else states @ full


@contextmanager
def folded(block: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Run a block with other weights, then restore its own."""
    before = {}
    try:
        for name, weight in weights.items():
            own = block.get_parameter(name)
            before[name], own.data = own.data, weight.to(own.device)
        yield
    finally:
        for name, weight in before.items():
            block.get_parameter(name).data = weight
