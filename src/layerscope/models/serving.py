"""How a sentence-transformers source makes vectors of token states, so that what is measured is served.

Read from the files of a folder or of the hub, or from a `SentenceTransformer` object; that library itself
is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from layerscope.config import FirstToken, Pooling
from layerscope.errors import InputError
from layerscope.settings import EvaluateConfig, VectorConfig

_MODES: Final = {
    "mean": Pooling.MEAN,
    "cls": Pooling.FIRST,
    "max": Pooling.MAX,
    "lasttoken": Pooling.LAST,
    "weightedmean": Pooling.WEIGHTED_MEAN,
}
_LIBRARY_FILE: Final = "config_sentence_transformers.json"
# Files with the length limit, by the age of the model.
_AGES: Final = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_TRANSFORMER_FILES: Final = tuple(f"sentence_{name}_config.json" for name in _AGES)
# Settings that a source may decide where they are left open, and the one that forbids it.
LEFT_OPEN: Final = (
    "pooling", "special_tokens", "prompt", "first_token", "max_length", "as_tokens",
)  # fmt: skip
_PLAIN: Final = {"pooling": Pooling.MEAN, "special_tokens": False, "normalize": False, "prompt": ""}
_WITHOUT_EFFECT: Final = ("Transformer", "Pooling", "Normalize", "Dropout")

Settings = TypeVar("Settings", bound=VectorConfig)


@dataclass(frozen=True)
class Serving:
    """How a sentence-transformers model makes a vector of the token states of its transformer.

    Attributes:
        pooling: its own, over all tokens that are no padding; None where none of ours is the same.
        normalize: whether vectors are scaled to unit length.
        prompts: name -> what is put before a text.
        default_prompt: what is put before every text of which nothing else is said.
        max_length: tokens that a text is cut to; None for what the tokenizer says.
        prompt_counts: whether tokens of a prompt are pooled.
        others: kinds of its modules that have no counterpart among settings, such as Dense.
    """

    pooling: Pooling | None
    normalize: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    max_length: int | None = None
    prompt_counts: bool = True
    others: tuple[str, ...] = ()

    def prompt(self, named: str | None, *, query: bool = False, document: bool = False) -> str:
        """Return what is put before a text.

        Args:
            named: the prompt of a task that mteb's own order of names finds, or None.
            query: whether the text is a query of a search.
            document: whether it is what is searched.
        """
        names = [named] if named else []
        names += ["query"] if query else []
        names += ["document", "passage", "corpus"] if document else []
        return next((self.prompts[n] for n in names if n in self.prompts), self.default_prompt)


def serving_of(source: Any) -> Serving:
    """Return how a `SentenceTransformer` object makes vectors."""
    modules = [(type(each).__name__, _config_of(each)) for each in source]
    library = {"prompts": source.prompts, "default_prompt_name": source.default_prompt_name}
    first = next(iter(source))
    transformer = {
        "max_seq_length": source.max_seq_length,
        "do_lower_case": getattr(first, "do_lower_case", False),
    }
    return _serving(modules, library, transformer)


def _config_of(module: Any) -> dict[str, Any]:
    return dict(module.get_config_dict()) if hasattr(module, "get_config_dict") else {}


def read_serving(name: str | Path, revision: str | None = None) -> Serving | None:
    """Return how a sentence-transformers model makes vectors; None if the name is of no such model.

    Raises:
        InputError: its files cannot be read.
    """
    kinds = module_kinds(name, revision)
    if kinds is None:
        return None
    modules = [
        (kind, _dict(_read(name, f"{path}/config.json", revision)) if kind == "Pooling" else {})
        for kind, path in kinds
    ]
    folder = next((path for kind, path in kinds if kind == "Transformer"), "")
    before = f"{folder}/" if folder else ""
    read = (_read(name, f"{before}{file}", revision) for file in _TRANSFORMER_FILES)
    transformer: Any = next((each for each in read if each is not None), None)
    return _serving(modules, _dict(_read(name, _LIBRARY_FILE, revision)), _dict(transformer))


def module_kinds(name: str | Path, revision: str | None = None) -> list[tuple[str, str]] | None:
    """Return the kind and folder of each module of a sentence-transformers model, None for another model.

    Raises:
        InputError: its list of modules cannot be read.
    """
    path = module_file(name, "modules.json", revision)
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [(str(m.get("type", "")).rsplit(".", 1)[-1], str(m.get("path", ""))) for m in found]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}.") from error


def module_file(name: str | Path, file: str, revision: str | None = None) -> Path | None:
    """Return a file of a model, a local folder or one of the hub; None if it is not there."""
    path = Path(name).expanduser()
    if path.exists():
        return path / file if (path / file).is_file() else None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(str(name), file, revision=revision)
    except OSError:  # not there, or the hub cannot be asked
        return None
    return Path(found) if found else None


def _read(name: str | Path, file: str, revision: str | None) -> Any:
    path = module_file(name, file, revision)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}.") from error


def _dict(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _serving(
    modules: Iterable[tuple[str, Mapping[str, Any]]],
    library: Mapping[str, Any],
    transformer: Mapping[str, Any],
) -> Serving:
    kinds = dict(modules)
    pooling = kinds.get("Pooling", {})
    others = [kind for kind in kinds if kind not in _WITHOUT_EFFECT]
    if transformer.get("do_lower_case"):
        others.append("lower-casing")
    prompts = {name: str(text or "") for name, text in _dict(library.get("prompts")).items()}
    return Serving(
        pooling=_pooling(pooling) if "Pooling" in kinds else None,
        normalize="Normalize" in kinds,
        prompts=prompts,
        default_prompt=prompts.get(str(library.get("default_prompt_name")), ""),
        max_length=transformer.get("max_seq_length"),
        prompt_counts=bool(pooling.get("include_prompt", True)),
        others=tuple(others),
    )


def _pooling(config: Mapping[str, Any]) -> Pooling | None:
    """Return the pooling of a config, by one name or by a flag a kind; None for several at once."""
    given = config.get("pooling_mode")
    if given is None:
        kinds = ("cls", "mean", "max", "mean_sqrt_len", "weightedmean", "lasttoken")
        given = [k for k in kinds if config.get(f"pooling_mode_{k}_tokens")]
        given += [k for k in ("cls", "lasttoken") if config.get(f"pooling_mode_{k}_token")]
        given += ["lasttoken"] if config.get("pooling_mode_lasttoken") else []
    names = [given] if isinstance(given, str) else list(dict.fromkeys(given))
    return _MODES.get(names[0]) if len(names) == 1 else None


def as_served(settings: Settings, serving: Serving | None) -> tuple[Settings, list[str]]:
    """Return settings with what was left open decided, and what there is to say of it.

    What the settings leave open is as the source serves its vectors; where there is no such source, or
    `as_tokens` asks for it, vectors are the mean over all but special tokens.

    Raises:
        InputError: a prompt whose tokens the source does not pool.
    """
    if serving is None or settings.as_tokens:
        return _filled(settings, _PLAIN), []
    if why := _obstacle(serving):
        said = f"{why}: vectors are means over all but special tokens, not as the model is served."
        return _filled(settings, _PLAIN), [said]
    _refuse_uncounted_prompt(serving, settings)
    by_task = isinstance(settings, EvaluateConfig) and any(serving.prompts.values())
    found = _filled(
        settings,
        {
            "pooling": serving.pooling,
            "special_tokens": True,
            "normalize": serving.normalize,
            "prompt": None if by_task else serving.default_prompt,
        },
    )
    first = FirstToken.KEEP if settings.first_token is FirstToken.AUTO else settings.first_token
    limit = min(settings.max_length, serving.max_length or settings.max_length)
    return found.changed(first_token=first, max_length=limit), _notes(serving)


def _filled(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return settings with values where they are None; a config may lack some of the fields."""
    open_ones = (name for name in values if getattr(settings, name, "") is None)
    return settings.changed(**{name: values[name] for name in open_ones})


def _obstacle(serving: Serving) -> str:
    """Return why no settings give the vectors that are served, or nothing."""
    before = [kind for kind in serving.others if kind not in ("Dense", "LayerNorm")]
    if before:
        return f"the source has {' and '.join(before)}, which a scan does not apply"
    return "" if serving.pooling else "the source pools in a way that is none of the poolings"


def _notes(serving: Serving) -> list[str]:
    pooled = f"{serving.pooling.value if serving.pooling else ''} pooling over all tokens"
    prompt = f", the prompt {serving.default_prompt!r}" if serving.default_prompt else ""
    unit = ", unit length" if serving.normalize else ""
    notes = [
        f"Vectors as the source serves them: {pooled}{prompt}{unit}; --as-tokens for bare means."
    ]
    if serving.others:
        notes.append(
            f"The source's {' and '.join(serving.others)} follows pooling and is left out: it was "
            "trained for the last layer alone."
        )
    return notes


def _refuse_uncounted_prompt(serving: Serving, settings: VectorConfig) -> None:
    prompts = [serving.default_prompt, *serving.prompts.values()]
    used = any(prompts) if settings.prompt is None else bool(settings.prompt)
    if used and not serving.prompt_counts:
        raise InputError(
            "the source leaves the tokens of its prompts out when it pools, which a scan cannot do; pass "
            "an empty --prompt '' or --as-tokens."
        )
