"""Models in: a hub id, a local folder, a GGUF file, a sentence-transformers folder or a loaded object.

Whatever comes, a `Backbone` goes out: the module to call, its blocks in order, its final norm, and the
tokenizer. Heads are never run; an encoder-decoder gives its encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from layerscope.architectures import (
    ARCHITECTURES,
    Architecture,
    Tap,
    blocks_of,
    longest_block_list,
    stages_of,
)
from layerscope.errors import InputError

_VAGUE_NAMES: Final = {"model", "checkpoint", "main", "out", "hf"}
DTYPES: Final = ("auto", "float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class ModelOptions:
    """How to load a model.

    Attributes:
        revision: branch, tag or commit on the hub.
        dtype: one of `DTYPES`; "auto" keeps the checkpoint's own.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
        device_map: passed to transformers ("auto" spreads a large model); replaces `device`.
        trust_remote_code: allow code that comes with the checkpoint to run.
    """

    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"expected a dtype among {', '.join(DTYPES)}, got {self.dtype!r}.")


@dataclass(frozen=True)
class ModelInfo:
    """What a run's record says of a model."""

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

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for `run.json`."""
        return asdict(self)


@dataclass(frozen=True)
class Backbone:
    """A model with its layers told apart.

    Attributes:
        model: the module to call with `input_ids` and `attention_mask`; never has a head.
        whole: the model as it came, which holds `model` and perhaps a head.
        blocks: the block of layer 1..L; one shared by several layers stands several times.
        final_norm: the norm after block L, or None.
        stages: sub-block stage -> where to read it in a block (empty if unknown).
        positions: "given" if `position_ids` counting from 0 are to be passed.
    """

    model: nn.Module
    whole: nn.Module
    tokenizer: Any
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    stages: dict[str, Tap]
    positions: str
    info: ModelInfo = field(repr=False)

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the inputs go: the device of the embeddings."""
        return next(self.model.parameters()).device


def load(name: str | Path, options: ModelOptions | None = None, *, head: bool = False) -> Backbone:
    """Load a model by name and tell its layers apart.

    Args:
        name: hub id, local folder, GGUF file or sentence-transformers folder.
        options: how to load it.
        head: whether to load the head that the checkpoint has as well (`Backbone.whole`).

    Raises:
        InputError: no such model, no weights or tokenizer with it, or code that needs trust.
    """
    options = options or ModelOptions()
    source = _locate(str(name))
    model = _load_model(source, options, head=head)
    sees = getattr(model, "main_input_name", "input_ids") == "pixel_values"
    tokenizer = None if sees else _load_tokenizer(source, options)
    revision = options.revision or getattr(model.config, "_commit_hash", None) or ""
    return backbone_of(model, tokenizer, name=source.label, revision=revision)


def label_of(name: str | Path) -> str:
    """Return what a run calls the model of that name, before anything is loaded.

    Raises:
        InputError: it names a folder or a file where no model is.
    """
    return _locate(str(name)).label


def sentence_transformers_source(name: str | Path, revision: str | None = None) -> str | None:
    """Return what sentence-transformers loads under a name, or None if it is no model of that library."""
    path = Path(name).expanduser()
    if path.exists():
        return str(path) if (path / "modules.json").is_file() else None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(str(name), "modules.json", revision=revision)
    except OSError:  # not there, or the hub cannot be asked
        return None
    return str(name) if found else None


def backbone_of(
    model: nn.Module, tokenizer: Any, *, name: str = "", revision: str = ""
) -> Backbone:
    """Tell the layers of a loaded transformers model apart.

    A model in the table of architectures is read by it; any other by its longest list of like blocks,
    which is then checked against the hidden states that the model itself reports.

    Raises:
        InputError: not a transformers model, or its blocks cannot be told apart for certain.
    """
    if not hasattr(model, "config"):
        raise InputError(f"expected a transformers model, got {type(model).__name__}.")
    core = _core(model)
    config: Any = getattr(core, "config", None)
    if not hasattr(config, "hidden_size"):
        raise InputError(
            f"layerscope cannot tell where {type(model).__name__} keeps its text model: what computes "
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
        info=ModelInfo(
            name=name or str(getattr(model.config, "name_or_path", "")) or type(model).__name__,
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
            tokenizer_fingerprint=tokenizer_fingerprint(tokenizer) if tokenizer else "",
        ),
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the model without dropout and gradients, then give it back in the mode it came in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


# --- where a model comes from ------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A resolved name: what transformers is asked for, and what people call it."""

    path: str
    label: str
    gguf_file: str | None = None


def _locate(name: str) -> _Source:
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"expected a GGUF file, found none at {name!r}.")
        return _Source(str(path.parent), path.stem, path.name)
    if path.is_dir():
        return _locate_folder(path)
    if path.exists():
        raise InputError(
            f"expected a model folder, a .gguf file or a hub id, got the file {name!r}."
        )
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(
            f"no model folder at {name!r}; check the path, or give a hub id like org/model."
        )
    return _Source(name, name)


def _locate_folder(path: Path) -> _Source:
    whole = path.resolve()
    label = f"{whole.parent.name}/{whole.name}" if whole.name in _VAGUE_NAMES else whole.name
    if (path / "modules.json").is_file():
        return _Source(str(path / _transformer_module(path)), label)
    if (path / "config.json").is_file():
        return _Source(str(path), label)
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _Source(str(path), ggufs[0].stem, ggufs[0].name)
    if ggufs:
        names = ", ".join(gguf.name for gguf in ggufs)
        raise InputError(
            f"the folder {str(path)!r} holds several GGUF files ({names}); name one of them."
        )
    raise InputError(
        f"expected a model in {str(path)!r}, found no config.json and no .gguf file there."
    )


def _transformer_module(path: Path) -> str:
    """Return the subfolder of a sentence-transformers model that holds the transformer."""
    try:
        modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        for module in modules:
            if str(module.get("type", "")).rsplit(".", 1)[-1] == "Transformer":
                return str(module.get("path", ""))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{str(path / 'modules.json')!r} cannot be read: {error}.") from error
    raise InputError(f"the sentence-transformers folder {str(path)!r} has no Transformer module.")


def _load_model(source: _Source, options: ModelOptions, *, head: bool) -> nn.Module:
    arguments: dict[str, Any] = {
        "revision": options.revision,
        "dtype": _checkpoint_dtype(source, options),
        "trust_remote_code": options.trust_remote_code,
        "output_loading_info": True,
    }
    if source.gguf_file:
        _require("gguf", "gguf")
        arguments["gguf_file"] = source.gguf_file
    if options.device_map:
        arguments["device_map"] = options.device_map
    kind = _class_with_head(source, options) if head else _auto("AutoModel")
    model, report = _explained(source, lambda: kind.from_pretrained(source.path, **arguments))
    _refuse_fresh_weights(model if head else _core(model), model, report, source)
    _drop_fresh_pooler(model, report)
    placed = options.device_map or (getattr(model, "is_quantized", False) and not source.gguf_file)
    return model if placed else _move(model, options.device)


def _auto(name: str) -> Any:
    import transformers

    return getattr(transformers, name, None)


def _class_with_head(source: _Source, options: ModelOptions) -> Any:
    """Return the class that the checkpoint was saved as; a GGUF file names none."""
    arguments = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    config = _explained(
        source,
        lambda: _auto("AutoConfig").from_pretrained(
            source.path,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            **arguments,
        ),
    )
    saved_as = _auto(str((getattr(config, "architectures", None) or [""])[0]))
    if saved_as is not None:
        return saved_as
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return _auto("AutoModelForCausalLM" if causal else "AutoModel")


def _checkpoint_dtype(source: _Source, options: ModelOptions) -> Any:
    if options.dtype == "auto":  # a GGUF file is dequantized; float32 loses nothing of it
        return torch.float32 if source.gguf_file else "auto"
    return getattr(torch, options.dtype)


def _load_tokenizer(source: _Source, options: ModelOptions) -> Any:
    from transformers import AutoTokenizer

    arguments: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    tokenizer = _explained(
        source,
        lambda: AutoTokenizer.from_pretrained(
            source.path,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            **arguments,
        ),
    )
    # Where no vocabulary is found transformers makes an empty tokenizer, which reads every text alike.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise InputError(
            f"{source.label!r} comes without a tokenizer; save the one it was trained with beside it."
        )
    return tokenizer


def _explained(source: _Source, load_it: Callable[[], Any]) -> Any:
    """Call a transformers loader; turn what it raises into one sentence of ours."""
    try:
        return load_it()
    except Exception as error:  # a broken checkpoint raises whatever its reader raises
        text = str(error)
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        if "trust_remote_code" in text:
            raise InputError(
                f"{source.label!r} comes with code of its own, which layerscope does not run unasked; "
                "pass --trust-remote-code if you trust it."
            ) from error
        if isinstance(error, OSError) and not Path(source.path).exists():
            raise InputError(
                f"no model {source.label!r}: it is neither a local folder nor a model that the hub "
                f"gives (offline, misspelled, private or gone): {first}"
            ) from error
        if "ignore_mismatched_sizes" in text:
            first = "its weights have other shapes than its config.json says"
        raise InputError(f"{source.label!r} cannot be loaded: {first.rstrip('.')}.") from error


def _refuse_fresh_weights(
    part: nn.Module, model: nn.Module, report: dict[str, Any], source: _Source
) -> None:
    """Refuse a checkpoint that leaves weights of a part of the model at their random start."""
    used = {id(weight) for weight in part.parameters()}
    needed = {name for name, weight in model.named_parameters() if id(weight) in used}
    lacking = needed.intersection(report.get("missing_keys", ()))
    missing = [key for key in lacking if "pooler" not in key]
    if missing:
        raise InputError(
            f"{source.label!r} lacks {len(missing)} weights of a {type(model).__name__} "
            f"(such as {sorted(missing)[0]!r}), which would stay random; the checkpoint is incomplete."
        )


def _drop_fresh_pooler(model: nn.Module, report: dict[str, Any]) -> None:
    """Take out a pooler that the checkpoint lacks: random, it would change the weights' fingerprint.

    No hidden state goes through it, and a checkpoint of a masked language model has none.
    """
    core: Any = _core(model)
    if any("pooler" in name for name in report.get("missing_keys", ())) and hasattr(core, "pooler"):
        core.pooler = None


def _move(model: nn.Module, device: str) -> nn.Module:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"the device {device!r} cannot be used here: {first}.") from error


def _require(module: str, extra: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise InputError(f"this needs an extra; install it with: pip install 'layerscope[{extra}]'")


def _core(model: nn.Module) -> nn.Module:
    """Return what computes the hidden states: no head, the encoder of a pair, the text of a many."""
    core: Any = getattr(model, "base_model", model)
    if hasattr(core, "get_encoder") and _is_pair(core):
        core = core.get_encoder()
    language = getattr(core, "language_model", None)
    core = language if isinstance(language, nn.Module) else core
    inner = getattr(core, "model", None)
    # Llama 4 keeps a model with a head where others keep the one without.
    headed = hasattr(core, "lm_head") and isinstance(inner, nn.Module) and hasattr(inner, "config")
    return inner if headed and isinstance(inner, nn.Module) else core


def _is_pair(core: Any) -> bool:
    """Whether this is an encoder with a decoder, or cut out of one: T5's then deny it in the config."""
    both = all(isinstance(getattr(core, part, None), nn.Module) for part in ("encoder", "decoder"))
    alone = type(core).__name__.endswith("EncoderModel")
    return both or alone or bool(getattr(core.config, "is_encoder_decoder", False))


# --- the fallback for architectures that are not in the table ----------------------------------


def infer_architecture(core: nn.Module) -> Architecture:
    """Find the blocks and the final norm of a model by its structure and prove them on its own states.

    The longest list of like blocks is taken; on a short input, its outputs must be the hidden states
    that the model reports (whose last entry may be normed: the module that does it is the final norm).

    Raises:
        InputError: no such list, or the model's own hidden states say otherwise.
    """
    path = longest_block_list(core)
    blocks = tuple(core.get_submodule(path).children())
    reported, seen = _states_both_ways(core, blocks)
    hooked = [seen[id(block)] for block in blocks if id(block) in seen]
    refusal = InputError(
        f"{type(core).__name__} is not in layerscope's table of architectures, and the outputs of its "
        f"longest list of like blocks ({path!r}) are not its hidden states; add it to the table."
    )
    if len(hooked) != len(blocks) or len(reported) < len(blocks):
        raise refusal
    inner = zip(reported[-len(blocks) : -1], hooked[:-1], strict=True)
    shifted = zip(reported[: len(blocks) - 1], hooked[:-1], strict=True)
    if not (_all_equal(inner) or _all_equal(shifted)):
        raise refusal
    if _equal(reported[-1], hooked[-1]):
        return Architecture(path, positions="own")
    norm = _module_giving(core, reported[-1], seen)
    if norm is None:
        raise refusal
    return Architecture(path, norm, positions="own")


def _states_both_ways(
    core: nn.Module, blocks: tuple[nn.Module, ...]
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Run a short input: the states the model reports, and what each block and norm-like module gave."""
    seen: dict[int, Tensor] = {}

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        if (
            isinstance(state, Tensor) and state.is_floating_point()
        ):  # Llama 4's rotations are complex
            seen[id(module)] = state.float()

    inside = {id(module) for block in blocks for module in block.modules()}
    watched = [m for m in core.modules() if id(m) not in inside and m is not core] + list(blocks)
    handles = [module.register_forward_hook(keep) for module in watched]
    ids = torch.arange(1, 6, device=next(core.parameters()).device)[None]
    try:
        with evaluating(core):
            output = core(input_ids=ids, output_hidden_states=True)
    except Exception as error:
        raise InputError(
            f"{type(core).__name__} is not in layerscope's table of architectures and does not run on "
            f"a short text input, so its layers cannot be told apart: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    reported = [state for state in output.hidden_states or () if isinstance(state, Tensor)]
    return [state.float() for state in reported], seen


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def _all_equal(pairs: Any) -> bool:
    return all(_equal(one, other) for one, other in pairs)


def _module_giving(core: nn.Module, state: Tensor, seen: dict[int, Tensor]) -> str | None:
    """Return the path of the first module outside the blocks whose output is `state`.

    The first, because dropouts that follow the norm give the same states when evaluating.
    """
    for path, module in core.named_modules():
        if id(module) in seen and _equal(seen[id(module)], state):
            return str(path)
    return None


# --- fingerprints ------------------------------------------------------------------------------


def weights_fingerprint(model: nn.Module) -> str:
    """Return a short hash of every weight's name, shape and a spread of 64 of its values."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.float64)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a short hash of the tokenizer's vocabulary, special tokens and its ids of a probe text."""
    probe = tokenizer("layerscope probes, 1, 2, 3.")["input_ids"]
    facts = [sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, probe]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
