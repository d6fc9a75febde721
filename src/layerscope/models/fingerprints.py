"""Fingerprints of models, tokenizers and configs: hashes of everything that affects states."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import torch
import xxhash
from torch import Tensor, nn

from layerscope.errors import InputError

OLDER: Final = "made by an older layerscope that could not tell fine-tuned copies apart"


_CHUNK: Final = 1 << 24  # values copied to the CPU at a time


def weights_fingerprint(model: nn.Module) -> str:
    """Return a hash of every weight and persistent buffer: name, shape, dtype and all of its bytes.

    It does not depend on the device or on the order of the weights, which are read one at a time. Weights
    that share memory are read once; the hash is that of separate equal weights.

    Raises:
        InputError: a weight is not in memory.
    """
    total = xxhash.xxh3_128()
    known: dict[tuple[Any, ...], bytes] = {}
    for name, entry in sorted(model.state_dict().items()):
        for tensor in _tensors(entry):
            if tensor.is_meta:
                raise InputError(
                    f"{type(model).__name__} cannot be told apart from other models: its weight {name!r} "
                    "is not in memory but offloaded; load it without a device map, or on a larger device."
                )
            memory = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
            if not tensor.numel() or memory not in known:
                known[memory] = _digest(tensor)
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            total.update(known[memory])
    return f"xxh3-{total.hexdigest()}"


def _tensors(entry: Any) -> Iterator[Tensor]:
    """Yield the plain tensors of a state dict entry; for a quantized tensor, its inner tensors."""
    if isinstance(entry, Tensor) and hasattr(entry, "__tensor_flatten__"):
        inside, _ = entry.__tensor_flatten__()
        for name in inside:
            yield from _tensors(getattr(entry, name))
    elif isinstance(entry, Tensor):
        yield entry
    elif isinstance(entry, list | tuple):
        for each in entry:
            yield from _tensors(each)


def _digest(tensor: Tensor) -> bytes:
    """Return a hash of all bytes of a tensor."""
    digest = xxhash.xxh3_128()
    flat = (tensor.dequantize() if tensor.is_quantized else tensor.detach()).reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        digest.update(flat[start : start + _CHUNK].cpu().view(torch.uint8).numpy().data)
    return digest.digest()


# Case, accents, scripts, numbers, spaces and signs, in which tokenizers with one vocabulary may differ.
_PROBE: Final = "layerscope probes, 1, 2, 3. A b,c  Don't\n\tNAÏVE  x=12345! Ещё 東京 🙂"


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a short hash of the tokenizer's vocabulary, special tokens and its ids of a probe text."""
    probe = tokenizer(_PROBE)["input_ids"]
    facts = [sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, probe]
    return _short_hash(facts)


# Config entries that do not affect hidden states: origin, outputs and heads.
_NO_MATTER: Final = frozenset(
    {
        "_name_or_path", "_commit_hash", "transformers_version", "architectures", "auto_map", "dtype",
        "torch_dtype", "id2label", "label2id", "problem_type", "return_dict", "use_cache",
        "output_hidden_states", "output_attentions", "tie_word_embeddings",
    }
)  # fmt: skip


def config_fingerprint(config: Any) -> str:
    """Return a short hash of a model's config: equal weights with another config give other states."""
    return _short_hash(_deciding(config.to_dict()))


def _deciding(entry: Any) -> Any:
    """Return a config, nested ones included, without the entries that do not affect hidden states."""
    if isinstance(entry, dict):
        return {str(k): _deciding(v) for k, v in entry.items() if k not in _NO_MATTER}
    return [_deciding(each) for each in entry] if isinstance(entry, list | tuple) else entry


def _short_hash(facts: Any) -> str:
    said = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def is_older_fingerprint(fingerprint: object) -> bool:
    """Whether a recorded weights fingerprint is of the older kind, which read few values per weight.

    >>> is_older_fingerprint("28a10a12fe4cceb0"), is_older_fingerprint("xxh3-28a10a12fe4cceb0")
    (True, False)
    """
    return re.fullmatch("[0-9a-f]{16}", str(fingerprint)) is not None
