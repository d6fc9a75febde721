"""What a cell can be: which command it runs, with which settings.

A new kind is one record. Its function returns a plan from plain values; the plan's `run()` gives a result
with a `run`, and its `estimate()` says what that would take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from layerscope import api
from layerscope.analysis.plan import chosen_measures
from layerscope.analysis.prefixes import check_prefixes
from layerscope.api.plans import Plan, part
from layerscope.config import Config
from layerscope.evaluation.choices import plan_choices
from layerscope.settings import (
    ChoicesConfig,
    EvaluateConfig,
    ModelOptions,
    PrefixConfig,
    PruneCellConfig,
    PruneConfig,
    ReadingConfig,
    ScanConfig,
)
from layerscope.states.extract import check_stages
from layerscope.studies.pruning import plan_pruning
from layerscope.studies.theory import Computed, power_law_rows, theorem_rows

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A command that cells run.

    Attributes:
        name: of the command.
        configs: whose settings a study may give.
        plan: makes the plan of a model (a name or a folder), data and settings, before the model is
            loaded; one that reads a model has it as its field `model`, where the loaded one is put.
        check: refuses settings that no model could use.
        paths: arguments besides the settings, which are files or folders.
        reads_model: whether a cell needs a model.
        reads_data: whether a cell needs data.
        reads_images: whether images may be its data.
        head: whether the model is loaded with its head.
        loads: whether the plan loads the model itself.
    """

    name: str
    configs: tuple[type[Config], ...]
    plan: Callable[[str, str, Settings], Plan[Any, Any]]
    check: Callable[[Settings], object] = lambda _: None
    paths: tuple[str, ...] = ()
    reads_model: bool = True
    reads_data: bool = True
    reads_images: bool = False
    head: bool = False
    loads: bool = False

    @property
    def takes_model(self) -> bool:
        """Whether the worker loads the model and puts it into the plan."""
        return self.reads_model and not self.loads

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of the settings and other arguments."""
        names = [name for config in self.configs for name in config.model_fields]
        return (*names, *self.paths)

    def config_of(self, setting: str) -> type[Config] | None:
        """Return the config that a setting belongs to, None for an argument besides."""
        return next((each for each in self.configs if setting in each.model_fields), None)


def _scan(model: str, data: str, settings: Settings) -> Plan[Any, Any]:
    return api.scan.plan(model, data or None, show_progress=False, **settings)


def _check_scan(settings: Settings) -> None:
    config = part(ScanConfig, settings)
    check_stages(config.stages)
    chosen_measures(config)


def _prefixes(model: str, data: str, settings: Settings) -> Plan[Any, Any]:
    own = part(PrefixConfig, settings)
    others = {
        name: each for name, each in settings.items() if name not in PrefixConfig.model_fields
    }
    shared = {name: getattr(own, name) for name in ScanConfig.model_fields}
    return replace(_scan(model, data, others | shared), config=own)  # type: ignore[type-var]


def _evaluate(model: str, data: str, settings: Settings) -> Plan[Any, Any]:
    return api.evaluate.plan(model, data or (), show_progress=False, **settings)


def _choices(model: str, data: str, settings: Settings) -> Plan[Any, Any]:
    return plan_choices(model, data, part(ChoicesConfig, settings), part(ModelOptions, settings))


def _prune(model: str, data: str, settings: Settings) -> Plan[Any, Any]:
    return plan_pruning(model, data, settings)


_SCANNED: Final = (ReadingConfig, ModelOptions)
KINDS: Final = (
    Kind(
        "scan",
        (ScanConfig, *_SCANNED),
        _scan,
        check=_check_scan,
        reads_images=True,
    ),
    Kind(
        "prefixes",
        (PrefixConfig, *_SCANNED),
        _prefixes,
        check=lambda settings: check_prefixes(part(PrefixConfig, settings)),
    ),
    Kind("choices", (ChoicesConfig, ModelOptions), _choices, head=True),
    Kind(
        "evaluate",
        (EvaluateConfig, ModelOptions),
        _evaluate,
        paths=("task_data",),
        reads_images=True,
    ),
    Kind(
        "prune",
        (PruneCellConfig, PruneConfig, *_SCANNED),
        _prune,
        paths=("table", "perplexity", "task_data"),
        loads=True,
    ),
    Kind(
        "power-laws", (), lambda *_: Computed(power_law_rows), reads_model=False, reads_data=False
    ),
    Kind("theorems", (), lambda *_: Computed(theorem_rows), reads_model=False, reads_data=False),
)
