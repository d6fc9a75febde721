"""Models in: a hub id, a local folder, a GGUF file, a sentence-transformers folder or a loaded object.

Whatever comes, a `Backbone` goes out: the module to call, its blocks in order, its final norm, and the
tokenizer. Heads are never run; an encoder-decoder gives its encoder.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast, get_args

import numpy as np
import torch
import xxhash
from pydantic import AfterValidator, BeforeValidator
from torch import Tensor, nn

from layerscope.architectures import (
    ARCHITECTURES,
    Architecture,
    Padding,
    Positions,
    Tap,
    blocks_of,
    longest_block_list,
    stages_of,
)
from layerscope.config import Flag, Kind, Settings, Text, Words
from layerscope.errors import InputError, NonFiniteError

# What transformers' errors about code that comes with a checkpoint name; they have no type of their own.
NEEDS_TRUST: Final = "trust_remote_code"
# Files of which a tokenizer needs one, and the ends of the names of others.
_VOCABULARIES: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json")
_VOCABULARY_ENDS: Final = (".model", ".spm", ".tiktoken")
_VAGUE_NAMES: Final = {"model", "checkpoint", "main", "out", "hf"}
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)


def _torch_name(given: Any) -> Any:
    """Return the name of a torch dtype or device."""
    return (
        str(given).removeprefix("torch.")
        if isinstance(given, torch.dtype | torch.device)
        else given
    )


def _known_device(name: str) -> str:
    """Refuse what torch has no device for, and `meta`, which holds no numbers."""
    try:
        kind = torch.device("cpu" if name == "auto" else name).type
    except RuntimeError:
        kind = "meta"
    if kind == "meta":
        raise ValueError(name)
    return name


class ModelOptions(Settings):
    """How to load a model."""

    revision: Text | None = None
    """Branch, tag or commit on the hub."""
    dtype: Annotated[Dtype, BeforeValidator(_torch_name)] = "auto"
    """One of `DTYPES`, or torch's; "auto" keeps the checkpoint's own."""
    device: Annotated[
        Text,
        BeforeValidator(_torch_name),
        AfterValidator(_known_device),
        Words("a device like auto, cpu, cuda, cuda:1 or mps"),
    ] = "auto"
    """"auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps"."""
    device_map: Annotated[
        str | dict[str, Any] | None, Kind("a device map of transformers, such as 'auto', or None")
    ] = None
    """Passed to transformers ("auto" spreads a large model); replaces `device`."""
    trust_remote_code: Flag = False
    """Allow code that comes with the checkpoint to run."""


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
    config_fingerprint: str

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
        padding: the sides on which masked padding leaves states as they are, see `Architecture`.
        mask: whether an `attention_mask` is to be passed.
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
    _refuse_device(options)
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


def refuse_unloadable(name: str | Path, options: ModelOptions | None = None) -> None:
    """Refuse a model that cannot be loaded, as far as that shows without reading a weight.

    Raises:
        InputError: as of `load`.
    """
    options = options or ModelOptions()
    source = _locate(str(name))
    found = _without_weights(source, options, head=False)
    if found is None:
        return
    model, report = found
    _refuse_fresh_weights(_core(model), model, report, source)
    if getattr(model, "main_input_name", "input_ids") != "pixel_values":
        _load_tokenizer(source, options)


def holds_head(name: str | Path, options: ModelOptions | None = None) -> bool:
    """Whether a checkpoint holds the weights of the class that its config names, head and all.

    No weight is read. True where only loading the model would tell.
    """
    found = _without_weights(_locate(str(name)), options or ModelOptions(), head=True)
    return found is None or not _fresh_weights(found[0], *found)


def _without_weights(
    source: _Source, options: ModelOptions, *, head: bool
) -> tuple[nn.Module, dict[str, Any]] | None:
    """Return a model without its weights, and what its checkpoint lacks; None if only loading tells.

    Raises:
        InputError: files are missing.
    """
    if source.gguf_file:
        return None
    kind = _class_to_load(source, options, head=head)

    def load_it() -> tuple[nn.Module, dict[str, Any]] | None:
        try:
            found: tuple[nn.Module, dict[str, Any]] = kind.from_pretrained(
                source.path,
                revision=options.revision,
                trust_remote_code=options.trust_remote_code,
                output_loading_info=True,
                device_map={"": "meta"},
            )
        except OSError:
            raise
        except Exception:  # quantized weights, or code of its own, that do without weights badly
            return None
        return found

    return cast("tuple[nn.Module, dict[str, Any]] | None", _explained(source, load_it))


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
        padding=architecture.padding,
        mask=architecture.mask,
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
            config_fingerprint=config_fingerprint(config),
        ),
    )


def non_finite_states(backbone: Backbone, where: str = "", more: str = "") -> NonFiniteError:
    """Return the error for hidden states that are NaN or infinite, with what can be done about it.

    Args:
        backbone: the model that gave them.
        where: the place in it, for the message.
        more: what else to try where the weights are sound.
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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model without dropout and gradients; on leaving, everything is as it was found.

    That is the mode and the hooks of every module, the kind of attention, the modes of autograd, and
    the random states of torch, numpy and Python. Enter it for one forward pass: a generator that yields
    inside would leave its caller in these modes.

    `no_grad` rather than `inference_mode`: a tensor made in inference mode can never take part in a
    derivative, neither a state that is handed out nor a buffer that the model makes in this pass and
    keeps (rotary angles for a longer text), on which a later training step would fail.
    """
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        _random_states_kept(),
        modules_kept(model) as modules,
    ):
        # Not by `eval()`: some models do more in it (LoRA merges weights), which no flag undoes.
        for module in modules:
            if module.training:
                module.training = False
        yield


@contextmanager
def modules_kept(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Give the modules of a model; on leaving, put back the mode, hooks and kind of attention of each.

    transformers hangs hooks of its own on a model when hidden states are first asked for, and BigBird
    changes to full attention for good at the first short text.
    """
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    hooked = {key for hooks in _hooks_of(modules) for key in hooks}
    unmarked = [module for module in modules if _RECORDING not in module.__dict__]
    attention = [
        (module, module.attention_type, dict(module._modules))
        for module in modules
        if hasattr(module.__class__, "set_attention_type")
    ]
    try:
        yield modules
    finally:
        for module in training:
            module.training = True
        for hooks in _hooks_of(modules):
            for key in hooks.keys() - hooked:
                del hooks[key]
        for module in unmarked:
            module.__dict__.pop(_RECORDING, None)
        for module, kind, children in attention:
            module.attention_type = kind
            module._modules.update(children)


# By this attribute transformers knows that its hooks are on a model.
_RECORDING: Final = "_output_capturing_hooks_installed"


def _hooks_of(modules: list[nn.Module]) -> list[dict[int, Any]]:
    """Return the hooks of those modules that have any."""
    before = [module._forward_pre_hooks for module in modules if module._forward_pre_hooks]
    return before + [module._forward_hooks for module in modules if module._forward_hooks]


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Put the random states of torch (with those of GPUs in use), numpy and Python back on leaving."""
    python, array = random.getstate(), np.random.get_state()
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = range(torch.cuda.device_count() if in_use else 0)
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


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
        _refuse_no_gguf(path)
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


def _refuse_no_gguf(path: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(4)
    if start != b"GGUF":
        raise InputError(
            f"{path.name!r} is no GGUF file: its first bytes are {start!r}; check the download."
        )


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
        "ignore_mismatched_sizes": True,  # they are refused by the report, below
    }
    if source.gguf_file:
        _require("gguf", "gguf")
        arguments["gguf_file"] = source.gguf_file
    if options.device_map:
        arguments["device_map"] = options.device_map
    kind = _class_to_load(source, options, head=head)
    model, report = _explained(
        source,
        lambda: kind.from_pretrained(source.path, **arguments),
        partial(_unreadable_weights, source),
    )
    _refuse_other_shapes(report, source)
    _refuse_fresh_weights(model if head else _core(model), model, report, source)
    _drop_fresh_pooler(model, report)
    placed = options.device_map or (getattr(model, "is_quantized", False) and not source.gguf_file)
    return model if placed else _move(model, options.device)


def _auto(name: str) -> Any:
    import transformers

    return getattr(transformers, name, None)


def _class_to_load(source: _Source, options: ModelOptions, *, head: bool) -> Any:
    """Return the class to load; an encoder that was saved by itself (T5Gemma's) has one of its own."""
    if source.gguf_file and not head:
        return _auto("AutoModel")
    named = _class_with_head(source, options)
    alone = getattr(named, "__name__", "").endswith("EncoderModel")
    return named if head or alone else _auto("AutoModel")


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
        partial(_unreadable_tokenizer, source, options),
    )
    # Where no vocabulary is found transformers makes an empty tokenizer, which reads every text alike.
    empty = set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens)
    if empty or (tokenizer.vocab_files_names and _lacks_a_vocabulary(source)):
        raise _no_tokenizer(source)
    return tokenizer


def _no_tokenizer(source: _Source) -> InputError:
    return InputError(
        f"{source.label!r} comes without a tokenizer; save the one it was trained with beside it."
    )


def _lacks_a_vocabulary(source: _Source) -> bool:
    """Whether a local folder holds no file that a tokenizer could be made of."""
    folder = Path(source.path)
    return (
        source.gguf_file is None
        and folder.is_dir()
        and not any(
            file.name in _VOCABULARIES or file.suffix in _VOCABULARY_ENDS
            for file in folder.iterdir()
        )
    )


def _unreadable_tokenizer(source: _Source, options: ModelOptions, error: Exception) -> InputError:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if reason := _json_trouble(_file_of(source, options, name)):
            return InputError(
                f"the {name} of {source.label!r} is damaged or was cut off (no JSON: {reason}); copy or "
                "download it again."
            )
    if _lacks_a_vocabulary(source):
        return _no_tokenizer(source)
    return InputError(
        f"the tokenizer of {source.label!r} cannot be loaded ({type(error).__name__}: "
        f"{_in_one_line(error)}); save the one it was trained with beside it."
    )


def _file_of(source: _Source, options: ModelOptions, name: str) -> Path | None:
    """Return a model's file on this machine, None if it is not there."""
    if Path(source.path).is_dir():
        return Path(source.path, name)
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(source.path, name, revision=options.revision, local_files_only=True)
    except OSError:
        return None
    return Path(found) if found else None


def _json_trouble(path: Path | None) -> str:
    """Return why a file is no JSON, "" if it is, or is not there."""
    try:
        if path is not None and path.is_file():
            json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return str(error)
    return ""


def _unreadable_weights(source: _Source, error: Exception) -> InputError | None:
    from safetensors import SafetensorError

    if source.gguf_file:
        return _unreadable_gguf(Path(source.path, source.gguf_file), error)
    if isinstance(error, SafetensorError):
        return InputError(
            f"the weights of {source.label!r} are damaged or were cut off ({_in_one_line(error)}); copy "
            "or download them again."
        )
    return None


def _unreadable_gguf(path: Path, error: Exception) -> InputError | None:
    """Return what is wrong with a file itself, None if it reads well and the fault is another."""
    from gguf import GGUFReader

    try:
        GGUFReader(path)
    except Exception:  # it raises whatever its arrays and unpackers raise
        return InputError(
            f"the GGUF file {path.name!r} is damaged or was cut off after {path.stat().st_size} bytes "
            f"({_in_one_line(error)}); copy or download it again."
        )
    return None


def _in_one_line(error: Exception, length: int = 200) -> str:
    """Return what an error says, on one line and not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= length else f"{text[:length]}...").rstrip(".:")


def _explained(
    source: _Source,
    load_it: Callable[[], Any],
    diagnose: Callable[[Exception], InputError | None] = lambda _error: None,
) -> Any:
    """Call a transformers loader; turn what it raises into one sentence of ours.

    Args:
        source: what is loaded.
        load_it: the loader.
        diagnose: looks at the files for the cause, where no general one is known.
    """
    try:
        return load_it()
    except Exception as error:  # a broken checkpoint raises whatever its reader raises
        text = str(error)
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        if NEEDS_TRUST in text:
            raise InputError(
                f"{source.label!r} comes with code of its own, which layerscope does not run unasked; "
                "pass --trust-remote-code if you trust it."
            ) from error
        if isinstance(error, OSError) and not Path(source.path).exists():
            raise InputError(
                f"no model {source.label!r}: it is neither a local folder nor a model that the hub "
                f"gives (offline, misspelled, private or gone): {first}"
            ) from error
        if found := diagnose(error):
            raise found from error
        raise InputError(f"{source.label!r} cannot be loaded: {first.rstrip('.')}.") from error


def _refuse_other_shapes(report: dict[str, Any], source: _Source) -> None:
    """Refuse weights that do not fit the config, which transformers would leave at a random start."""
    if other := sorted(str(key[0]) for key in report.get("mismatched_keys", ())):
        raise InputError(
            f"{source.label!r} cannot be loaded: {len(other)} of its weights have other shapes than its "
            f"config.json says (such as {other[0]!r})."
        )


def _refuse_fresh_weights(
    part: nn.Module, model: nn.Module, report: dict[str, Any], source: _Source
) -> None:
    """Refuse a checkpoint that leaves weights of a part of the model at their random start."""
    missing = _fresh_weights(part, model, report)
    if missing:
        raise InputError(
            f"{source.label!r} lacks {len(missing)} weights of a {type(model).__name__} "
            f"(such as {missing[0]!r}), which would stay random; the checkpoint is incomplete."
        )


def _fresh_weights(part: nn.Module, model: nn.Module, report: dict[str, Any]) -> list[str]:
    """Return the weights of a part of a model that its checkpoint lacks, but for a pooler's."""
    used = {id(weight) for weight in part.parameters()}
    needed = {name for name, weight in model.named_parameters() if id(weight) in used}
    lacking = needed.intersection(report.get("missing_keys", ()))
    return sorted(key for key in lacking if "pooler" not in key)


def _drop_fresh_pooler(model: nn.Module, report: dict[str, Any]) -> None:
    """Take out a pooler that the checkpoint lacks: random, it would change the weights' fingerprint.

    No hidden state goes through it, and a checkpoint of a masked language model has none.
    """
    core: Any = _core(model)
    if any("pooler" in name for name in report.get("missing_keys", ())) and hasattr(core, "pooler"):
        core.pooler = None


def _refuse_device(options: ModelOptions) -> None:
    """Refuse, before the weights are read, a device that is not there."""
    if options.device != "auto" and not options.device_map:
        with _on(options.device):
            torch.empty(0, device=options.device)


def _move(model: nn.Module, device: str) -> nn.Module:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with _on(device):
        return model.to(device)


@contextmanager
def _on(device: str) -> Iterator[None]:
    """Turn what torch raises about a device into one sentence."""
    try:
        yield
    except (RuntimeError, AssertionError, ImportError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"the device {device!r} cannot be used here: {first}.") from error


def _require(module: str, extra: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"this needs an extra; install it with: pip install 'layerscope[{extra}]'."
        )


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
    How it is to be called, so that a text has the same states in every batch, is measured.

    Raises:
        InputError: no such list, the model's own hidden states say otherwise, or no way to call it gives
            a text states that are its own.
    """
    path = longest_block_list(core)
    blocks = tuple(core.get_submodule(path).children())
    trial = _Trial(core, blocks)
    reported, last, seen = _states_both_ways(trial)
    hooked = [seen[id(block)][1] for block in blocks if id(block) in seen]
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
    if last.shape[-1] != hooked[-1].shape[-1]:  # Reformer's two streams
        raise InputError(
            f"{trial.name} gives out states of {last.shape[-1]} dimensions where its blocks hand on "
            f"{hooked[-1].shape[-1]}, so that its output is no layer's state; its layers cannot be read."
        )
    raw = _equal(reported[-1], hooked[-1])
    given = last if raw else reported[-1]  # CLIP's list ends before its norm
    norm = None
    if not _equal(given, hooked[-1]):
        norm = _module_between(core, hooked[-1], given, seen)
        if norm is None and not raw:
            raise refusal
    return measured_calls(core, blocks, Architecture(path, norm))


def _states_both_ways(
    trial: _Trial,
) -> tuple[list[Tensor], Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """Run a short input: the states the model reports, its output, what entered and left its modules."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        state = output[0] if isinstance(output, tuple | list) else output
        entered = inputs[0] if inputs and isinstance(inputs[0], Tensor) else torch.empty(0)
        # Llama 4's rotations are complex
        if isinstance(state, Tensor) and state.is_floating_point():
            seen[id(module)] = trial.cropped(entered.float()), trial.cropped(state.float())

    core, blocks = trial.core, trial.blocks
    inside = {id(module) for block in blocks for module in block.modules()}
    watched = [m for m in core.modules() if id(m) not in inside and m is not core] + list(blocks)
    handles = [module.register_forward_hook(keep) for module in watched]
    try:
        named = (
            {"return_dict": True} if trial.takes("return_dict") else {}
        )  # DPR's is a tuple by default
        output = trial.run(trial.inputs([trial.texts[0]]), output_hidden_states=True, **named)
    finally:
        for handle in handles:
            handle.remove()
    reported = getattr(output, "hidden_states", None) or ()
    return (
        [state.float() for state in reported if isinstance(state, Tensor)],
        output[0].float(),
        seen,
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def _all_equal(pairs: Any) -> bool:
    return all(_equal(one, other) for one, other in pairs)


def _module_between(
    core: nn.Module, before: Tensor, after: Tensor, seen: dict[int, tuple[Tensor, Tensor]]
) -> str | None:
    """Return the path of the first module outside the blocks that makes one state of the other."""
    for path, module in core.named_modules():
        entered, left = seen.get(id(module), (before, before))
        if _equal(entered, before) and _equal(left, after):
            return str(path)
    return None


# --- how a model is called, measured -----------------------------------------------------------

# How far two ways to one state may part by rounding alone, as a share of the state's own size. Wrong
# masks, norms and orders part by a tenth and more; 30 blocks in bfloat16 round by a twentieth at the
# worst token. Other formats get float32's: in float64 too, transformers computes norms and rotary angles
# in float32.
TOLERANCES: Final[Mapping[str, float]] = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
# The same where the padding alone is another, which changes no shape: of most models not one bit may
# differ. Where rounding still does (experts, by the number of their tokens), texts of one length together
# are slower, but not wrong.
_UNTOUCHED: Final = 1e-3
_SHORT, _LONG = 5, 40  # tokens of the texts that are tried


def measured_calls(
    core: nn.Module, blocks: tuple[nn.Module, ...], architecture: Architecture
) -> Architecture:
    """Return a layout with `positions`, `padding` and `mask` as a model needs them, by trying.

    A short and a long text run together, padded on either side, and each of them alone: the states must
    be the same. They must also stay the same when other ids stand in the padding, which shows mixing that
    is smaller than the rounding of half precision.

    Raises:
        InputError: states that another random state, or another text of the same length, changes.
    """
    trial = _Trial(core, blocks)
    trial.refuse_restless()
    found: list[Architecture] = []
    positions: tuple[Positions, ...] = ("given", "own") if trial.takes("position_ids") else ("own",)
    for each in positions:
        called = replace(architecture, positions=each, mask=trial.takes("attention_mask"))
        if trial.keeps(called, [1]):
            found.append(replace(called, padding=trial.padding(called)))
        if found and found[-1].padding == "both":
            break
    if not found:
        raise InputError(
            f"{trial.name} gives a text other states when its attention mask is given, all of it ones; "
            "its states cannot be read for certain."
        )
    best = max(found, key=lambda each: ("none", "right", "both").index(each.padding))
    if not trial.keeps(best, [1, 2]):
        raise InputError(
            f"{trial.name} gives a text other states when another text of the same length is in its "
            "batch; its states cannot be read for certain."
        )
    return best


class _Trial:
    """Texts of ordinary tokens to try a model on: a short one and two longer ones.

    Attributes:
        texts: their token ids.
        fillers: two ids that stand in the padding.
    """

    def __init__(self, core: nn.Module, blocks: tuple[nn.Module, ...]) -> None:
        config: Any = core.config
        self.core, self.blocks, self.name = core, blocks, type(core).__name__
        self.device = next(core.parameters()).device
        dtype = str(next(core.parameters()).dtype).removeprefix("torch.")
        self.tolerance = TOLERANCES.get(dtype, TOLERANCES["float32"])
        special = [
            value for name, value in config.to_dict().items() if name.endswith(("_id", "_index"))
        ]
        size = int(getattr(config, "vocab_size", 0) or 1000)
        ordinary = [token for token in range(size - 1, -1, -1) if token not in special][:64] or [0]
        room = int(getattr(config, "max_position_embeddings", 0) or 0) - 4
        longer = min(_LONG, room) if room > _SHORT else _LONG
        count = iter(range(_SHORT + 2 * longer))
        self.texts = [
            [ordinary[next(count) % len(ordinary)] for _ in range(length)]
            for length in (_SHORT, longer, longer)
        ]
        named = getattr(config, "pad_token_id", None)
        self.fillers = (named if isinstance(named, int) and named >= 0 else 0, ordinary[0])
        self.alone: dict[int, list[Tensor]] = {}

    def takes(self, argument: str) -> bool:
        """Whether the model's `forward` names an argument."""
        return argument in inspect.signature(self.core.forward).parameters

    def inputs(self, texts: list[list[int]]) -> dict[str, Any]:
        """Return the inputs for texts of one length as a model's own documentation has them."""
        return inputs_of(self.core, torch.tensor(texts, device=self.device))

    def run(self, inputs: dict[str, Any], **options: Any) -> Any:
        """Call the model and return its output.

        Raises:
            InputError: it does not run on these inputs.
        """
        try:
            with evaluating(self.core):
                return self.core(**inputs, **options)
        except Exception as error:  # a model raises anything for inputs that it cannot take
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{self.name} is not in layerscope's table of architectures and does not run on a short "
                f"text input, so its layers cannot be told apart: {first.rstrip('.')}."
            ) from error

    def cropped(self, state: Tensor, tokens: int = _SHORT) -> Tensor:
        """Return states without the tokens that the model itself put behind the text."""
        return state[:, :tokens] if state.ndim == 3 and state.shape[1] > tokens else state

    def states(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Return what enters block 1, what leaves each block and the output, each (text, token, dim).

        Raises:
            InputError: one of them has another shape.
        """
        seen: list[Any] = []

        def enter(_module: nn.Module, args: Any, named: dict[str, Any]) -> None:
            seen.append(args[0] if args else named.get("hidden_states"))

        def leave(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.append(output[0] if isinstance(output, tuple | list) else output)

        handles = [self.blocks[0].register_forward_pre_hook(enter, with_kwargs=True)]
        handles += [block.register_forward_hook(leave) for block in dict.fromkeys(self.blocks)]
        try:
            seen.append(self.run(inputs)[0])
        finally:
            for handle in handles:
                handle.remove()
        rows, tokens = inputs["input_ids"].shape
        for state in seen:
            shape = tuple(state.shape) if isinstance(state, Tensor) else ()
            if len(shape) != 3 or shape[0] != rows or shape[1] < tokens:
                raise InputError(
                    f"{self.name} hands its blocks {shape or type(state).__name__} for {rows} texts of "
                    f"{tokens} tokens, not a state for each token; its layers cannot be read."
                )
        return [self.cropped(state.float(), tokens) for state in seen]

    def own(self, text: int) -> list[Tensor]:
        """Return the states of one text alone, as the model's own documentation calls it."""
        if text not in self.alone:
            self.alone[text] = [
                state[0].cpu() for state in self.states(self.inputs([self.texts[text]]))
            ]
        return self.alone[text]

    def together(
        self, called: Architecture, texts: list[int], side: str = "right", filler: int = 0
    ) -> list[list[Tensor]]:
        """Return the states of each of some texts from one batch."""
        lengths = [len(self.texts[text]) for text in texts]
        width = max(lengths)
        ids = torch.full((len(texts), width), self.fillers[filler])
        real, places = torch.zeros(ids.shape, dtype=torch.bool), torch.zeros_like(ids)
        for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            place = slice(0, length) if side == "right" else slice(width - length, width)
            ids[row, place], real[row, place] = torch.tensor(self.texts[text]), True
            places[row, place] = torch.arange(length)
        found = self.states(
            inputs_of(
                self.core,
                ids.to(self.device),
                real.to(self.device) if called.mask else None,
                places.to(self.device) if called.positions == "given" else None,
            )
        )
        return [[state[row].cpu()[real[row]] for state in found] for row in range(len(texts))]

    def keeps(self, called: Architecture, texts: list[int], side: str = "right") -> bool:
        """Whether each of some texts has the states in a batch of them that it has alone."""
        try:
            found = self.together(called, texts, side)
            others = self.together(called, texts, side, filler=1) if side == "right" else found
        except InputError:
            return False
        alone = [self.own(text) for text in texts]
        return all(map(self.same, found, alone)) and all(
            self.same(*pair, min(_UNTOUCHED, self.tolerance / 10))
            for pair in zip(found, others, strict=True)
        )

    def padding(self, called: Architecture) -> Padding:
        """Return the sides on which padding changes nothing."""
        # BigBird's attention is sparse from some hundred tokens on, padding counted: no short text
        # shows that.
        if getattr(self.core, "attention_type", "") == "block_sparse":
            return "none"
        if not self.keeps(called, [0, 1]):
            return "none"
        return "both" if self.keeps(called, [0, 1], side="left") else "right"

    def same(
        self, found: list[Tensor], expected: list[Tensor], tolerance: float | None = None
    ) -> bool:
        """Whether states are the same, by default but for rounding."""
        allowed = self.tolerance if tolerance is None else tolerance
        return all(
            one.shape == other.shape and _apart(one, other) <= allowed
            for one, other in zip(found, expected, strict=True)
        )

    def refuse_restless(self) -> None:
        """Raise an InputError if the states depend on random numbers."""
        found = []
        for seed in range(2):
            with _random_states_kept():
                torch.manual_seed(seed)
                np.random.seed(seed)
                random.seed(seed)
                found.append(self.states(self.inputs([self.texts[1]])))
        if not self.same(found[0], found[1]):
            raise InputError(
                f"{self.name} draws random numbers when it runs, so that a text has other states each "
                "time; its layers cannot be read."
            )


def _apart(found: Tensor, expected: Tensor) -> float:
    """Return how far two states (..., token, dim) part at the worst token, as a share of its norm.

    Of the median norm where that is greater; infinite where a number is not finite.
    """
    sizes = expected.norm(dim=-1)
    scale = sizes.clamp(min=max(float(sizes.median()), torch.finfo(sizes.dtype).tiny))
    gap = float(((found - expected).norm(dim=-1) / scale).max())
    return gap if math.isfinite(gap) else math.inf


def inputs_of(
    model: nn.Module, ids: Tensor, real: Tensor | None = None, positions: Tensor | None = None
) -> dict[str, Any]:
    """Return what a model is called with.

    Args:
        model: the model.
        ids: (text, token) token ids.
        real: (text, token), True where a token is not padding; None gives no mask.
        positions: (text, token) position ids; None gives none.
    """
    inputs: dict[str, Any] = {"input_ids": ids}
    if real is not None:
        inputs["attention_mask"] = real.long()
    if positions is not None:
        inputs["position_ids"] = positions
    if hasattr(model.config, "use_cache"):
        inputs["use_cache"] = False
    return inputs


# --- fingerprints ------------------------------------------------------------------------------


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
