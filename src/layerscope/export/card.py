"""The card of a saved model: what was done to the source and why, with the metadata of model hubs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from layerscope.export.shorten import LAST, OutputPath
from layerscope.models.backbone import Backbone, writes_text
from layerscope.results.table import TASK, Run
from layerscope.states.extract import Site

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

CARD: Final = "README.md"
# Hubs know adapter, finetune, merge and quantized; weights that are cut are changed, as by fine-tuning.
_RELATION: Final = "finetune"
_OF_HEADS: Final = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
}


@dataclass(frozen=True)
class Story:
    """The contents of a model card.

    Attributes:
        title: what this model is, one line.
        what: sentences on what was done to the source.
        evidence: sentences on why; what was measured, on which texts.
        usage: Python that loads it.
        library: "transformers", "sentence-transformers" or "onnx".
        verified: one sentence on the check in a new process.
        head: whether the source's head is saved too.
        results: scores of this model.
    """

    title: str
    what: Sequence[str]
    evidence: Sequence[str]
    usage: str
    library: str
    verified: str
    head: bool = False
    results: Sequence[EvalResult] = ()


def model_card(backbone: Backbone, story: Story) -> str:
    """Return a README.md with the metadata that model hubs read."""
    from huggingface_hub import ModelCard, ModelCardData

    tags = ["layerscope"]
    if story.library == "sentence-transformers":
        tags += ["sentence-transformers", "sentence-similarity", "feature-extraction"]
    base = backbone.info.name if backbone.info.revision else None  # a hub's id, not a local name
    license_facts = _license_of(backbone)
    data = ModelCardData(
        library_name=story.library,
        pipeline_tag=_pipeline_tag(backbone, story),
        base_model=base,
        base_model_relation=_RELATION if base else None,
        tags=tags,
        model_name=story.title if story.results else None,
        eval_results=list(story.results) or None,
        **license_facts,
    )
    named = f" ({license_facts['license']})" if license_facts else ""
    parts = [
        f"# {story.title}",
        "\n".join(story.what),
        "## Evidence",
        "\n\n".join(story.evidence),
        "## Use",
        f"```python\n{story.usage}\n```",
        "## Checked",
        story.verified,
        f"The license is the source's, {backbone.info.name}{named}. Weights fingerprint of the source: "
        f"`{backbone.info.weights_fingerprint}`.",
    ]
    text = "\n\n".join(parts)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n", ignore_metadata_errors=True))


def _pipeline_tag(backbone: Backbone, story: Story) -> str:
    if story.library == "sentence-transformers":
        return "sentence-similarity"
    if story.head:
        if writes_text(backbone):
            return "text-generation"
        kind = type(backbone.whole).__name__
        for ending, tag in _OF_HEADS.items():
            if kind.endswith(ending):
                return tag
    return "image-feature-extraction" if backbone.tokenizer is None else "feature-extraction"


def _license_of(backbone: Backbone) -> dict[str, Any]:
    """Return license, its name and its link as the source's card has them; nothing where it has none."""
    data = _source_card(backbone)
    if data is None or not isinstance(data.license, str):
        return {}
    found = {name: getattr(data, name) for name in ("license", "license_name", "license_link")}
    return {name: str(value) for name, value in found.items() if value}


def _source_card(backbone: Backbone) -> ModelCardData | None:
    """Return the metadata of the source's card, from its folder or the hub; None where there is none."""
    from huggingface_hub import ModelCard, hf_hub_download

    whole: Any = backbone.whole
    place, revision = str(getattr(whole.config, "_name_or_path", "") or ""), backbone.info.revision
    if not place:  # a model that was made in Python
        return None
    try:
        if revision:
            path = Path(hf_hub_download(place, CARD, revision=revision))
        else:
            folder = Path(place)
            inside = (folder.parent / "modules.json").is_file()  # of sentence-transformers
            path = (folder.parent if inside else folder) / CARD
        data = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except Exception:  # a card is welcome; without one the model is as good
        return None
    return data  # type: ignore[return-value]


# --- scores ----------------------------------------------------------------------------------------


def result(name: str, facts: Mapping[str, Any], value: float) -> EvalResult:
    """Return a score as model cards hold it.

    Args:
        name: of the task or table.
        facts: type, metric, split, subset, revision and source, as in a run's record.
        value: the main score.
    """
    from huggingface_hub import EvalResult

    source = str(facts.get("source") or "")
    public = source.startswith("hub:")
    return EvalResult(
        task_type=str(facts["type"]),
        dataset_type=source.removeprefix("hub:") if public else name,  # never a local path
        dataset_name=name,
        dataset_config=facts.get("subset"),
        dataset_split=facts.get("split"),
        dataset_revision=facts.get("revision") if public else None,
        metric_type=str(facts["metric"]),
        metric_value=round(float(value), 6),
    )


def results_in(run: Run, site: Site) -> tuple[EvalResult, ...]:
    """Return the task scores that a run holds of one layer."""
    table, tasks = run.table, run.record.get("tasks", {})
    rows = table[
        (table["level"] == TASK) & (table["layer"] == site.layer) & (table["stage"] == site.stage)
    ]
    values = dict(zip(rows["metric"], rows["value"], strict=True))
    named = {name: f"mteb/{name}/{facts['metric']}" for name, facts in tasks.items()}
    return tuple(
        result(name, tasks[name], values[metric])
        for name, metric in named.items()
        if metric in values
    )


# --- how it is used --------------------------------------------------------------------------------


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
