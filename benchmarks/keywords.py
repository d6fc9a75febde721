"""Write `api/keywords.py`: the settings of every public function as a TypedDict, from the configs.

Run: `python -m benchmarks.keywords`. A test compares the file with what this would write.
"""

from __future__ import annotations

import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from layerscope.config import Accepts, Config, To
from layerscope.settings import (
    CutConfig,
    EngineConfig,
    EvaluateConfig,
    FewTextsConfig,
    HubConfig,
    LiveScanConfig,
    ModelOptions,
    PlotConfig,
    PruneConfig,
    RankConfig,
    ReadingConfig,
    ScanConfig,
)

PATH = Path(__file__).resolve().parents[1] / "src" / "layerscope" / "api" / "keywords.py"
FUNCTIONS: dict[str, tuple[type[Config], ...]] = {
    "ScanSettings": (ScanConfig, ReadingConfig, ModelOptions),
    "LiveScanSettings": (LiveScanConfig, ReadingConfig),
    "EvaluateSettings": (EvaluateConfig, ModelOptions),
    "CutSettings": (CutConfig, ReadingConfig, ModelOptions, HubConfig),
    "PruneSettings": (PruneConfig, ReadingConfig, ModelOptions, HubConfig),
    "RankSettings": (RankConfig, ReadingConfig, ModelOptions),
    "DoctorSettings": (FewTextsConfig, ModelOptions),
    "PlotSettings": (PlotConfig,),
    "StudySettings": (EngineConfig,),
}
HEAD = '''"""Settings as keyword arguments, for editors and type checkers.

Made from the configs by `python -m benchmarks.keywords`; change those, not this file.
"""

# ruff: noqa: D101

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import torch

    from layerscope.config import Augmentation, FirstToken, NonFinite, Pooling
'''


def given(annotation: Any) -> str:
    """Return the type of what a caller may give for a setting, as source."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        facts = arguments[1:]
        wider = [fact.type for fact in facts if isinstance(fact, Accepts)]
        turned = [given(fact.kind) for fact in facts if isinstance(fact, To)]
        return (*wider, *turned, given(arguments[0]))[0]
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(given(each) for each in arguments))
    if origin is tuple:
        return f"{given(arguments[0])} | Iterable[{given(arguments[0])}]"
    return plain(annotation, origin, arguments)


def plain(annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> str:
    """Return the source of a type without alternatives."""
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is dict:
        return f"dict[{given(arguments[0])}, {given(arguments[1])}]"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return (
            f"{annotation.__name__} | Literal[{', '.join(repr(each.value) for each in annotation)}]"
        )
    return "None" if annotation is NoneType else getattr(annotation, "__name__", "Any")


def of_config(config: type[Config]) -> str:
    """Return the class with the settings of one config."""
    base = parent(config)
    known = base.model_fields if base else {}
    lines = [
        f"    {name}: {given(field.rebuild_annotation())}"
        for name, field in config.model_fields.items()
        if name not in known
    ]
    inherited = keywords(base) if base else "TypedDict"
    return "\n".join(
        [f"class {keywords(config)}({inherited}, total=False):", *(lines or ["    pass"])]
    )


def parent(config: type[Config]) -> type[Config] | None:
    """Return the config that a config extends, None where it extends the base of all."""
    base = config.__base__
    return base if base is not None and base is not Config and issubclass(base, Config) else None


def with_parents(config: type[Config]) -> list[type[Config]]:
    """Return a config after those that it extends."""
    base = parent(config)
    return [*(with_parents(base) if base else []), config]


def keywords(config: type[Config]) -> str:
    """Return the name of the class with the settings of one config."""
    return f"{config.__name__}Keywords"


def source() -> str:
    """Return the module's text, formatted as the project's tool does."""
    parts = [HEAD]
    configs = dict.fromkeys(
        each
        for several in FUNCTIONS.values()
        for config in several
        for each in with_parents(config)
    )
    parts += [of_config(config) for config in configs]
    for name, several in FUNCTIONS.items():
        bases = ", ".join(keywords(config) for config in several)
        parts.append(f"class {name}({bases}, total=False):\n    pass")
    tool = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(PATH), "-"]
    text = "\n\n\n".join(parts) + "\n"
    return subprocess.run(tool, input=text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Write the module."""
    PATH.write_text(source(), encoding="utf-8")


if __name__ == "__main__":
    main()
