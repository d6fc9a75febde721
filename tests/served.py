"""Tiny sentence-transformers models that pool, prompt and scale in different ways."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from tiny import save_tiny, tiny_model

# kind -> architecture, pooling, whether at unit length, prompts, name of the default one
KINDS: dict[str, tuple[str, str, bool, dict[str, str], str | None]] = {
    "mean": ("bert", "mean", False, {}, None),
    "cls at unit length": ("bert", "cls", True, {}, None),
    "prompted searches": ("bert", "mean", True, {"query": "seven ", "document": "quiet "}, None),
    "a default prompt": ("llama", "lasttoken", False, {"all": "river stone "}, "all"),
    "a prompt of a task": ("llama", "weightedmean", True, {"STS": "ocean ", "query": "old "}, None),
}


def served(kind: str, folder: Path, **pooling: Any) -> Any:
    """Save such a model in a folder, and return it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    architecture, mode, unit, prompts, default = KINDS[kind]
    model = copy.deepcopy(tiny_model(architecture))
    with torch.no_grad():  # a random model's first token hardly depends on the others
        for name, weight in model.named_parameters():
            if "attention" in name and weight.ndim == 2:
                weight.mul_(20)
    inner = save_tiny(model, folder.with_name(f"{folder.name}-inner"))
    modules = [Transformer(str(inner)), Pooling(32, pooling_mode=mode, **pooling)]
    made = SentenceTransformer(
        modules=[*modules, *([Normalize()] if unit else [])],
        prompts=prompts or None,
        default_prompt_name=default,
        device="cpu",
    )
    made.save_pretrained(str(folder))
    return made
