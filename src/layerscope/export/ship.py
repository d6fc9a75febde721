"""Save a smaller model with its card, verify it in a new process, then move it into place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from layerscope.data.files import write_atomically
from layerscope.data.tokens import TokenizedText, length_limit, tokenize
from layerscope.export.card import CARD
from layerscope.export.formats import (
    MismatchError,
    bytes_of,
    refuse_folder,
    refuse_full_disk,
    size_of,
    staged,
    write_onnx,
    write_record,
    write_transformers,
)
from layerscope.export.modules import ReadoutModules
from layerscope.export.sentence import (
    PoolingMask,
    default_prompt,
    source_vector,
    write_sentence_transformer,
)
from layerscope.export.shorten import LIMITS, OutputPath, give_raw_last, smaller
from layerscope.export.verify import (
    ONNX_LIMIT,
    Request,
    Verification,
    beginnings,
    compare,
    read_back,
)
from layerscope.models.backbone import Backbone
from layerscope.settings import Format


@dataclass(frozen=True)
class Plan:
    """What is to be saved, and the states that the saved model must give.

    Attributes:
        kept: the blocks to keep, counted from 0.
        output: where in the loaded model's output the wanted states are.
        expected: those states (token, dim) of each text.
        texts: the texts, as strings with any prompt before them, and as tokens.
        format: of the folder.
        head: whether the head is saved too.
        counting: which tokens count, for sentence-transformers; None takes the source's modules.
        source: the sentence-transformers model that it comes from, or None.
        prompt: what sentence-transformers will put before each text, as `texts` have it.
        normalize: whether the source's modules are followed by a scaling to unit length.
        max_length: tokens that a text is cut to.
        generate: prompts that a causal model must go on from alike with and without its cache.
        pixels: for a model of images, what `expected` was made of.
        processor: what is saved with the model: its tokenizer or image processor.
        readout: what follows the model, for sentence-transformers; None for a single layer as it is.
        normed_last: whether the last hidden state is wanted after the final norm.
    """

    kept: Sequence[int]
    output: OutputPath
    expected: Sequence[Tensor]
    texts: Sequence[tuple[str, TokenizedText]]
    format: Format = "transformers"
    head: bool = False
    counting: PoolingMask | None = None
    source: Any = None
    prompt: str = ""
    normalize: bool = False
    max_length: int = 512
    generate: Sequence[str] = ()
    pixels: Tensor | None = None
    processor: Any = None
    readout: ReadoutModules | None = None
    normed_last: bool = False


@dataclass(frozen=True)
class Compared:
    """Texts that a saved model is compared on.

    Attributes:
        texts: as strings with any prompt before them, and as tokens.
        bare: their tokens without the prompt.
        counting: which tokens count in the folder; None where the source's modules say.
        prompt: what sentence-transformers will put before each text.
        limit: tokens that a text is cut to.
    """

    texts: list[tuple[str, TokenizedText]]
    bare: list[TokenizedText]
    counting: PoolingMask | None
    prompt: str
    limit: int


def texts_to_compare(
    backbone: Backbone,
    texts: Sequence[str],
    pooling_mask: Callable[[Sequence[TokenizedText]], PoolingMask | None],
    *,
    max_length: int,
    format: Format,  # noqa: A002
    source: Any,
) -> Compared:
    """Return the beginnings of some texts, as the saved model will read them.

    Args:
        backbone: the source.
        texts: real texts.
        pooling_mask: their tokens -> which count; asked for sentence-transformers only.
        max_length: tokens that a text is cut to, if the model takes so many.
        format: of the folder.
        source: the `SentenceTransformer` that the model comes from, or None.
    """
    limit = length_limit(backbone.tokenizer, backbone.model.config, max_length)
    most = limit if source is None else min(limit, source.max_seq_length or limit)
    chosen = beginnings(texts, most)
    bare = tokens = tokenize(backbone.tokenizer, chosen, limit)
    counting, prompt = None, ""
    if format == "sentence-transformers":
        counting = pooling_mask(bare)
        prompt = (counting.prompt if counting else "") + default_prompt(source)
    if prompt:
        chosen = [prompt + text for text in chosen]
        tokens = tokenize(backbone.tokenizer, chosen, limit)
    return Compared(list(zip(chosen, tokens, strict=True)), bare, counting, prompt, limit)


@dataclass(frozen=True)
class Shipped:
    """What was saved.

    Attributes:
        folder: where.
        parameters: its weights.
        weights: bytes of its weights.
        size: bytes of its files.
        verification: what the new process found.
        seconds: to save and to check it.
    """

    folder: Path
    parameters: int
    weights: int
    size: int
    verification: Verification
    seconds: float


def ship(
    backbone: Backbone,
    plan: Plan,
    out: Path,
    *,
    overwrite: bool,
    record: dict[str, Any],
    card: Callable[[Verification], str],
) -> Shipped:
    """Save a smaller model, load it in a new process, compare, and put it in its place.

    Raises:
        InputError: the folder is taken, or the model cannot be saved so.
        MismatchError: what was saved gives other states; it is kept under another name.
        RunError: the disk is full.
    """
    started = time.perf_counter()
    refuse_folder(out, overwrite=overwrite)
    model: Any = smaller(backbone, plan.kept, head=plan.head)
    if (
        plan.output[0] == "hidden_states" and not plan.normed_last
    ):  # or the normed state would stand in the last place
        give_raw_last(model)
    weights = bytes_of(model)
    refuse_full_disk(out, weights)
    with staged(out) as folder:
        _write(model, backbone, folder, plan)
        verification = _verified(backbone, folder, plan, model)
        facts = record | {"verified": verification.as_dict()}
        write_record(folder, facts)
        write_atomically(folder / CARD, card(verification).encode())
        size, parameters = size_of(folder), verification.parameters
    return Shipped(
        out, parameters, weights, size, verification, round(time.perf_counter() - started, 2)
    )


def _for_sentences(plan: Plan) -> bool:
    return plan.format == "sentence-transformers"


def _write(model: Any, backbone: Backbone, folder: Path, plan: Plan) -> None:
    if _for_sentences(plan):
        write_sentence_transformer(
            model,
            backbone,
            folder,
            plan.output,
            counting=plan.counting,
            source=plan.source,
            normalize=plan.normalize,
            max_length=plan.max_length,
            readout=plan.readout,
        )
    elif plan.format == "onnx":
        write_onnx(model, backbone, folder, plan.output, plan.readout)
    else:
        write_transformers(model, plan.processor or backbone.tokenizer, folder)


def _verified(backbone: Backbone, folder: Path, plan: Plan, model: Any) -> Verification:
    longest = max((len(tokens.ids) for _, tokens in plan.texts), default=1)
    request = Request(
        format=plan.format,
        texts=[text for text, _ in plan.texts],
        output=plan.output,
        max_length=longest,
        generate=plan.generate,
        device="cpu" if plan.format == "onnx" else str(backbone.device),
        parameters=sum(weight.numel() for weight in model.parameters()),
        pixels=plan.pixels,
    )
    exact = LIMITS.get(backbone.info.dtype, LIMITS["float32"])
    limit = max(exact, ONNX_LIMIT) if plan.format == "onnx" else exact
    if _for_sentences(plan):
        without = [text.removeprefix(plan.prompt) for text in request.texts]
        answer = read_back(folder, replace(request, texts=without))
        vectors = [
            plan.counting.vector(states, tokens)
            if plan.counting
            else source_vector(plan.source, states, tokens, normalize=plan.normalize)
            for states, (_, tokens) in zip(plan.expected, plan.texts, strict=True)
        ]
        if plan.readout is not None:
            vectors = [plan.readout.vector(vector) for vector in vectors]
        return compare(vectors, answer, "vector", "vectors", limit=limit)
    answer = read_back(folder, request)
    for place, (_, tokens) in enumerate(plan.texts):
        if answer.arrays[f"ids.{place}"].tolist() != list(tokens.ids):
            raise MismatchError(f"the saved tokenizer reads text {place + 1} in other tokens.")
    found = compare(plan.expected, answer, "states", "hidden states", limit=limit)
    written = answer.facts["generated"]
    if not written:
        return found
    if written[::2] != written[1::2]:
        raise MismatchError("the saved model writes other text with its cache than without it.")
    return replace(found, generated=True)
