"""A loaded model, its layers in order, and the fingerprints that identify it."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
import xxhash
from torch import Tensor, nn

from layerscope.errors import InputError, NonFiniteError
from layerscope.models.architectures import (
    ARCHITECTURES,
    Padding,
    Positions,
    Tap,
    blocks_of,
    stages_of,
)
from layerscope.models.inputs import noise_pixels, reads_images
from layerscope.models.modes import evaluating
from layerscope.models.serving import Serving, serving_of
from layerscope.models.structure import infer_architecture

_PROBE_TOKENS: Final = 6


@dataclass(frozen=True)
class ModelInfo:
    """Facts of a model for a run's record."""

    name: str
    revision: str
    architecture: str
    model_class: str
    blocks: int
    dim: int
    parameters: int
    dtype: str
    device: str
    final_norm: bool
    weights_fingerprint: str
    tokenizer_fingerprint: str
    config_fingerprint: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for `run.json`."""
        return asdict(self)


@dataclass(frozen=True)
class Backbone:
    """A model with its layers in order.

    Attributes:
        model: the module to call with `input_ids` and `attention_mask`; never has a head.
        whole: the model as it was loaded, which holds `model` and perhaps a head.
        blocks: the block of layer 1..L; one shared by several layers stands several times.
        final_norm: the norm after block L, or None.
        stages: sub-block stage -> where to read it in a block (empty if unknown).
        positions: "given" if `position_ids` counting from 0 must be passed.
        padding: the sides on which masked padding does not change states, see `Architecture`.
        mask: whether an `attention_mask` must be passed.
        serving: how a sentence-transformers source makes vectors, None for any other.
        processor: makes pixel values of images; None for a model of texts, and where there is none.
    """

    model: nn.Module
    whole: nn.Module
    tokenizer: Any
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    stages: dict[str, Tap]
    positions: Positions
    padding: Padding
    mask: bool
    info: ModelInfo = field(repr=False)
    serving: Serving | None = None
    processor: Any = None

    @property
    def reads_images(self) -> bool:
        """Whether the model reads pixels rather than tokens."""
        return reads_images(self.model)

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """The device of the inputs, which is that of the embeddings."""
        return next(self.model.parameters()).device


def weight_bytes(model: nn.Module) -> int:
    """Return how many bytes the weights of a model take, shared ones once."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def backbone_of(
    model: nn.Module, tokenizer: Any, *, name: str = "", revision: str = "", images: bool = False
) -> Backbone:
    """Find the layers of a loaded transformers model.

    Args:
        model: the model.
        tokenizer: of a model of texts, the image processor of a model of images.
        name: what it is called; by default where it was loaded from.
        revision: of the checkpoint.
        images: whether to take the part that reads images, of a model for several kinds of input.

    For a model in the table of architectures, by its row; for any other, by its longest list of blocks of
    one class, which is checked against the hidden states that the model itself reports.

    Of a `SentenceTransformer` object the transformer and its own tokenizer are taken.

    Raises:
        InputError: not a transformers model, or its blocks cannot be identified for certain.
    """
    serving = None
    if is_sentence_transformer(model):
        serving = serving_of(model)
        model, tokenizer = _transformer_of(model)
    if not hasattr(model, "config"):
        raise InputError(f"expected a transformers model, got {type(model).__name__}.")
    core = core_of(model, images=images)
    processor, tokenizer = _by_kind(core, tokenizer)
    config: Any = getattr(core, "config", None)
    if not hasattr(config, "hidden_size"):
        raise InputError(
            f"layerscope cannot tell where {type(model).__name__} keeps its "
            f"{'image' if reads_images(core) else 'text'} model: what computes "
            f"its states, a {type(core).__name__}, has no config of its own with a hidden_size."
        )
    kind = str(getattr(config, "model_type", ""))
    architecture = ARCHITECTURES.get(kind) or infer_architecture(core)
    blocks = blocks_of(core, architecture)
    final_norm = core.get_submodule(architecture.final_norm) if architecture.final_norm else None
    return Backbone(
        model=core,
        whole=model,
        tokenizer=tokenizer,
        blocks=blocks,
        final_norm=final_norm,
        stages=stages_of(core, architecture),
        positions=architecture.positions,
        padding=architecture.padding,
        mask=architecture.mask,
        info=ModelInfo(
            name=name or name_of(model),
            revision=revision,
            architecture=kind,
            model_class=type(core).__name__,
            blocks=len(blocks),
            dim=int(config.hidden_size),
            parameters=sum(parameter.numel() for parameter in core.parameters()),
            dtype=str(next(core.parameters()).dtype).removeprefix("torch."),
            device=str(next(core.parameters()).device),
            final_norm=final_norm is not None,
            weights_fingerprint=weights_fingerprint(core),
            tokenizer_fingerprint=(
                tokenizer_fingerprint(tokenizer) if tokenizer else processor_fingerprint(processor)
            ),
            config_fingerprint=config_fingerprint(config),
        ),
        serving=serving,
        processor=processor,
    )


def _by_kind(core: nn.Module, given: Any) -> tuple[Any, Any]:
    """Return what came with a model as an image processor or as a tokenizer, the other being None."""
    images = reads_images(core)
    given = getattr(given, "image_processor", given) if images else given
    if given is not None and images != hasattr(given, "preprocess"):
        kinds = ("a tokenizer", "an image processor")
        raise InputError(
            f"{type(core).__name__} reads {'images' if images else 'texts'}: expected "
            f"{kinds[images]} with it, got {kinds[not images]}."
        )
    return (given, None) if images else (None, given)


def is_sentence_transformer(model: object) -> bool:
    """Whether an object is a `SentenceTransformer`, seen without importing that library."""
    return any(
        kind.__name__ == "SentenceTransformer"
        and kind.__module__.startswith("sentence_transformers.")
        for kind in type(model).__mro__
    )


def name_of(model: nn.Module) -> str:
    """Return what a loaded model is called: where its config was loaded from, else its class."""
    model = _transformer_of(model)[0] if is_sentence_transformer(model) else model
    return str(getattr(model.config, "name_or_path", "")) or type(model).__name__


def _transformer_of(source: Any) -> tuple[nn.Module, Any]:
    """Return the transformers model that a `SentenceTransformer` starts with, and its tokenizer."""
    first = next(iter(source), None)
    model = getattr(first, "auto_model", None)
    if not isinstance(model, nn.Module):
        raise InputError(
            "expected a SentenceTransformer whose first module is a Transformer, got one that starts "
            f"with {type(first).__name__}, which has no layers."
        )
    return model, getattr(first, "tokenizer", None)


def writes_text(backbone: Backbone) -> bool:
    """Whether the model came with a head that predicts the next token."""
    model: Any = backbone.whole
    pair = bool(getattr(model.config, "is_encoder_decoder", False))
    return not pair and bool(getattr(model, "can_generate", lambda: False)())


def non_finite_states(backbone: Backbone, where: str = "", more: str = "") -> NonFiniteError:
    """Return the error for hidden states that are NaN or infinite, with advice.

    Args:
        backbone: the model.
        where: the place in the model, for the message.
        more: further advice if the weights are finite.
    """
    info = backbone.info
    said = f"{info.name} in {info.dtype} gave hidden states that are NaN or infinite{where}"
    damaged = [
        name
        for name, weight in backbone.model.named_parameters()
        if not weight.is_meta and not bool(weight.float().isfinite().all())
    ]
    if damaged:
        return NonFiniteError(
            f"{said}, as are {len(damaged)} of its weights (such as {damaged[0]!r}): the checkpoint is "
            "damaged; save or download it again."
        )
    wider = "float32" if info.dtype in ("float16", "bfloat16") else "float64"
    return NonFiniteError(f"{said}; try --dtype {wider}{more}.")


def given_by(
    backbone: Backbone, module: nn.Module, inputs: dict[str, Tensor], **options: Any
) -> tuple[Tensor, Any]:
    """Run the model once; return what one of its modules gave, and the model's own output."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple | list) else output)

    if hasattr(backbone.model.config, "use_cache"):
        options["use_cache"] = False
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
    if backbone.reads_images:
        return {"pixel_values": noise_pixels(backbone.model, seed)}
    low = min(5, config.vocab_size - _PROBE_TOKENS)
    ids = torch.arange(low, low + _PROBE_TOKENS, device=backbone.device)[None]
    return {"input_ids": ids}


def core_of(model: nn.Module, *, images: bool = False) -> nn.Module:
    """Return the module that computes the hidden states, without a head.

    Of an encoder-decoder it is the encoder, of a model for several kinds of input the text model, or,
    where images are read, the tower for those.
    """
    if images and not reads_images(model):
        for tower in filter(reads_images, _towers(model)):
            return tower
    core: Any = getattr(model, "base_model", model)
    if reads_images(model) and "pixel_values" not in inspect.signature(core.forward).parameters:
        core = model  # DINOv3 calls its list of blocks the base model
    if hasattr(core, "get_encoder") and _is_pair(core):
        core = core.get_encoder()
    language = getattr(core, "language_model", None)
    core = language if isinstance(language, nn.Module) else core
    inner = getattr(core, "model", None)
    # Llama 4's `language_model` has a head, where that of other models has none.
    headed = hasattr(core, "lm_head") and isinstance(inner, nn.Module) and hasattr(inner, "config")
    return inner if headed and isinstance(inner, nn.Module) else core


def _towers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a model that transformers calls its vision model or tower."""
    for part in (model, getattr(model, "model", None), getattr(model, "base_model", None)):
        for name in ("vision_model", "vision_tower"):
            if isinstance(tower := getattr(part, name, None), nn.Module):
                yield tower


def _is_pair(core: Any) -> bool:
    """Whether this is an encoder with a decoder, or was cut out of one (T5's config then denies it)."""
    both = all(isinstance(getattr(core, part, None), nn.Module) for part in ("encoder", "decoder"))
    alone = type(core).__name__.endswith("EncoderModel")
    return both or alone or bool(getattr(core.config, "is_encoder_decoder", False))


# --- fingerprints: hashes of all that decides the numbers of a model ------------------------------

OLDER: Final = "made by an older layerscope that could not tell fine-tuned copies apart"
_CHUNK: Final = 1 << 24  # values that are copied to the CPU at a time


def weights_fingerprint(model: nn.Module) -> str:
    """Return a hash of every weight and persistent buffer: name, shape, dtype and all of its bytes.

    The same on every device and in every order of the weights, which are read one at a time. Weights
    that share memory are read once, and count like equal ones that do not.

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
    """Yield the plain tensors of an entry of a state dict: of a quantized one, those inside it."""
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
    """Return a hash of the values of a tensor, bit by bit."""
    digest = xxhash.xxh3_128()
    flat = (tensor.dequantize() if tensor.is_quantized else tensor.detach()).reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        digest.update(flat[start : start + _CHUNK].cpu().view(torch.uint8).numpy().data)
    return digest.digest()


# Case, accents, scripts, numbers, blanks and signs: what tokenizers of one vocabulary treat differently.
_PROBE: Final = "layerscope probes, 1, 2, 3. A b,c  Don't\n\tNAÏVE  x=12345! Ещё 東京 🙂"


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a short hash of the tokenizer's vocabulary, special tokens and its ids of a probe text."""
    probe = tokenizer(_PROBE)["input_ids"]
    facts = [sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, probe]
    return _short_hash(facts)


def processor_fingerprint(processor: Any) -> str:
    """Return a short hash of what an image processor does, "" for none."""
    return "" if processor is None else _short_hash(_deciding(processor.to_dict()))


# Entries of a config that say where a model comes from or what a head makes of it.
_NO_MATTER: Final = frozenset(
    {
        "_name_or_path", "_commit_hash", "transformers_version", "architectures", "auto_map", "dtype",
        "torch_dtype", "id2label", "label2id", "problem_type", "return_dict", "use_cache",
        "output_hidden_states", "output_attentions", "tie_word_embeddings",
    }
)  # fmt: skip


def config_fingerprint(config: Any) -> str:
    """Return a short hash of a model's config: the same weights under another one give other states."""
    return _short_hash(_deciding(config.to_dict()))


def _deciding(entry: Any) -> Any:
    """Return a config, and those inside it, without what changes no hidden state."""
    if isinstance(entry, dict):
        return {str(k): _deciding(v) for k, v in entry.items() if k not in _NO_MATTER}
    return [_deciding(each) for each in entry] if isinstance(entry, list | tuple) else entry


def _short_hash(facts: Any) -> str:
    said = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def is_older_fingerprint(fingerprint: object) -> bool:
    """Whether a fingerprint of weights, as a record holds it, came from a few values of each weight.

    >>> is_older_fingerprint("28a10a12fe4cceb0"), is_older_fingerprint("xxh3-28a10a12fe4cceb0")
    (True, False)
    """
    return re.fullmatch("[0-9a-f]{16}", str(fingerprint)) is not None
