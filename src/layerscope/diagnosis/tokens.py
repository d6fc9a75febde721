"""Checks of the tokenizer, and of sentence-transformers' own vectors."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from layerscope.config import Pooling
from layerscope.data.tokens import TokenizedText, length_limit, padding_id, tokenize
from layerscope.diagnosis.results import Finding, judged, skipped
from layerscope.diagnosis.subject import TOKENS, Subject, real_tokens
from layerscope.diagnosis.trace import distance, same
from layerscope.errors import RunError
from layerscope.export.sentence import source_name
from layerscope.states.extract import Site, TokenStates, batches, extract, sites_of
from layerscope.states.pooling import SINK_RATIO, first_token_ratio, pool

_IMAGES = "this model reads images; it has no tokenizer"


def tokenizer(subject: Subject) -> Finding:
    """The tokens that the tokenizer adds are known and marked, and there is a padding id."""
    if subject.images is not None:
        return skipped(_IMAGES)
    words = subject.backbone.tokenizer
    text = subject.texts[0]
    plain = words(text, add_special_tokens=False, verbose=False)["input_ids"]
    full = words(text, verbose=False)["input_ids"]
    place = _inside(plain, full)
    advice = "the tokenizer does not mark what it adds; --special-tokens include counts every token"
    if place is None:
        said = "with its own tokens added, the tokenizer gives a text other tokens than without"
        return judged(False, said, advice)
    front, back = full[:place], full[place + len(plain) :]
    expected = [True] * len(front) + [False] * len(plain) + [True] * len(back)
    [ours] = tokenize(words, [text], len(full) + 1)
    said = (
        f"adds {_named(words, front)} before and {_named(words, back)} after the text; "
        f"{_padding(subject)}{_unused_bos(words, front)}; {_sink(subject)}"
    )
    if list(ours.special) != expected:
        marked = sum(ours.special)
        said = f"marks {marked} tokens of a text as added where it adds {len(front) + len(back)}"
    return judged(list(ours.special) == expected, said, advice)


def _inside(part: Sequence[int], whole: Sequence[int]) -> int | None:
    for start in range(len(whole) - len(part) + 1):
        if list(whole[start : start + len(part)]) == list(part):
            return start
    return None


def _named(words: Any, ids: Sequence[int]) -> str:
    return " ".join(words.convert_ids_to_tokens(list(ids))) if ids else "nothing"


def _padding(subject: Subject) -> str:
    words, config = subject.backbone.tokenizer, subject.backbone.model.config
    used = padding_id(words, config)
    if getattr(words, "pad_token_id", None) is None:
        return f"has no padding token, id {used} stands in and is masked"
    other = getattr(config, "pad_token_id", None)
    differs = f" (the config says {other})" if other not in (None, used) else ""
    return f"pads with {words.pad_token} (id {used}){differs}"


def _unused_bos(words: Any, front: Sequence[int]) -> str:
    bos = getattr(words, "bos_token_id", None)
    return "" if bos is None or bos in front else f"; knows {words.bos_token} but does not add it"


def _sink(subject: Subject) -> str:
    ratio = first_token_ratio(subject.backbone, subject.whole)
    if ratio is None:
        return "no text has a second token to compare the first with"
    policy = (
        "an attention sink, left out by default" if ratio >= SINK_RATIO else "no attention sink"
    )
    return f"the first token's norm is {ratio:.3g} x the median of the others ({policy})"


def vocabulary(subject: Subject) -> Finding:
    """Every id of the tokenizer has a row in the model's embeddings."""
    if subject.images is not None:
        return skipped(_IMAGES)
    words = subject.backbone.tokenizer
    model: Any = subject.backbone.model
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids: dict[str, int] = words.get_vocab()
    added = {str(token) for token in getattr(words, "added_tokens_decoder", {}).values()}
    homeless = {token: number for token, number in ids.items() if number >= rows}
    ordinary = homeless.keys() - added
    used = max(max(text.ids) for text in subject.whole)
    said = f"{len(ids):,} tokens, ids up to {max(ids.values()):,}, for {rows:,} rows of embeddings"
    if homeless and not ordinary and used < rows:
        names = ", ".join(sorted(homeless)[:3])
        said += f"; {len(homeless)} without a row ({names}): a text that holds one would fail"
    pad_id = padding_id(words, subject.backbone.model.config)
    advice = (
        f"this tokenizer belongs to another model, or the embeddings were never resized to its "
        f"{len(ids):,} tokens; save the right one beside the model"
    )
    return judged(not ordinary and used < rows and pad_id < rows, said, advice)


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
    """sentence-transformers' own encode gives the layer that it names, with its pooling."""
    folder = _folder(subject)
    if folder is None:
        return skipped("not a sentence-transformers model: no modules.json beside its weights")
    if importlib.util.find_spec("sentence_transformers") is None:
        return skipped(
            "sentence-transformers is not installed; pip install 'layerscope[sentence-transformers]'"
        )
    model = _loaded(subject)
    transformer, *after = list(model)
    place = _place(subject, transformer)
    texts = [" ".join(text.split()[:_WORDS]) for text in subject.texts]
    rows = 1 if subject.backbone.padding == "none" else 32
    official = torch.as_tensor(
        model.encode(texts, prompt="", batch_size=rows, convert_to_numpy=True)
    )
    ours = torch.cat([_vector(after, each) for each in _ours(subject, texts, model, place)])
    apart = distance(ours.double(), official.double())
    said = (
        f"encode() of {len(texts)} texts against {subject.site(place)} {_through_what(after)}: "
        f"{f'at most {apart:.1e} apart' if apart else 'no difference at all'}; {subject.allowed}"
    )
    advice = (
        "the vectors that sentence-transformers serves are not those of that layer: look at the "
        "folder's modules, its tokenizer's settings and its prompts"
    )
    return judged(apart <= subject.tolerance, said, advice)


def _place(subject: Subject, transformer: Any) -> int:
    """Return the state that the model uses: its output, or the entry of `hidden_states` that it names."""
    read = getattr(transformer, "modality_config", None) or {}
    named = read.get("text", {}).get("method_output_name")
    if isinstance(named, list | tuple) and len(named) == 2 and named[0] == "hidden_states":
        entry = subject.traces[0].listed[int(named[1])][0]
        places = [i for i, state in enumerate(subject.truth[0]) if same(state, entry)]
        if not places:
            raise RunError(f"entry {named[1]} of hidden_states, which it serves, is no layer")
        return places[0]
    return len(subject.truth[0]) - 1


def _through_what(modules: list[Any]) -> str:
    names = [type(module).__name__ for module in modules]
    if modules and (mode := _mode(modules[0])) in _POOLINGS:
        names[0] = f"{mode} pooling, special tokens counted"
        return f"with {', then '.join(names)}"
    return f"through {', '.join(names)}" if names else "as it is"


def _mode(module: Any) -> str:
    """Return the name of a pooling, "" for another module."""
    named = getattr(module, "get_pooling_mode_str", None)  # before sentence-transformers 6
    return str(named() if named else getattr(module, "pooling_mode", ""))


def _folder(subject: Subject) -> str | None:
    """Return what sentence-transformers loads, None if the model is not one of that library."""
    name = subject.origin.name
    if name is None or subject.images is not None:
        return None
    return source_name(name, subject.origin.options.revision)


def _loaded(subject: Subject) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its deprecation notes are for its users
        from sentence_transformers import SentenceTransformer

        options = subject.origin.options
        return SentenceTransformer(
            _folder(subject),
            device=str(subject.backbone.device),
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            model_kwargs={"dtype": getattr(torch, subject.backbone.info.dtype)},
        )


def _ours(
    subject: Subject, texts: list[str], model: Any, place: int
) -> Iterator[tuple[TokenizedText, Tensor]]:
    """Yield each text's tokens and its states (1, token, dim) at one site, as layerscope reads them."""
    backbone = subject.backbone
    limit = length_limit(backbone.tokenizer, backbone.model.config, model.max_seq_length or TOKENS)
    tokens = tokenize(backbone.tokenizer, texts, limit)
    marks = [[True] * len(text.ids) for text in tokens]
    site = sites_of(backbone)[place]
    given = batches(backbone, tokens, marks, _BUDGET)
    found: dict[int, Tensor] = {}
    for result in extract(backbone, given, [site], real_tokens):
        found.update(zip(result.items, result.by_site[site], strict=True))
    for item, text in enumerate(tokens):
        yield text, found[item][None]


def _vector(modules: list[Any], given: tuple[TokenizedText, Tensor]) -> Tensor:
    """Return a text's vector (1, dim), by layerscope's pooling if it has it, else by the modules."""
    text, states = given
    ids, real = torch.tensor([text.ids]), torch.ones(1, len(text.ids), dtype=torch.bool)
    features: dict[str, Any] = {"token_embeddings": states, "input_ids": ids}
    features["attention_mask"] = real.long()
    mode = _mode(modules[0]) if modules else ""
    if mode in _POOLINGS:
        tokens = TokenStates(Site(0), states, real, real)
        features["sentence_embedding"] = pool(tokens, _POOLINGS[mode])
        modules = modules[1:]
    for module in modules:
        features = _through(module, features)
    return torch.as_tensor(features["sentence_embedding"]).detach().float().cpu()


def _through(module: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Run one of the model's own modules on a text, on the module's device and in its dtype."""
    weight = next(module.parameters(), None)
    if weight is not None:
        features = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in features.items()
            if isinstance(value, Tensor)
        }
    with torch.no_grad():
        changed: dict[str, Any] = module(features)
    return changed
