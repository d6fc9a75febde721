"""The model card of what was saved: where it comes from, which layer, on what evidence, how to use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerscope.models import Backbone


@dataclass(frozen=True)
class Story:
    """What a card tells.

    Attributes:
        title: what this model is, one line.
        what: sentences on what was done to the source.
        evidence: sentences on why; what was measured, on which texts.
        usage: Python that loads it.
        library: "transformers" or "sentence-transformers".
        verified: one sentence on the check in a new process.
    """

    title: str
    what: Sequence[str]
    evidence: Sequence[str]
    usage: str
    library: str
    verified: str


def model_card(backbone: Backbone, story: Story) -> str:
    """Return a README.md with the metadata that model hubs read."""
    from huggingface_hub import ModelCard, ModelCardData

    tags = ["layerscope"]
    if story.library == "sentence-transformers":
        tags += ["sentence-transformers", "sentence-similarity", "feature-extraction"]
    base = backbone.info.name if backbone.info.revision else None  # a hub's id, not a local name
    data = ModelCardData(library_name=story.library, base_model=base, tags=tags)
    parts = [
        f"# {story.title}",
        "\n".join(story.what),
        "## Evidence",
        "\n\n".join(story.evidence),
        "## Use",
        f"```python\n{story.usage}\n```",
        "## Checked",
        story.verified,
        f"The license is the source's, {backbone.info.name}. Weights fingerprint of the source: "
        f"`{backbone.info.weights_fingerprint}`.",
    ]
    text = "\n\n".join(parts)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n", ignore_metadata_errors=True))
