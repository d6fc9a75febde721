"""Does sentence-transformers itself give the vectors that our last layer and pooling give?"""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, Final

import torch
from torch import Tensor

from layerscope.doctor.passes import distance
from layerscope.doctor.records import Finding, judged, skipped
from layerscope.doctor.subject import TOKENS, Subject
from layerscope.extraction import batches, extract, sites_of
from layerscope.models import sentence_transformers_source
from layerscope.pooling import pool
from layerscope.settings import Pooling
from layerscope.states import TokenStates
from layerscope.tokenization import length_limit, tokenize

_WORDS: Final = 24  # of each text
_BUDGET: Final = 4096
_POOLINGS: Final = {
    "mean": Pooling.MEAN,
    "cls": Pooling.FIRST,
    "lasttoken": Pooling.LAST,
    "max": Pooling.MAX,
    "weightedmean": Pooling.WEIGHTED_MEAN,
}


def encode(subject: Subject) -> Finding:
    """What sentence-transformers itself encodes is our last layer with its pooling."""
    folder = _folder(subject)
    if folder is None:
        return skipped("not a sentence-transformers model: no modules.json beside its weights")
    if importlib.util.find_spec("sentence_transformers") is None:
        return skipped(
            "sentence-transformers is not installed; pip install 'layerscope[sentence-transformers]'"
        )
    model = _loaded(subject)
    modules = list(model)
    poolers = [i for i, module in enumerate(modules) if type(module).__name__ == "Pooling"]
    mode = _mode(modules[poolers[0]]) if len(poolers) == 1 else "none"
    if mode not in _POOLINGS:
        return skipped(f"its pooling ({mode}) is none of layerscope's: {', '.join(_POOLINGS)}")
    texts = [" ".join(text.split()[:_WORDS]) for text in subject.texts]
    official = torch.as_tensor(model.encode(texts, prompt="", convert_to_numpy=True))
    after = modules[poolers[0] + 1 :]
    limit = int(model.max_seq_length or TOKENS)
    ours = _through(after, _ours(subject, texts, limit, _POOLINGS[mode]))
    apart = distance(ours.double(), official.double())
    names = ", ".join(type(module).__name__ for module in after)
    said = (
        f"encode() of {len(texts)} texts against layer {subject.backbone.depth} with {mode} pooling, "
        f"special tokens counted{f', then {names}' if names else ''}: at most {apart:.1e} apart; "
        f"{subject.allowed}"
    )
    advice = (
        "the vectors that sentence-transformers serves are not those of the last layer: look at the "
        "folder's modules, its tokenizer's settings and its prompts"
    )
    return judged(apart <= subject.tolerance, said, advice)


def _mode(pooling: Any) -> str:
    """Return the name of a pooling; several that are joined have one that nobody knows."""
    named = getattr(pooling, "get_pooling_mode_str", None)  # before sentence-transformers 6
    return str(named() if named else pooling.pooling_mode)


def _folder(subject: Subject) -> str | None:
    """Return what sentence-transformers loads, None if what was loaded is no model of that library."""
    name = subject.origin.name
    if name is None or subject.images is not None:
        return None
    return sentence_transformers_source(name, subject.origin.options.revision)


def _loaded(subject: Subject) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its notes on its own renames are for its users
        from sentence_transformers import SentenceTransformer

        options = subject.origin.options
        return SentenceTransformer(
            _folder(subject),
            device=str(subject.backbone.device),
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            model_kwargs={"dtype": getattr(torch, subject.backbone.info.dtype)},
        )


def _ours(subject: Subject, texts: list[str], limit: int, pooling: Pooling) -> Tensor:
    """Return layerscope's vectors (text, dim) of the model's last site, special tokens counted."""
    backbone = subject.backbone
    limit = length_limit(backbone.tokenizer, backbone.model.config, limit)
    tokens = tokenize(backbone.tokenizer, texts, limit)
    marks = [text.counted(special_tokens=True, first_token=True) for text in tokens]
    site = sites_of(backbone, [backbone.depth])[-1]
    found: dict[int, Tensor] = {}

    def pooled(states: TokenStates) -> Tensor:
        return pool(states, pooling).cpu()

    for result in extract(backbone, batches(backbone, tokens, marks, _BUDGET), [site], pooled):
        found.update(zip(result.items, result.by_site[site], strict=True))
    return torch.stack([found[item] for item in range(len(texts))])


def _through(modules: list[Any], vectors: Tensor) -> Tensor:
    """Send vectors through what follows the pooling, in its own number format."""
    for module in modules:
        weight = next(module.parameters(), None)
        given = vectors if weight is None else vectors.to(weight.device, weight.dtype)
        with torch.inference_mode():
            vectors = module({"sentence_embedding": given})["sentence_embedding"]
    return vectors.detach().float().cpu()
