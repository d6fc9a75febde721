"""Shared settings of the tests: offline, one thread, no color; tiny models as folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NO_COLOR"] = "1"


# A shared machine may be several times slower at one moment than at another.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function: name of a tiny model -> a folder with it and a tokenizer."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            from tiny import save_tiny, tiny_model

            made[name] = save_tiny(tiny_model(name), tmp_path_factory.mktemp(f"tiny-{name}"))
        return made[name]

    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 24 short texts."""
    from tiny import texts

    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(texts(24)), encoding="utf-8")
    return path
