"""What is said of a saved model: its card (where from, on what evidence), and the lines that use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layerscope.export.shorten import LAST, OutputPath
from layerscope.models.backbone import Backbone


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


def usage_of(folder: Path, kind: str, output: OutputPath, reader: str, *, pictures: bool) -> str:
    """Return a few lines of Python that load a saved folder.

    Args:
        folder: where it is.
        kind: the format.
        output: where in the output of transformers the layer is.
        reader: the class that loads it.
        pictures: whether it reads images.
    """
    if kind == "sentence-transformers":
        return (
            "from sentence_transformers import SentenceTransformer\n\n"
            f'model = SentenceTransformer("{folder}")\n'
            'vectors = model.encode(["a text", "another one"])'
        )
    if kind == "onnx":
        return (
            "from onnxruntime import InferenceSession\n"
            "from transformers import AutoTokenizer\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{folder}")\n'
            f'session = InferenceSession("{folder}/model.onnx")\n'
            'inputs = tokenizer(["a text"], return_tensors="np")\n'
            "names = [each.name for each in session.get_inputs()]\n"
            "states = session.run(None, {name: inputs[name] for name in names})[0]"
        )
    # AutoModel would give an encoder its decoder back, and a model with a head no head.
    plain = not ("For" in reader or reader.endswith("EncoderModel"))
    name = "AutoModel" if plain else reader
    place = "last_hidden_state" if output == LAST else f"hidden_states[{output[1]}]"
    loading = f'model = {name}.from_pretrained("{folder}")\n'
    if pictures:
        return (
            f"import torch\nfrom transformers import {name}\n\n{loading}"
            "size = model.config.image_size\n"
            "pixels = torch.rand(1, model.config.num_channels, size, size)\n"
            f"states = model(pixel_values=pixels, output_hidden_states=True).{place}"
        )
    core = "model.base_model" if "For" in reader else "model"
    return (
        f"from transformers import {name}, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")\n{loading}'
        'inputs = tokenizer("a text", return_tensors="pt")\n'
        f"states = {core}(**inputs, output_hidden_states=True).{place}"
    )
