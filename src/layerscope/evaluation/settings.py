"""The settings of an evaluation: one frozen record, checked once, written into every run's record."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Final

from layerscope.encoding import TokenPolicy
from layerscope.errors import InputError, unknown_name
from layerscope.settings import FirstToken, Pooling, choice

PROBES: Final = ("linear", "attention")
_EXTRA: Final = {"mteb": "mteb", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class EvaluationSettings:
    """Everything that decides the scores, besides model and tasks.

    Attributes:
        layers: which layers; None for all.
        pooling: how a text's token states become one vector.
        normalize: whether vectors are scaled to unit length before mteb sees them.
        prompt: put before every text.
        query_prompt: put before queries in place of `prompt`; None for the same.
        special_tokens: whether tokens that the tokenizer adds count.
        first_token: whether position 0 counts; `auto` leaves it out where it is an attention sink.
        max_length: most tokens a text may have (fewer if the model takes fewer).
        batch_tokens: padded tokens in one forward pass; decides memory and speed, not results.
        bank_poolings: those kept for later; None keeps all while the bank stays below its budget.
        probes: probes on token states to train besides, on tables with labels.
        seed: of the probes; mteb has its own.
    """

    layers: tuple[int, ...] | None = None
    pooling: Pooling = Pooling.MEAN
    normalize: bool = False
    prompt: str = ""
    query_prompt: str | None = None
    special_tokens: bool = False
    first_token: FirstToken = FirstToken.AUTO
    max_length: int = 512
    batch_tokens: int = 4096
    bank_poolings: tuple[Pooling, ...] | None = None
    probes: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "pooling", choice("pooling", self.pooling, Pooling))
        if self.bank_poolings is not None:
            kept = tuple(choice("pooling", name, Pooling) for name in self.bank_poolings)
            object.__setattr__(self, "bank_poolings", kept)
        if self.layers == ():
            raise InputError("expected at least one of layers, got none.")
        for probe in self.probes:
            if probe not in PROBES:
                raise unknown_name("probe", probe, PROBES)
        if self.batch_tokens < 1:
            raise InputError(f"expected batch_tokens of at least 1, got {self.batch_tokens}.")
        object.__setattr__(self, "first_token", self.policy.first_token)  # checked there

    @property
    def policy(self) -> TokenPolicy:
        """Which tokens count."""
        return TokenPolicy(self.special_tokens, self.first_token, self.max_length)

    def deciding(self) -> dict[str, Any]:
        """Return, as plain values, what decides a score; scores of other values never mix."""
        return {
            "pooling": self.pooling.value,
            "normalize": self.normalize,
            "prompt": self.prompt,
            "query_prompt": self.prompt if self.query_prompt is None else self.query_prompt,
            "special_tokens": self.special_tokens,
            "first_token": self.first_token.value,
            "max_length": self.max_length,
        }


def require_extra() -> None:
    """Refuse to evaluate without mteb.

    Raises:
        InputError: it is not installed.
    """
    missing = [name for module, name in _EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(
            f"evaluating needs {' and '.join(missing)}; install with: pip install "
            "'layerscope[evaluate]'."
        )
