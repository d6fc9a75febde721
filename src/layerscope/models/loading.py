"""Load a model by name: a hub id, a local folder, a GGUF file or a sentence-transformers folder.

All sources are normalized to a `Backbone`. Heads are never run; an encoder-decoder gives its encoder.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import nn

from layerscope.errors import InputError
from layerscope.models.backbone import Backbone, backbone_of, core_of
from layerscope.models.devices import move, refuse_device
from layerscope.models.inputs import reads_images
from layerscope.models.processing import load_processor
from layerscope.models.serving import module_kinds, read_serving
from layerscope.settings import ModelOptions

# The word in transformers' errors about code in a checkpoint, which have no type of their own.
NEEDS_TRUST: Final = "trust_remote_code"
# Files of which a tokenizer needs one, and the ends of the names of others.
_VOCABULARIES: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json")
_VOCABULARY_ENDS: Final = (".model", ".spm", ".tiktoken")
_VAGUE_NAMES: Final = {"model", "checkpoint", "main", "out", "hf"}


def load(
    name: str | Path,
    options: ModelOptions | None = None,
    *,
    head: bool = False,
    images: bool = False,
) -> Backbone:
    """Load a model by name and find its layers.

    Args:
        name: hub id, local folder, GGUF file or sentence-transformers folder.
        options: how to load it.
        head: whether to load the checkpoint's head too (`Backbone.whole`).
        images: whether images are to be read, which needs an image processor.

    Raises:
        InputError: no such model, weights, tokenizer or image processor, or code that needs trust.
    """
    options = options or ModelOptions()
    source = _locate(str(name))
    refuse_device(options)
    model = _load_model(source, options, head=head, images=images)
    sees = reads_images(core_of(model, images=images))
    tokenizer = None if sees else _load_tokenizer(source, options)
    if images and sees:
        tokenizer = load_processor(source.path, source.label, options)
    revision = options.revision or getattr(model.config, "_commit_hash", None) or ""
    serving = None if sees or source.gguf_file else read_serving(name, options.revision)
    found = backbone_of(model, tokenizer, name=source.label, revision=revision, images=images)
    return replace(found, serving=serving)


def label_of(name: str | Path) -> str:
    """Return the name of a model in a run, before anything is loaded.

    Raises:
        InputError: a folder or a file that holds no model.
    """
    return _locate(str(name)).label


def refuse_unloadable(
    name: str | Path, options: ModelOptions | None = None, *, images: bool = False
) -> None:
    """Refuse a model that cannot be loaded, as far as this shows without reading weights.

    Raises:
        InputError: as for `load`.
    """
    options = options or ModelOptions()
    source = _locate(str(name))
    found = _without_weights(source, options, head=False)
    if found is None:
        return
    model, report = found
    core = core_of(model, images=images)
    _refuse_fresh_weights(core, model, report, source)
    if not reads_images(core):
        _load_tokenizer(source, options)


def holds_head(name: str | Path, options: ModelOptions | None = None) -> bool:
    """Whether a checkpoint holds all weights of the class in its config, head included.

    No weight is read. True if only loading the model would show it.
    """
    found = _without_weights(_locate(str(name)), options or ModelOptions(), head=True)
    return found is None or not _fresh_weights(found[0], *found)


def _without_weights(
    source: _Source, options: ModelOptions, *, head: bool
) -> tuple[nn.Module, dict[str, Any]] | None:
    """Return a model without its weights, and what its checkpoint lacks; None if it has to be loaded.

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
        except Exception:  # quantized weights or custom code may not work without weights
            return None
        return found

    return cast("tuple[nn.Module, dict[str, Any]] | None", _explained(source, load_it))


@dataclass(frozen=True)
class _Source:
    """A resolved name: what transformers loads, and the label for people."""

    path: str
    label: str
    gguf_file: str | None = None


def _locate(name: str) -> _Source:
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"expected a GGUF file, found none at {name!r}.")
        with path.open("rb") as stream:
            start = stream.read(4)
        if start != b"GGUF":
            raise InputError(
                f"{path.name!r} is no GGUF file: its first bytes are {start!r}; check the download."
            )
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
    for kind, folder in module_kinds(path) or ():
        if kind == "Transformer":
            return folder
    raise InputError(f"the sentence-transformers folder {str(path)!r} has no Transformer module.")


def _load_model(
    source: _Source, options: ModelOptions, *, head: bool, images: bool = False
) -> nn.Module:
    arguments: dict[str, Any] = {
        "revision": options.revision,
        "dtype": _checkpoint_dtype(source, options),
        "trust_remote_code": options.trust_remote_code,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # refused below, by the report
    }
    if source.gguf_file:
        if importlib.util.find_spec("gguf") is None:
            raise InputError(
                "this needs an extra; install it with: pip install 'layerscope[gguf]'."
            )
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
    part = model if head else core_of(model, images=images)
    _refuse_fresh_weights(part, model, report, source)
    _drop_fresh_pooler(model, report)
    placed = options.device_map or (getattr(model, "is_quantized", False) and not source.gguf_file)
    return model if placed else move(model, options.device)


def _auto(name: str) -> Any:
    return getattr(importlib.import_module("transformers"), name, None)


def _class_to_load(source: _Source, options: ModelOptions, *, head: bool) -> Any:
    """Return the class to load; an encoder that was saved alone (T5Gemma) has its own class."""
    if source.gguf_file and not head:
        return _auto("AutoModel")
    named = _class_with_head(source, options)
    alone = getattr(named, "__name__", "").endswith("EncoderModel")
    return named if head or alone else _auto("AutoModel")


def _class_with_head(source: _Source, options: ModelOptions) -> Any:
    """Return the class that the checkpoint was saved as, or an auto class if it names none."""
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
    if options.dtype == "auto":  # a GGUF file is dequantized; float32 loses nothing
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
    # Without a vocabulary, transformers makes an empty tokenizer, to which all texts are the same.
    empty = set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens)
    if empty or (tokenizer.vocab_files_names and _lacks_a_vocabulary(source)):
        raise _no_tokenizer(source)
    return tokenizer


def _no_tokenizer(source: _Source) -> InputError:
    return InputError(
        f"{source.label!r} comes without a tokenizer; save the one it was trained with beside it."
    )


def _lacks_a_vocabulary(source: _Source) -> bool:
    """Whether a local folder holds no vocabulary file."""
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
        if reason := _json_trouble(source, options, name):
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


def _json_trouble(source: _Source, options: ModelOptions, name: str) -> str:
    """Return why a model's file is no JSON, "" if it is, or is not on this machine."""
    path = Path(source.path, name)
    if not Path(source.path).is_dir():
        from transformers.utils.hub import cached_file

        try:
            found = cached_file(source.path, name, revision=options.revision, local_files_only=True)
        except OSError:
            return ""
        path = Path(found or path)
    try:
        if path.is_file():
            json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return str(error)
    return ""


def _unreadable_weights(source: _Source, error: Exception) -> InputError | None:
    """Return what is wrong with a file itself, None if it reads well and the fault is another."""
    from safetensors import SafetensorError

    if source.gguf_file:
        from gguf import GGUFReader

        path = Path(source.path, source.gguf_file)
        try:
            GGUFReader(path)
        except Exception:  # it raises whatever its arrays and unpackers raise
            return InputError(
                f"the GGUF file {path.name!r} is damaged or was cut off after "
                f"{path.stat().st_size} bytes ({_in_one_line(error)}); copy or download it again."
            )
    elif isinstance(error, SafetensorError):
        return InputError(
            f"the weights of {source.label!r} are damaged or were cut off ({_in_one_line(error)}); copy "
            "or download them again."
        )
    return None


def _in_one_line(error: Exception, length: int = 200) -> str:
    """Return the message of an error, on one line and shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= length else f"{text[:length]}...").rstrip(".:")


def _explained(
    source: _Source,
    load_it: Callable[[], Any],
    diagnose: Callable[[Exception], InputError | None] = lambda _error: None,
) -> Any:
    """Call a transformers loader; turn its exception into an InputError of one sentence.

    Args:
        source: what is loaded.
        load_it: the loader.
        diagnose: inspects the files for the cause, if it is none of the general ones.
    """
    try:
        return load_it()
    except Exception as error:  # a broken checkpoint may raise anything
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
    """Refuse weights that do not fit the config, which transformers would leave randomly initialized."""
    if other := sorted(str(key[0]) for key in report.get("mismatched_keys", ())):
        raise InputError(
            f"{source.label!r} cannot be loaded: {len(other)} of its weights have other shapes than its "
            f"config.json says (such as {other[0]!r})."
        )


def _refuse_fresh_weights(
    part: nn.Module, model: nn.Module, report: dict[str, Any], source: _Source
) -> None:
    """Refuse a checkpoint that leaves weights of a part of the model randomly initialized."""
    missing = _fresh_weights(part, model, report)
    if missing:
        raise InputError(
            f"{source.label!r} lacks {len(missing)} weights of a {type(model).__name__} "
            f"(such as {missing[0]!r}), which would stay random; the checkpoint is incomplete."
        )


def _fresh_weights(part: nn.Module, model: nn.Module, report: dict[str, Any]) -> list[str]:
    """Return the weights of a part of a model that its checkpoint lacks, except for a pooler's."""
    used = {id(weight) for weight in part.parameters()}
    needed = {name for name, weight in model.named_parameters() if id(weight) in used}
    lacking = needed.intersection(report.get("missing_keys", ()))
    return sorted(key for key in lacking if "pooler" not in key)


def _drop_fresh_pooler(model: nn.Module, report: dict[str, Any]) -> None:
    """Remove a pooler that the checkpoint lacks: random, it would change the weights' fingerprint.

    No hidden state depends on it, and a checkpoint of a masked language model has none.
    """
    core: Any = core_of(model)
    if any("pooler" in name for name in report.get("missing_keys", ())) and hasattr(core, "pooler"):
        core.pooler = None
