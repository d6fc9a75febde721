"""What an evaluation needs to be installed."""

from __future__ import annotations

import importlib.util
from typing import Final

from layerscope.errors import InputError

_EXTRA: Final = {"mteb": "mteb", "sklearn": "scikit-learn"}


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
