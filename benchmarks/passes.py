"""The paper's seven measures from shared passes, against a batch-1 pass for each measure.

The baseline is the design of the authors' code: every measure runs the model itself, one text at a
time, and works on all the layers' states at once. Its formulas are ours, but for LiDAR's scatter
matrices, which it sums text by text as outer products.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.materials import minilm, wikitext
from benchmarks.tables import markdown
from layerscope.analysis.plan import prepare
from layerscope.analysis.run import measure, measurement_of, run_pass
from layerscope.data.texts import as_texts
from layerscope.data.tokens import TokenizedText
from layerscope.metrics import catalogue, samples, tokens, views
from layerscope.metrics.inputs import SampleInputs, TokenInputs, ViewInputs
from layerscope.models import loading
from layerscope.models.backbone import Backbone
from layerscope.settings import Convention, ScanConfig
from layerscope.states.store import StateStore

TEXTS, VIEWS = 200, 16
PAPER = Convention.PAPER


class Counted:
    """Counts the texts that go through a model."""

    def __init__(self, backbone: Backbone) -> None:
        self.texts = 0
        self.handle = backbone.blocks[0].register_forward_pre_hook(self._add, with_kwargs=True)

    def _add(self, _module: Any, args: Any, kwargs: Any) -> None:
        self.texts += len(args[0] if args else kwargs["hidden_states"])

    def stop(self) -> int:
        """Stop counting and return the count."""
        self.handle.remove()
        return self.texts


def states(backbone: Backbone, text: TokenizedText) -> Sequence[Tensor]:
    """All layers' states (1, token, dim) of one text, special tokens left out."""
    output = backbone.model(input_ids=torch.tensor([text.ids]), output_hidden_states=True)
    kept = ~torch.tensor(text.special)
    return [state[:, kept] for state in output.hidden_states]


def by_prompt(function: Callable[..., Tensor]) -> Callable[[Backbone, Any], None]:
    """A prompt measure in a pass of its own."""

    def run(backbone: Backbone, prepared: Any) -> None:
        for text in prepared.texts[: prepared.plain]:
            for state in states(backbone, text):
                function(TokenInputs(state, torch.ones(state.shape[:2], dtype=torch.bool)), PAPER)

    return run


def pooled(backbone: Backbone, texts: Sequence[TokenizedText]) -> Tensor:
    """Pooled vectors (layer, text, dim) from a pass of one text at a time."""
    rows = [torch.cat([s.mean(dim=1) for s in states(backbone, text)]) for text in texts]
    return torch.stack(rows, dim=1)


def by_dataset(*functions: Callable[..., Any]) -> Callable[[Backbone, Any], None]:
    """Dataset measures on one pass."""

    def run(backbone: Backbone, prepared: Any) -> None:
        for layer in pooled(backbone, prepared.texts[: prepared.plain]):
            for function in functions:
                function(SampleInputs(layer), PAPER)

    return run


def by_views(function: Callable[..., Any], count: int) -> Callable[[Backbone, Any], None]:
    """A view measure on passes over so many views."""

    def run(backbone: Backbone, prepared: Any) -> None:
        found = []
        for view in range(count):
            items = prepared.views[0].items[:, view]
            found.append(pooled(backbone, [prepared.texts[item] for item in items]))
        for layer in torch.stack(found, dim=2):
            function(ViewInputs(layer), PAPER)

    return run


def lidar_by_outer_products(inputs: ViewInputs, convention: Convention) -> None:
    """LiDAR with its scatter matrices summed one outer product at a time."""
    means = inputs.vectors.mean(dim=1)
    within = torch.zeros(means.shape[1], means.shape[1])
    for vectors, mean in zip(inputs.vectors.float(), means.float(), strict=True):
        for vector in vectors:
            within += torch.outer(vector - mean, vector - mean)
    views.lidar(inputs, convention)


BASELINE: dict[str, tuple[int, Callable[[Backbone, Any], None]]] = {
    "prompt entropy": (1, by_prompt(tokens.prompt_entropy)),
    "curvature": (1, by_prompt(tokens.curvature)),
    "dataset entropy, effective rank": (
        1,
        by_dataset(samples.dataset_entropy, samples.effective_rank),
    ),
    "InfoNCE": (2, by_views(views.infonce, 2)),
    "LiDAR": (VIEWS, by_views(lidar_by_outer_products, VIEWS)),
    "DiME": (2, by_views(views.dime, 2)),
}


def ours(backbone: Backbone, prepared: Any) -> float:
    """Seconds of one shared pass and its measures."""
    store = StateStore()
    started = time.perf_counter()
    run_pass(backbone, prepared, store)
    measure(prepared, measurement_of(prepared, store), store)
    seconds = time.perf_counter() - started
    store.close()
    return seconds


def main(threads: Sequence[int] = (1, 2)) -> str:
    """Return the table for MiniLM on 200 WikiText paragraphs."""
    path = minilm()
    if path is None:
        return "MiniLM is not installed."
    backbone = loading.load(path)
    seven = tuple(m.name for m in catalogue.CATALOGUE if m.paper_seven)
    settings = ScanConfig(
        metrics=seven,
        conventions=("paper",),
        views=VIEWS,
        augmentation=("default",),
        view_texts=None,
        view_words=None,
    )
    prepared = prepare(backbone, as_texts(wikitext()[:TEXTS]), settings)
    rows = []
    for number in threads:
        torch.set_num_threads(number)
        counter = Counted(backbone)
        mine = ours(backbone, prepared)
        forwards = counter.stop()
        counter = Counted(backbone)
        took = {}
        with torch.no_grad():
            for name, (_, run) in BASELINE.items():
                started = time.perf_counter()
                run(backbone, prepared)
                took[name] = time.perf_counter() - started
        theirs = counter.stop()
        rows.append(
            {
                "threads": number,
                "passes a text, ours": forwards / prepared.plain,
                "passes a text, one for each": theirs / prepared.plain,
                "ours s": f"{mine:.1f}",
                "one for each s": f"{sum(took.values()):.1f}",
                "ratio": f"{sum(took.values()) / mine:.2f}",
            }
        )
        print(markdown(rows[-1:]), {k: round(v, 1) for k, v in took.items()}, flush=True)
    return markdown(rows)


if __name__ == "__main__":
    print(main())
