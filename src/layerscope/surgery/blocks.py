"""Blocks taken out of a loaded model: for a while, or for good.

Blocks are numbered 1..L: block b makes layer b of layer b - 1. A model without block b runs on as if
it had never been there: the others are renumbered, so that caches and masks follow, and the config
says how many there are and of which kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from layerscope.errors import InputError
from layerscope.models import Backbone, evaluating, modules_kept
from layerscope.surgery.configs import kept_config, refuse_computed, text_config_of

_NUMBERS: Final = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx")
_PROBE_TOKENS: Final = 6


def kept_blocks(backbone: Backbone, removed: Iterable[int]) -> tuple[int, ...]:
    """Return the blocks that stay, counted from 0, when some (numbered from 1) are removed.

    Raises:
        InputError: a number that no block has, or no block would stay.
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
    """Raise an InputError for a model that cannot do without some of its blocks.

    Args:
        backbone: the model.
        kept: the blocks that would stay, counted from 0; None asks about the architecture alone.
    """
    if len(set(map(id, backbone.blocks))) < backbone.depth:
        raise InputError(
            f"{backbone.info.model_class} runs one block at several depths, so that no layer has a "
            "block of its own to cut or drop; lower num_hidden_layers in its config.json instead."
        )
    refuse_computed(text_config_of(backbone.model.config))
    if kept is not None and len(kept) < backbone.depth:
        _refuse_missing(backbone, kept)


def _refuse_missing(backbone: Backbone, kept: Sequence[int]) -> None:
    """Build the smaller model without weights, and see whether ours are all that it needs."""
    fresh = bare(
        type(backbone.model), kept_config(backbone.model.config, kept), backbone.model
    ).state_dict()
    path = block_path(backbone.model, backbone)
    have = renamed(backbone.model.state_dict(), path, kept)
    for name in sorted(fresh.keys() | have.keys()):
        if name not in fresh or name not in have or fresh[name].shape != have[name].shape:
            raise InputError(
                f"{backbone.info.model_class} cannot do without {_numbers(backbone.depth, kept)}: what "
                f"stays would then {'need' if name in fresh else 'have no place for'} {name}, since in "
                "this architecture a block's number decides what is in it; keep that block."
            )


def _numbers(depth: int, kept: Sequence[int]) -> str:
    gone = [str(index + 1) for index in range(depth) if index not in set(kept)]
    return f"block{'s' if len(gone) > 1 else ''} {', '.join(gone)}"


def bare(kind: Any, config: Any, like: nn.Module) -> nn.Module:
    """Build a model without weights (on the meta device), with the parts that another one has.

    BERT's pooler is a part that some of its heads leave out, by no entry of the config.
    """
    with torch.device("meta"):
        model: nn.Module = kind(config)
    for name, part in list(model.named_children()):
        if part is not None and getattr(like, name, part) is None:
            setattr(model, name, None)
    return model.eval()


def block_path(root: nn.Module, backbone: Backbone) -> str:
    """Return the dotted path of the list of blocks below a module that holds it."""
    for path, module in root.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and module[0] is backbone.blocks[0]:
            return str(path)
    raise InputError(
        f"expected {backbone.info.name}'s blocks in one list, found none in {type(root).__name__}."
    )


def renamed(state: dict[str, Any], path: str, kept: Sequence[int]) -> dict[str, Any]:
    """Return a state dict with the kept blocks renumbered and the others left out."""
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


def remove_blocks(backbone: Backbone, removed: Iterable[int]) -> Backbone:
    """Take blocks out of the model itself, for good, and return the backbone that it now is.

    Raises:
        InputError: no such block, none would stay, or the architecture cannot do without it.
    """
    kept = kept_blocks(backbone, removed)
    refuse_surgery(backbone, kept)
    parent, name = _holder(backbone)
    blocks = tuple(backbone.blocks[index] for index in kept)
    for config in configs_of(backbone):
        vars(config).update(vars(kept_config(config, kept)))
    setattr(parent, name, nn.ModuleList(blocks))
    for new, block in enumerate(blocks):
        for module, number in _numbered(block):
            setattr(module, number, new)
    weights = sum(weight.numel() for weight in backbone.model.parameters())
    info = replace(backbone.info, blocks=len(blocks), parameters=weights)
    return replace(backbone, blocks=blocks, info=info)


@contextmanager
def skipping(backbone: Backbone, removed: Iterable[int]) -> Iterator[Backbone]:
    """Run the model without some of its blocks, then give it back exactly as it was.

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
        # transformers hangs its recording hooks on a model once, when hidden states are first asked for;
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
    """Return every config object that speaks of these blocks: modules mostly share one."""
    found: dict[int, Any] = {}
    for module in (backbone.whole, *backbone.model.modules()):
        config = getattr(module, "config", None)
        if config is not None and hasattr(text_config_of(config), "num_hidden_layers"):
            part = text_config_of(config)
            if part.num_hidden_layers == backbone.depth:
                found[id(part)] = part
    return list(found.values())


def _numbered(block: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the modules of a block that know its number, and the name they know it by."""
    return [
        (module, name)
        for module in block.modules()
        for name in _NUMBERS
        if type(getattr(module, name, None)) is int
    ]


def given_by(
    backbone: Backbone, module: nn.Module, inputs: dict[str, Tensor], **options: Any
) -> tuple[Tensor, Any]:
    """Run the model once; return what one of its modules gave, and the model's own output."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple | list) else output)

    handle = module.register_forward_hook(keep)
    try:
        with evaluating(backbone.model):
            output = backbone.model(**inputs, **options)
    finally:
        handle.remove()
    return seen[-1], output


def probe(backbone: Backbone, seed: int = 0) -> dict[str, Tensor]:
    """Return a short input: a few tokens, or for a model of images a small noise."""
    config: Any = backbone.model.config
    if getattr(backbone.model, "main_input_name", "input_ids") == "pixel_values":
        size = config.image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.rand((1, config.num_channels, height, width), generator=generator)
        return {"pixel_values": pixels.to(backbone.device, next(backbone.model.parameters()).dtype)}
    low = min(5, config.vocab_size - _PROBE_TOKENS)
    ids = torch.arange(low, low + _PROBE_TOKENS, device=backbone.device)[None]
    return {"input_ids": ids}
