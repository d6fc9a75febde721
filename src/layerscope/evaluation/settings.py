"""The settings of an evaluation: one frozen record, checked once, written into every run's record."""

from __future__ import annotations

import importlib.util
from typing import Any, Final, Literal

from layerscope.config import (
    Config,
    Count,
    FirstToken,
    Flag,
    Layers,
    Listed,
    Natural,
    Pooling,
    Text,
)
from layerscope.errors import InputError
from layerscope.states.encode import TokenPolicy

Probe = Literal["linear", "attention"]
PROBES: Final[tuple[Probe, ...]] = ("linear", "attention")
_EXTRA: Final = {"mteb": "mteb", "sklearn": "scikit-learn"}


class EvaluateConfig(Config):
    """Everything that decides the scores, besides model and tasks."""

    layers: Layers | None = None
    """Which layers, as numbers or like "0,4-6"; None for all."""
    pooling: Pooling = Pooling.MEAN
    """How a text's token states become one vector."""
    normalize: Flag = False
    """Whether vectors are scaled to unit length before mteb sees them."""
    prompt: Text = ""
    """Put before every text."""
    query_prompt: Text | None = None
    """Put before queries in place of `prompt`; None for the same."""
    special_tokens: Flag = False
    """Whether tokens that the tokenizer adds count."""
    first_token: FirstToken = FirstToken.AUTO
    """Whether position 0 counts; `auto` leaves it out where it is an attention sink."""
    max_length: Count = 512
    """Most tokens a text may have (fewer if the model takes fewer)."""
    batch_tokens: Count = 4096
    """Padded tokens in one forward pass; decides memory and speed, not results."""
    bank_poolings: Listed[Pooling] | None = None
    """Those kept for later; None keeps all while the bank stays below its budget."""
    probes: Listed[Probe] = ()
    """Probes on token states to train besides, on tables with labels."""
    seed: Natural = 0
    """Of the probes; mteb has its own."""

    @property
    def policy(self) -> TokenPolicy:
        """Which tokens count."""
        return TokenPolicy(
            special_tokens=self.special_tokens,
            first_token=self.first_token,
            max_length=self.max_length,
        )

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
