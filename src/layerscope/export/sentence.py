"""A smaller model as a sentence-transformers folder, of that library's own modules alone.

Which tokens are pooled is part of the vector that was measured, so the folder keeps it: `WordWeights`
gives special tokens the weight zero. No module leaves out an ordinary first token that is a sink; there
a token of the tokenizer's own is put before every text as a prompt, takes the sink's place, and gets
weight zero.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from layerscope.config import Pooling
from layerscope.data.tokens import TokenizedText
from layerscope.errors import InputError, RunError
from layerscope.export.modules import ReadoutModules, after_pooling, layer_pooling
from layerscope.export.shorten import LAST, OutputPath
from layerscope.models.backbone import Backbone, is_sentence_transformer
from layerscope.models.modes import evaluating
from layerscope.models.serving import module_file
from layerscope.settings import ModelOptions
from layerscope.states.extract import Site, TokenStates
from layerscope.states.pooling import pool

_MODES: Final = {
    Pooling.MEAN: "mean",
    Pooling.LAST: "lasttoken",
    Pooling.FIRST: "cls",
    Pooling.MAX: "max",
    Pooling.WEIGHTED_MEAN: "weightedmean",
}
_SEES_ALL: Final = (Pooling.LAST, Pooling.FIRST)
PROMPT_NAME: Final = "text"
Read = Iterable[tuple[Tensor, TokenizedText]]


@dataclass(frozen=True)
class PoolingMask:
    """Which tokens are pooled, in terms that a sentence-transformers folder can express.

    Attributes:
        pooling: token states -> a vector.
        excluded: ids of tokens excluded from pooling (weight zero).
        prompt: put before every text, an excluded token; "" for none.
        normalize: whether vectors are scaled to unit length.
    """

    pooling: Pooling
    excluded: frozenset[int] = frozenset()
    prompt: str = ""
    normalize: bool = False

    def marks(self, text: TokenizedText) -> list[bool]:
        """For each token of a text (with the prompt before it), whether it counts."""
        marks = [token not in self.excluded for token in text.ids]
        return marks if any(marks) else [True] * len(marks)

    def vector(self, states: Tensor, text: TokenizedText) -> Tensor:
        """Return the vector (dim,) of one text's states (token, dim), by our own pooling."""
        real = torch.ones(1, len(states), dtype=torch.bool)
        marks = torch.tensor([self.marks(text)])
        vector = pool(TokenStates(Site(0), states[None], real, marks), self.pooling)[0]
        return torch.nn.functional.normalize(vector, dim=0) if self.normalize else vector

    def pooled(self, tokens: TokenStates) -> Tensor:
        """Return the pooled vectors (text, dim) of a batch, for a pass."""
        return pool(tokens, self.pooling).cpu()

    def notes(self, tokenizer: Any) -> list[str]:
        """Return what a model card says of it."""
        notes = [
            f"{self.pooling.value} pooling, vectors {'' if self.normalize else 'not '}normalized."
        ]
        if self.excluded:
            names = ", ".join(tokenizer.convert_ids_to_tokens(sorted(self.excluded)))
            notes.append(f"Tokens that do not count: {names}.")
        if self.prompt:
            notes.append(
                f"The first token is an attention sink and the tokenizer adds none, so {self.prompt!r} "
                "is put before every text as a prompt and does not count."
            )
        return notes

    def agreement(self, plain: Read, prompted: Read) -> str:
        """Say how near the vectors with the prompt are to those that were scanned without one.

        Args:
            plain: of each text without the prompt, its states (token, dim) and its tokens.
            prompted: the same with the prompt.
        """
        scanned = [self._without_first(states, text) for states, text in plain]
        given = [self.vector(states, text) for states, text in prompted]
        cosine = torch.cosine_similarity(torch.stack(scanned), torch.stack(given)).mean()
        return (
            f"With that prompt the vectors are near those that were scanned without it, not equal: mean "
            f"cosine {float(cosine):.3f} over {len(given)} texts."
        )

    def _without_first(self, states: Tensor, text: TokenizedText) -> Tensor:
        """Return the vector without position 0, as a scan makes it."""
        if len(text.ids) == 1:
            return self.vector(states, text)
        rest = TokenizedText(text.ids[1:], text.special[1:], truncated=False)
        return self.vector(states[1:], rest)


def pooling_mask(
    tokenizer: Any,
    texts: Sequence[TokenizedText],
    pooling: Pooling,
    *,
    special_tokens: bool,
    drop_first: bool,
    normalize: bool,
) -> PoolingMask:
    """Express in sentence-transformers' terms which tokens are pooled.

    Args:
        tokenizer: of the model.
        texts: some texts as it reads them.
        pooling: token states -> a vector.
        special_tokens: whether tokens that the tokenizer adds count.
        drop_first: whether position 0 is left out.
        normalize: whether vectors are scaled to unit length.

    Raises:
        InputError: no stock module can express it.
    """
    if pooling in _SEES_ALL:
        return PoolingMask(pooling, normalize=normalize)
    added = frozenset(
        token
        for text in texts
        for token, special in zip(text.ids, text.special, strict=True)
        if special
    )
    leads = all(text.special[0] for text in texts)
    excluded = added if not special_tokens else frozenset()
    prompt = ""
    if drop_first and leads:
        excluded |= {text.ids[0] for text in texts}
    elif drop_first:
        prompt, token = _prompt(tokenizer)
        excluded |= {token}
    if excluded and pooling is not Pooling.MEAN:
        raise InputError(
            f"sentence-transformers has no {pooling.value} pooling that leaves tokens out; use --pooling "
            "mean, or --special-tokens include --first-token keep, or --format transformers."
        )
    return PoolingMask(pooling, excluded, prompt, normalize)


def _prompt(tokenizer: Any) -> tuple[str, int]:
    """Return a token of the tokenizer's own that can stand before every text, and its id."""
    for name in ("bos_token", "eos_token", "cls_token"):
        token = getattr(tokenizer, name, None)
        ids = tokenizer(token, add_special_tokens=False)["input_ids"] if token else []
        if len(ids) == 1:
            return str(token), int(ids[0])
    raise InputError(
        "the first token is an attention sink, and the tokenizer has no token of its own to put in its "
        "place; use --first-token keep, or --format transformers and leave it out yourself."
    )


def require_extra() -> None:
    """Raise an InputError where sentence-transformers is not installed."""
    import importlib.util

    if importlib.util.find_spec("sentence_transformers") is None:
        raise InputError(
            "this format needs an extra: pip install 'layerscope[sentence-transformers]'; or choose "
            "--format transformers."
        )


def source_name(name: str | Path, revision: str | None = None) -> str | None:
    """Return what sentence-transformers loads under a name; None if it is not a model of that library."""
    if module_file(name, "modules.json", revision) is None:
        return None
    path = Path(name).expanduser()
    return str(path) if path.exists() else str(name)


def load_source(model: str | Path | nn.Module, options: ModelOptions | None = None) -> Any:
    """Return the `SentenceTransformer` of a name, for the modules that follow its transformer.

    The transformer itself is left out, since it is loaded already. An object of that library is
    returned as it is. None if there is no model of that library.
    """
    if isinstance(model, nn.Module):
        return model if is_sentence_transformer(model) else None
    options = options or ModelOptions()
    found = source_name(model, options.revision)
    if found is None:
        return None
    require_extra()
    from sentence_transformers import SentenceTransformer

    with _handed_over(_Absent):
        return SentenceTransformer(
            found,
            device="cpu",
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
        )


class _Absent(nn.Module):
    """In place of the transformer of a sentence-transformers model whose other modules are wanted."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, **_: Any) -> Any:
        """Refuse to run."""
        raise RunError("the transformer of this sentence-transformers model was not loaded.")


@contextmanager
def _handed_over(model_for: Callable[[Any], Any]) -> Iterator[None]:
    """Let sentence-transformers take a model that is there in place of loading one.

    Args:
        model_for: the config that was read -> the model.
    """
    from sentence_transformers.sentence_transformer.modules import Transformer

    kind: Any = Transformer
    loads = kind._load_model
    kind._load_model = lambda _self, _name, _task, config, *_args, **_named: model_for(config)
    try:
        yield
    finally:
        kind._load_model = loads


def default_prompt(source: Any) -> str:
    """Return what a sentence-transformers model puts before every text by default."""
    if source is None or not source.default_prompt_name:
        return ""
    return str(source.prompts.get(source.default_prompt_name) or "")


def source_vector(source: Any, states: Tensor, text: TokenizedText, *, normalize: bool) -> Tensor:
    """Return what the source's own pooling and the rest make of one text's states (token, dim)."""
    features: dict[str, Any] = {
        "token_embeddings": states[None],
        "attention_mask": torch.ones(1, len(states), dtype=torch.long),
        "input_ids": torch.tensor([text.ids]),
    }
    if prompt := default_prompt(source):
        features["prompt_length"] = _prompt_length(source.tokenizer, prompt)
    rest = torch.nn.Sequential(*list(source)[1:])
    device = next((weight.device for weight in rest.parameters()), states.device)
    features = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in features.items()
    }
    with evaluating(rest):
        for module in rest:
            features = module(features)
    vector: Tensor = features["sentence_embedding"][0].to(states.device)
    return torch.nn.functional.normalize(vector, dim=0) if normalize else vector


def _prompt_length(tokenizer: Any, prompt: str) -> int:
    """Return the tokens of a prompt, without the end that the tokenizer puts after it."""
    ids = tokenizer(prompt)["input_ids"]
    return len(ids) - int(ids[-1] in tokenizer.all_special_ids)


def write_sentence_transformer(
    model: Any,
    backbone: Backbone,
    folder: Path,
    output: OutputPath,
    *,
    counting: PoolingMask | None,
    source: Any,
    normalize: bool,
    max_length: int,
    readout: ReadoutModules | None = None,
) -> None:
    """Save a model with its pooling.

    Args:
        model: the smaller model.
        backbone: the model it was made from, for its tokenizer and width.
        folder: where to.
        output: where in the model's output the states are.
        counting: which tokens count and how they are pooled; None takes the source's modules.
        source: the sentence-transformers model that it was made from, or None; its prompts,
            length limit and lower-casing are kept.
        normalize: whether the source's modules are followed by a scaling to unit length.
        max_length: tokens that a text is cut to.
        readout: modules around the pooling; None for none.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    # Said, not left to be inferred: a tokenizer with a chat template would have texts wrapped in it.
    place = output[0] if output == LAST else list(output)
    asked: dict[str, Any] = {
        "modality_config": {"text": {"method": "forward", "method_output_name": place}},
        "module_output_name": "token_embeddings",
    }
    if readout is not None and readout.weights is not None:
        model.config.output_hidden_states = True  # saved with it, and asked for when it is loaded
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".model.") as room,
        _handed_over(lambda _config: model),
    ):
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(room)
        backbone.tokenizer.save_pretrained(room)
        transformer = Transformer(
            room,
            max_seq_length=source.max_seq_length if source is not None else max_length,
            do_lower_case=bool(source is not None and getattr(source[0], "do_lower_case", False)),
            **asked,
        )
        rest = _source_modules(source, normalize=normalize)
        if counting is not None:
            rest = _modules(counting, backbone, readout)
        prompts, named = _prompts(counting, source)
        saved = SentenceTransformer(
            modules=[transformer, *rest],
            device=str(backbone.device),
            prompts=prompts,
            default_prompt_name=named,
            similarity_fn_name=getattr(source, "similarity_fn_name", None),
        )
        saved.save_pretrained(str(folder), create_model_card=False)


def _source_modules(source: Any, *, normalize: bool) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Normalize

    modules = [] if source is None else list(source)[1:]
    ends = bool(modules) and isinstance(modules[-1], Normalize)
    return [*modules, Normalize()] if normalize and not ends else modules


def _modules(
    counting: PoolingMask, backbone: Backbone, readout: ReadoutModules | None
) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Normalize, WordWeights
    from sentence_transformers.sentence_transformer.modules import Pooling as StockPooling

    modules = layer_pooling(readout, backbone.info.dim) if readout else []
    if counting.excluded:
        # The words only name the rows, and WordWeights would read "[sep]" for "[SEP]".
        words = [str(token) for token in range(_vocabulary(backbone))]
        modules.append(WordWeights(words, {str(token): 0.0 for token in counting.excluded}))
    mode: Any = _MODES[counting.pooling]
    modules.append(StockPooling(backbone.info.dim, pooling_mode=mode))
    if readout:
        modules += after_pooling(readout)
    return [*modules, Normalize()] if counting.normalize else modules


def _vocabulary(backbone: Backbone) -> int:
    size = int(getattr(backbone.model.config, "vocab_size", 0))
    return max(size, len(backbone.tokenizer))


def _prompts(counting: PoolingMask | None, source: Any) -> tuple[dict[str, str] | None, str | None]:
    before = "" if counting is None else counting.prompt
    if source is None:
        names = (PROMPT_NAME, "query", "document")
        return (dict.fromkeys(names, before), PROMPT_NAME) if before else (None, None)
    prompts = {name: before + (prompt or "") for name, prompt in source.prompts.items()}
    if before and source.default_prompt_name is None:
        return prompts | {PROMPT_NAME: before}, PROMPT_NAME
    return prompts, source.default_prompt_name
