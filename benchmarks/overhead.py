"""What the measures cost on top of the bare forward pass over the same batches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.materials import MODELS, wikitext
from benchmarks.tables import markdown
from layerscope.analysis.plan import prepare
from layerscope.analysis.run import measure, measurement_of, run_pass
from layerscope.data.texts import as_texts
from layerscope.data.tokens import pad, padding_id, plan_batches
from layerscope.models import loading
from layerscope.models.backbone import Backbone
from layerscope.models.modes import evaluating
from layerscope.settings import ScanConfig
from layerscope.states.store import StateStore

TEXTS = {"MiniLM": {128: 192, 512: 48}, "Gemma 3 270M": {128: 32, 512: 8}}
ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    model: str
    tokens: int
    conventions: tuple[str, ...]
    threads: int


def texts_of(backbone: Backbone, tokens: int, count: int) -> Any:
    """Distinct texts that are cut to exactly so many tokens."""
    long = [" ".join(run) for run in _runs(wikitext(), 1 + tokens // 100)]
    lengths = [len(ids) for ids in backbone.tokenizer(long, verbose=False)["input_ids"]]
    kept = [text for text, length in zip(long, lengths, strict=True) if length >= tokens][:count]
    if len(kept) < count:
        raise SystemExit(f"only {len(kept)} of {count} texts of {tokens} tokens can be made")
    return as_texts(kept, limit=None)


def _runs(texts: list[str], length: int) -> list[list[str]]:
    return [texts[i : i + length] for i in range(0, len(texts) - length, length)]


def bare_seconds(backbone: Backbone, prepared: Any) -> float:
    """The model alone, over the batches that the pass makes."""
    texts = prepared.texts
    counted = [[True] * len(text.ids) for text in texts]
    pad_id = padding_id(backbone.tokenizer, backbone.model.config)
    plan = plan_batches([len(text.ids) for text in texts], prepared.settings.batch_tokens)
    batches = [pad(group, texts, counted, pad_id=pad_id) for group in plan]
    started = time.perf_counter()
    with evaluating(backbone.model):
        for batch in batches:
            inputs = {"input_ids": batch.ids, "attention_mask": batch.real.long()}
            if backbone.positions == "given":
                inputs["position_ids"] = batch.positions
            if hasattr(backbone.model.config, "use_cache"):
                inputs["use_cache"] = False
            backbone.model(**inputs)
    return time.perf_counter() - started


def scan_seconds(backbone: Backbone, prepared: Any) -> tuple[float, float]:
    """The pass with its hooks, and the measures made afterwards."""
    store = StateStore()
    started = time.perf_counter()
    run_pass(backbone, prepared, store)
    passed = time.perf_counter()
    measure(prepared, measurement_of(prepared, store), store)
    finished = time.perf_counter()
    store.close()
    return passed - started, finished - passed


def run(case: Case, backbone: Backbone, texts: Any) -> dict[str, Any]:
    """Alternate bare and measured runs and compare the best of each."""
    torch.set_num_threads(case.threads)
    settings = ScanConfig(
        views=0, conventions=case.conventions, max_length=case.tokens, special_tokens=True
    )
    prepared = prepare(backbone, texts, settings)
    bare, passed, measured = [], [], []
    for _ in range(ROUNDS):
        bare.append(bare_seconds(backbone, prepared))
        one, other = scan_seconds(backbone, prepared)
        passed.append(one)
        measured.append(other)
    best = min(range(ROUNDS), key=lambda i: passed[i] + measured[i])
    return {
        "model": case.model,
        "threads": case.threads,
        "tokens": case.tokens,
        "texts": prepared.plain,
        "conventions": " + ".join(case.conventions),
        "bare s": f"{min(bare):.2f}",
        "pass s": f"{passed[best]:.2f}",
        "measures s": f"{measured[best]:.2f}",
        "ratio": f"{(passed[best] + measured[best]) / min(bare):.2f}",
        "limit": {(128, 1): "1.25", (512, 1): "1.40", (128, 2): "1.40", (512, 2): "1.70"}[
            case.tokens, len(case.conventions)
        ],
    }


def main(names: tuple[str, ...] = tuple(TEXTS), threads: tuple[int, ...] = (1, 2)) -> str:
    """Return the table for every model that is installed."""
    rows = []
    for name in names:
        path = MODELS[name]()
        if path is None:
            rows.append({"model": name, "ratio": "not installed"})
            continue
        backbone = loading.load(path)
        for tokens, count in TEXTS[name].items():
            texts = texts_of(backbone, tokens, count)
            for number in threads:
                for conventions in (("normalized",), ("paper",), ("paper", "normalized")):
                    case = Case(name, tokens, conventions, number)
                    rows.append(run(case, backbone, texts))
                    print(markdown(rows[-1:]), flush=True)
    return markdown(rows)


if __name__ == "__main__":
    import sys

    print(main(tuple(sys.argv[1:2]) or tuple(TEXTS), tuple(map(int, sys.argv[2:])) or (1, 2)))
