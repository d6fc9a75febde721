"""Remove blocks from a loaded model, temporarily or permanently.

Blocks are numbered 1..L: block b computes layer b from layer b - 1. A model without block b runs as if
it had never had it: the other blocks are renumbered, so that caches and masks are right, and the config
has their number and kinds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from layerscope.errors import InputError
from layerscope.models.backbone import Backbone
from layerscope.models.configs import kept_config, read_again, refuse_computed, text_config_of
from layerscope.models.modes import modules_kept

# Attributes that hold the number of this block, or of another one.
_NUMBERS: Final = (
    "layer_idx",
    "layer_id",
    "layer_index",
    "layer_number",
    "block_idx",
    "kv_shared_layer_index",
)
# Attributes of blocks that do not affect what a block computes.
_IDLE: Final = {"training", "gradient_checkpointing", "store_full_length_kv"}


def kept_blocks(backbone: Backbone, removed: Iterable[int]) -> tuple[int, ...]:
    """Return the blocks that stay, counted from 0, when others (numbered from 1) are removed.

    Raises:
        InputError: there is no block of that number, or no block would stay.
    """
    gone = set(removed)
    for block in sorted(gone):
        if not 1 <= block <= backbone.depth:
            raise InputError(
                f"expected blocks from 1 to {backbone.depth} (the last of {backbone.info.name}), "
                f"got {block}."
            )
    kept = tuple(index for index in range(backbone.depth) if index + 1 not in gone)
    if not kept:
        raise InputError(f"all {backbone.depth} blocks would be removed; at least one must stay.")
    return kept


def refuse_surgery(backbone: Backbone, kept: Sequence[int] | None = None) -> None:
    """Raise an InputError for a model that does not work without some of its blocks.

    Args:
        backbone: the model.
        kept: the blocks that would stay, counted from 0; None checks the architecture only.
    """
    if len(set(map(id, backbone.blocks))) < backbone.depth:
        raise InputError(
            f"{backbone.info.model_class} runs one block at several depths, so that no layer has a "
            "block of its own to cut or drop; lower num_hidden_layers in its config.json instead."
        )
    if any(hasattr(type(module), "random_masking") for module in backbone.model.modules()):
        raise InputError(
            f"{backbone.info.model_class} drops random patches whenever stock transformers runs it, so "
            "that a smaller one cannot be verified; scan and evaluate read it whole."
        )
    refuse_computed(text_config_of(backbone.model.config))
    if kept is not None and len(kept) < backbone.depth:
        carried_entries(backbone, kept)


def carried_entries(backbone: Backbone, kept: Sequence[int]) -> dict[str, float]:
    """Return the config entries that must change so that the kept blocks compute the same.

    Built without weights from the sliced config, the smaller model must have the weights and the
    constants of the kept blocks. A constant that depends on the number of blocks (MiniCPM3 divides its
    residual branches by a root of it) is restored through a config entry that scales it.

    Raises:
        InputError: a weight or a constant would change, and no entry restores it.
    """
    core: Any = backbone.model
    if len(kept) == backbone.depth:
        return {}
    config = read_again(kept_config(core.config, kept))
    fresh = _built_for(backbone, kept, config)
    _refuse_other_weights(backbone, kept, fresh)
    differing = _other_constants(backbone, kept, fresh)
    if not differing:
        return {}
    ratio = _common_ratio(differing)
    for name, value in _scalable(config) if ratio is not None else ():
        scaled = value * float(ratio or 1)
        if type(value) is int and not math.isclose(scaled, round(scaled), rel_tol=1e-9):
            continue
        entries = {name: round(scaled) if type(value) is int else scaled}
        if not _still_differing(backbone, kept, config, entries):
            return entries
    worst = differing[0]
    raise InputError(
        f"{backbone.info.model_class} cannot do without {_numbers(backbone.depth, kept)}: "
        f"{worst.name} of block {worst.block} is {worst.source!r} and would become {worst.fresh!r}: "
        "this architecture computes it from a block's number or from the number of blocks, and no "
        "entry of its config restores it."
    )


def _built_for(backbone: Backbone, kept: Sequence[int], config: Any) -> nn.Module:
    """Build the smaller model without weights; some architectures refuse to."""
    try:
        return bare(type(backbone.model), config, backbone.model)
    except Exception as error:  # the model's own code may raise anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{backbone.info.model_class} cannot do without {_numbers(backbone.depth, kept)}: what stays "
            f"cannot be built ({first.rstrip('.')})."
        ) from error


@dataclass(frozen=True)
class _Constant:
    """A constant of a kept block that would differ in the smaller model.

    Attributes:
        name: dotted path from the block.
        block: number of the block in the source, from 1.
        source: value in the source.
        fresh: value in the smaller model.
    """

    name: str
    block: int
    source: Any
    fresh: Any


def _refuse_other_weights(backbone: Backbone, kept: Sequence[int], fresh: nn.Module) -> None:
    """Refuse a smaller model that needs other weights than those that stay."""
    path = block_path(backbone.model, backbone)
    needed = fresh.state_dict()
    have = kept_weights(backbone.model.state_dict(), needed, path, kept, backbone.depth)
    for name in sorted(needed.keys() | have.keys()):
        if name in needed and name in have and needed[name].shape == have[name].shape:
            continue
        lacks = f"what stays would then {'need' if name in needed else 'have no place for'} {name}"
        reason = (
            "since in this architecture a block's number decides what is in it; keep that block"
        )
        if name in needed and name in have:
            lacks = f"{name} would then be of shape {tuple(needed[name].shape)}"
            reason = f"and is of shape {tuple(have[name].shape)}; use the whole model"
        raise InputError(
            f"{backbone.info.model_class} cannot do without {_numbers(backbone.depth, kept)}: {lacks}, "
            f"{reason}."
        )


def _other_constants(backbone: Backbone, kept: Sequence[int], fresh: nn.Module) -> list[_Constant]:
    blocks = fresh.get_submodule(block_path(backbone.model, backbone))
    found = []
    for new, old in enumerate(kept):
        before, after = _constants(backbone.blocks[old]), _constants(blocks.get_submodule(str(new)))
        for name in sorted(before.keys() & after.keys()):
            one, other = before[name], after[name]
            expected = one
            if name.rpartition(".")[2] in _NUMBERS and type(one) is int:
                expected = _renumbered(one, old, new, kept)
            if not _alike(expected, other):
                found.append(_Constant(name, old + 1, one, other))
    return found


def _constants(block: nn.Module) -> dict[str, Any]:
    """Return the plain attributes of the modules of a block, and their classes, by dotted name."""
    found: dict[str, Any] = {}
    for path, module in block.named_modules():
        found[f"{path}.class"] = type(module).__name__
        for name, value in vars(module).items():
            plain = type(value) in (bool, int, float, str) or value is None
            if plain and not name.startswith("_") and name not in _IDLE:
                found[f"{path}.{name}".removeprefix(".")] = value
    return found


def _alike(one: Any, other: Any) -> bool:
    if type(one) in (int, float) and type(other) in (int, float):
        return one == other or math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)


def _common_ratio(differing: Sequence[_Constant]) -> float | None:
    """Return the factor by which all constants differ, None if there is no common one."""
    ratios = set()
    for each in differing:
        if type(each.source) not in (int, float) or type(each.fresh) not in (int, float):
            return None
        if not each.fresh or not each.source:
            return None
        ratios.add(each.source / each.fresh)
    first = next(iter(ratios))
    return first if all(math.isclose(first, ratio, rel_tol=1e-9) for ratio in ratios) else None


def _scalable(config: Any) -> list[tuple[str, float]]:
    """Return the numbers of a config, floats first."""
    part = text_config_of(config)
    numbers = [
        (name, value)
        for name, value in vars(part).items()
        if type(value) in (int, float) and value and not name.startswith("_")
    ]
    return sorted(numbers, key=lambda entry: type(entry[1]) is int)


def _still_differing(
    backbone: Backbone, kept: Sequence[int], config: Any, entries: dict[str, float]
) -> bool:
    changed = copy.deepcopy(config)
    try:
        vars(text_config_of(changed)).update(entries)
        fresh = bare(type(backbone.model), changed, backbone.model)
        _refuse_other_weights(backbone, kept, fresh)
    except Exception:  # this entry may not have this value, so it is not the right one
        return True
    return bool(_other_constants(backbone, kept, fresh))


def _renumbered(value: int, old: int, new: int, kept: Sequence[int]) -> int:
    """Return the new value of a block's number attribute: its own number, or that of another block."""
    return list(kept).index(value) if value in kept else value + new - old


def _numbers(depth: int, kept: Sequence[int]) -> str:
    gone = [str(index + 1) for index in range(depth) if index not in set(kept)]
    return f"block{'s' if len(gone) > 1 else ''} {', '.join(gone)}"


def bare(kind: Any, config: Any, like: nn.Module, *, buffers: bool = False) -> nn.Module:
    """Build a model without weights (on the meta device), with the same parts as another one.

    For example, models with some heads have no BERT pooler, which no config entry says.

    Args:
        kind: the class.
        config: of the model.
        like: the model with those parts.
        buffers: whether to compute buffers, so that the model runs once it has weights.
    """
    with _weightless(next(like.parameters()).dtype) if buffers else torch.device("meta"):
        model: nn.Module = kind(config)
    for name, part in list(model.named_children()):
        if part is not None and getattr(like, name, part) is None:
            setattr(model, name, None)
    return model.eval()


@contextmanager
def _weightless(dtype: torch.dtype) -> Iterator[None]:
    """Create modules with weights on the meta device and real buffers, as after loading."""
    from accelerate import init_empty_weights  # type: ignore[import-untyped]

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with init_empty_weights(include_buffers=False):
            yield
    finally:
        torch.set_default_dtype(before)


def block_path(root: nn.Module, backbone: Backbone) -> str:
    """Return the dotted path of the list of blocks in a module that contains it."""
    for path, module in root.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and module[0] is backbone.blocks[0]:
            return str(path)
    raise InputError(
        f"expected {backbone.info.name}'s blocks in one list, found none in {type(root).__name__}."
    )


def renamed(state: dict[str, Any], path: str, kept: Sequence[int]) -> dict[str, Any]:
    """Return a state dict with the kept blocks renumbered and the others removed."""
    places = {str(old): str(new) for new, old in enumerate(kept)}
    found = {}
    for name, weight in state.items():
        if not name.startswith(f"{path}."):
            found[name] = weight
            continue
        number, _, rest = name.removeprefix(f"{path}.").partition(".")
        if number in places:
            found[f"{path}.{places[number]}.{rest}"] = weight
    return found


def kept_weights(
    state: dict[str, Tensor],
    needed: Mapping[str, Tensor],
    path: str,
    kept: Sequence[int],
    depth: int,
) -> dict[str, Tensor]:
    """Return a state dict for the kept blocks.

    Blocks are renumbered. Weights outside of the blocks that have a part for each block (Gemma 3n's
    embeddings for each layer) keep the parts of the kept blocks.

    Args:
        state: state dict of the source.
        needed: state dict of the smaller model; only its names and shapes are used.
        path: of the list of blocks.
        kept: the blocks to keep, counted from 0, in order.
        depth: number of blocks of the source.
    """
    found = renamed(state, path, kept)
    for name, weight in found.items():
        inside = name.startswith(f"{path}.")
        if not inside and name in needed and needed[name].shape != weight.shape:
            found[name] = _parts_for(weight, needed[name].shape, kept, depth)
    return found


def _parts_for(weight: Tensor, shape: Sequence[int], kept: Sequence[int], depth: int) -> Tensor:
    """Return the parts of a weight for the kept blocks, if one axis has a part for each block."""
    axes = [
        axis for axis, size in enumerate(weight.shape) if len(shape) > axis and size != shape[axis]
    ]
    if len(axes) != 1 or weight.ndim != len(shape):
        return weight
    axis = axes[0]
    each, rest = divmod(weight.shape[axis], depth)
    if rest or each * len(kept) != shape[axis]:
        return weight
    places = torch.tensor(list(kept), device=weight.device)
    apart = weight.reshape(*weight.shape[:axis], depth, each, *weight.shape[axis + 1 :])
    return apart.index_select(axis, places).flatten(axis, axis + 1)


def remove_blocks(backbone: Backbone, removed: Iterable[int]) -> Backbone:
    """Remove blocks from the model itself, permanently, and return the new backbone.

    Raises:
        InputError: no such block, no block would stay, or the architecture does not work without it.
    """
    kept = kept_blocks(backbone, removed)
    refuse_surgery(backbone, kept)
    refuse_skipping(backbone, kept)
    parent, name = _holder(backbone)
    blocks = tuple(backbone.blocks[index] for index in kept)
    for config in configs_of(backbone):
        vars(config).update(vars(kept_config(config, kept)))
    setattr(parent, name, nn.ModuleList(blocks))
    for new, (old, block) in enumerate(zip(kept, blocks, strict=True)):
        for module, number in _numbered(block):
            setattr(module, number, _renumbered(getattr(module, number), old, new, kept))
    weights = sum(weight.numel() for weight in backbone.model.parameters())
    info = replace(backbone.info, blocks=len(blocks), parameters=weights)
    return replace(backbone, blocks=blocks, info=info)


def refuse_skipping(backbone: Backbone, kept: Sequence[int]) -> None:
    """Raise an InputError for a model whose blocks cannot be removed in memory, only in a saved copy.

    This concerns models with weights outside of the blocks that have a part for each block.
    """
    core: Any = backbone.model
    if len(kept) == backbone.depth:
        return
    needed = _built_for(backbone, kept, kept_config(core.config, kept)).state_dict()
    path = block_path(core, backbone)
    for name, weight in core.state_dict().items():
        inside = name.startswith(f"{path}.")
        if not inside and name in needed and needed[name].shape != weight.shape:
            raise InputError(
                f"{backbone.info.model_class} holds in {name} a part for each block, so blocks cannot be "
                "dropped from it and tried; cut can end it after a block."
            )


@contextmanager
def skipping(backbone: Backbone, removed: Iterable[int]) -> Iterator[Backbone]:
    """Run the model without some of its blocks, then restore it exactly.

    >>> with skipping(backbone, {3, 4}) as shorter:  # doctest: +SKIP
    ...     shorter.depth
    """
    parent, name = _holder(backbone)
    blocks = getattr(parent, name)
    configs = [(config, dict(vars(config))) for config in configs_of(backbone)]
    numbers = [
        (module, number, getattr(module, number))
        for block in backbone.blocks
        for module, number in _numbered(block)
    ]
    try:
        # transformers puts its recording hooks on a model once, when hidden states are first asked for;
        # blocks that are away at that moment would never report theirs again.
        with modules_kept(backbone.model):
            yield remove_blocks(backbone, removed)
    finally:
        setattr(parent, name, blocks)
        for module, number, value in numbers:
            setattr(module, number, value)
        for config, before in configs:
            vars(config).clear()
            vars(config).update(before)


def _holder(backbone: Backbone) -> tuple[nn.Module, str]:
    parent, _, name = block_path(backbone.model, backbone).rpartition(".")
    return backbone.model.get_submodule(parent), name


def configs_of(backbone: Backbone) -> list[Any]:
    """Return every config object that describes these blocks; most modules share one."""
    found: dict[int, Any] = {}
    for module in (backbone.whole, *backbone.model.modules()):
        config = getattr(module, "config", None)
        if config is not None and hasattr(text_config_of(config), "num_hidden_layers"):
            part = text_config_of(config)
            if part.num_hidden_layers == backbone.depth:
                found[id(part)] = part
    return list(found.values())


def _numbered(block: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the modules of a block that hold its number, and the name of that attribute."""
    return [
        (module, name)
        for module in block.modules()
        for name in _NUMBERS
        if type(getattr(module, name, None)) is int
    ]
