"""The config of a model that keeps some of its blocks: every per-layer entry is adjusted.

A list of the old length makes transformers refuse the model or, worse, silently compute other numbers; a
count or an index that is not adjusted refers to the wrong block.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Final

from layerscope.errors import InputError

# Lists that are not per layer, but may have length L by chance.
_NOT_PER_LAYER: Final = {"architectures", "stage_names"}
_PATTERNS: Final = {"hybrid_override_pattern"}  # one letter per layer

# Lists of layer numbers, not of one entry per layer.
_INDEXES: Final = (
    "mlp_only_layers",
    "full_attn_idxs",
    "global_attn_layers",
    "hybrid_layer_ids",
    "cross_attention_layers",
    "moe_layers",
    "attn_layer_indices",
)
# Counts of layers from the start, and from the end.
_LEADING: Final = ("first_k_dense_replace", "max_window_layers", "num_dense_layers")
_TRAILING: Final = ("num_kv_shared_layers",)

# Architectures that compute the kind of a block from its number, so that no pattern can be adjusted.
_COMPUTED: Final = {"jamba": "attention, Mamba and expert blocks"}


def text_config_of(config: Any) -> Any:
    """Return the part of a config that describes the blocks (the config itself, unless it is nested)."""
    get = getattr(config, "get_text_config", None)
    # For T5 this would be the decoder's config, so only a nested text config is used.
    inner = get() if get is not None and getattr(config, "text_config", None) is not None else None
    return inner if inner is not None else config


def block_config_of(config: Any, like: Any) -> Any:
    """Return the part of a config that describes the blocks of a module.

    Args:
        config: of a whole model.
        like: the config of the module that holds the blocks; the part is this object, else the first
            part of the same class, else that of `text_config_of`.
    """
    parts = list(_parts_of(config))
    same = [part for part in parts if part is like] or [
        part for part in parts if type(part) is type(like)
    ]
    return same[0] if same else text_config_of(config)


def _parts_of(config: Any) -> Iterator[Any]:
    yield config
    for name in getattr(type(config), "sub_configs", {}):
        part = getattr(config, name, None)
        if hasattr(part, "model_type"):
            yield from _parts_of(part)


def kept_config(config: Any, kept: Sequence[int], like: Any = None) -> Any:
    """Return a copy of a config for a model with some of the blocks.

    Args:
        config: of transformers; not changed.
        kept: the blocks to keep, counted from 0, in order.
        like: the config of the module that holds the blocks, if `config` has several parts.

    Raises:
        InputError: the architecture computes the kind of a block from its number.
    """
    copies: dict[int, Any] = {}
    changed = copy.deepcopy(config, copies)
    if hasattr(changed, "quantization_config"):  # of the GGUF file; the weights are dequantized now
        del changed.quantization_config
    part = text_config_of(config) if like is None else block_config_of(config, like)
    part = copies.get(id(part), changed)
    depth = int(part.num_hidden_layers)
    if list(kept) == list(range(depth)):
        return changed
    refuse_computed(part)
    entries = {
        name: value
        for name, value in vars(part).items()
        if _is_per_layer(name, value) and len(value) == depth
    }
    for name, value in entries.items():
        setattr(part, name, _sliced(value, kept))
    for name in _INDEXES:
        value = getattr(part, name, None)
        if isinstance(value, list | tuple):
            setattr(part, name, [new for new, old in enumerate(kept) if old in value])
    for name, first in _counted(part, depth):
        setattr(part, name, sum(old in first for old in kept))
    try:
        part.num_hidden_layers = len(kept)
    except NotImplementedError as error:  # ProphetNet counts two kinds of blocks
        raise InputError(
            f"the config of {part.model_type} has no one number of blocks that could be lowered, so "
            "blocks cannot be taken out of it; use the whole model."
        ) from error
    _renumber_overrides(part, kept)
    _rename_stages(part, len(kept))
    _restate_patterns(part)
    return changed


def read_again(config: Any) -> Any:
    """Return a config as it is after writing it to a file and reading it.

    Raises:
        InputError: transformers cannot read what it writes.
    """
    try:
        found = type(config).from_dict(config.to_dict())
    except Exception as error:  # a config class may raise anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the config of a smaller {config.model_type} cannot be read again ({first.rstrip('.')}), so "
            "it cannot be saved; use the whole model."
        ) from error
    found._attn_implementation = config._attn_implementation
    return found


def refuse_computed(config: Any) -> None:
    """Raise an InputError if the architecture computes the kind of a block from its number."""
    kind = str(getattr(config, "model_type", ""))
    if kind in _COMPUTED:
        raise InputError(
            f"{kind} computes from a block's number where its {_COMPUTED[kind]} stand, so blocks cannot "
            "be taken out of it; use the whole model and read the layer by its hidden state."
        )


def _is_per_layer(name: str, value: Any) -> bool:
    if isinstance(value, str):
        return name in _PATTERNS
    if name in _NOT_PER_LAYER | set(_INDEXES) or name.endswith("_token_id"):
        return False
    return isinstance(value, list | tuple) and not name.startswith("_")


def _sliced(value: Any, kept: Sequence[int]) -> Any:
    picked = [value[index] for index in kept]
    return "".join(picked) if isinstance(value, str) else type(value)(picked)


def _counted(config: Any, depth: int) -> list[tuple[str, range]]:
    """Return the names of counts, each with the blocks that it counts."""
    found = []
    for name in (*_LEADING, *_TRAILING):
        count = getattr(config, name, None)
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            count = min(count, depth)
            at = range(count) if name in _LEADING else range(depth - count, depth)
            found.append((name, at))
    return found


def _renumber_overrides(config: Any, kept: Sequence[int]) -> None:
    """Renumber the entries that differ for some blocks (Gemma 4)."""
    spec = vars(config).get("_heterogeneity_spec")
    if spec is not None:
        of = spec.per_layer_overrides
        config.per_layer_config = {
            new: dict(of[old]) for new, old in enumerate(kept) if old in of
        } or None


def _rename_stages(config: Any, blocks: int) -> None:
    """Vision backbones name a stage for each block, and list which of them they return."""
    if not hasattr(config, "stage_names"):
        return
    config.stage_names = ["stem", *(f"stage{number}" for number in range(1, blocks + 1))]
    for name, last in (("_out_features", config.stage_names[-1]), ("_out_indices", blocks)):
        if hasattr(config, name):
            setattr(config, name, [last])


def _restate_patterns(config: Any) -> None:
    """Update GPT-Neo's second form of its list of block kinds, (kinds, times), which it reads."""
    if getattr(config, "attention_layers", None) and hasattr(config, "attention_types"):
        config.attention_types = [[list(config.attention_layers), 1]]
