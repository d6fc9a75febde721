"""A model cut after a block, so that what it gives is the layer that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from layerscope import __version__, surgery
from layerscope.encoding import sample_ratio
from layerscope.errors import InputError, unknown_name
from layerscope.models import Backbone, evaluating
from layerscope.settings import FirstToken, Pooling, choice
from layerscope.sinks import decided
from layerscope.states import Site
from layerscope.surgery import LAST, Counting, OutputPath, Plan, Shipped, Story, Verification
from layerscope.tokenization import TokenizedText, length_limit, tokenize

FinalNorm = Literal["auto", "keep", "drop"]
NORMS: Final = ("auto", "keep", "drop")
KINDS: Final = ("cut", "pointer")
_TEXTS: Final = 16  # compared in the new process
_TOKENS: Final = 64
_PICTURES: Final = 4


@dataclass(frozen=True)
class CutSettings:
    """How a model is cut and saved.

    Attributes:
        format: "sentence-transformers", "transformers" or "onnx".
        kind: "cut" leaves the blocks behind the layer out; "pointer" keeps all of them and says where
            the layer is.
        final_norm: "drop" gives the layer as it was scanned, the state after block K; "keep" the final
            norm of it; "auto" is "drop".
        head: whether the head of the checkpoint comes along (transformers only, with the final norm).
        pooling: token states -> a vector, for sentence-transformers; None takes the source's modules
            if it is a sentence-transformers model, else the mean.
        special_tokens: whether tokens that the tokenizer adds count; None: they do not, unless the
            source's modules are taken.
        first_token: whether position 0 counts; `auto` leaves it out where it is an attention sink.
        normalize: whether vectors are scaled to unit length.
        max_length: most tokens a text may have.
    """

    format: surgery.Format = "sentence-transformers"
    kind: Literal["cut", "pointer"] = "cut"
    final_norm: FinalNorm = "auto"
    head: bool = False
    pooling: Pooling | None = None
    special_tokens: bool | None = None
    first_token: FirstToken | None = None
    normalize: bool = False
    max_length: int = 512

    def __post_init__(self) -> None:
        for name, known in (("format", surgery.FORMATS), ("kind", KINDS), ("final_norm", NORMS)):
            if getattr(self, name) not in known:
                raise unknown_name(name.replace("_", " "), str(getattr(self, name)), known)
        if self.pooling is not None:
            object.__setattr__(self, "pooling", choice("pooling", self.pooling, Pooling))
        if self.first_token is not None:
            token = choice("first_token", self.first_token, FirstToken)
            object.__setattr__(self, "first_token", token)
        if self.head and (self.final_norm != "keep" or self.format != "transformers"):
            raise InputError(
                "a head reads what the final norm gives; with --head pass --final-norm keep and "
                "--format transformers."
            )

    @property
    def asks_for_pooling(self) -> bool:
        """Whether anything was said about pooling, so that a source's own modules are not taken."""
        said = (self.pooling, self.special_tokens, self.first_token)
        return self.normalize or any(each is not None for each in said)


@dataclass(frozen=True)
class Cut:
    """A model that was cut and saved.

    Attributes:
        shipped: the folder, its size, and what the new process found.
        layer: the layer that it gives.
        of: the blocks of the source.
        blocks: its own blocks.
        stage: "block", or "final_norm" of that layer.
        output: where in the output of transformers the layer is.
        source_size: bytes of the source's weights.
        notes: what there is to know.
        settings: how it was made.
        evidence: sentences on why this layer.
    """

    shipped: Shipped
    layer: int
    of: int
    blocks: int
    stage: str
    output: OutputPath
    source_size: int
    settings: CutSettings
    notes: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.shipped.folder

    @property
    def usage(self) -> str:
        """Python that loads it and uses it."""
        return usage_of(self.folder, self.settings.format, self.output)


def usage_of(folder: Path, kind: str, output: OutputPath) -> str:
    """Return a few lines of Python that load a saved folder."""
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
    if kind == "sentence-transformers":
        return (
            "from sentence_transformers import SentenceTransformer\n\n"
            f'model = SentenceTransformer("{folder}")\n'
            'vectors = model.encode(["a text", "another one"])'
        )
    place = "last_hidden_state" if output == LAST else f"hidden_states[{output[1]}]"
    return (
        "from transformers import AutoModel, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")\n'
        f'model = AutoModel.from_pretrained("{folder}")\n'
        'inputs = tokenizer("a text", return_tensors="pt")\n'
        f"states = model(**inputs, output_hidden_states=True).{place}"
    )


def refuse_layer(backbone: Backbone, layer: int) -> None:
    """Raise an InputError for a layer that a cut cannot give."""
    if layer == 0:
        raise InputError(
            "layer 0 is the embeddings, before any block; a cut keeps at least block 1: expected a layer "
            f"from 1 to {backbone.depth}, got 0."
        )
    if not 1 <= layer <= backbone.depth:
        raise InputError(
            f"expected a layer from 1 to {backbone.depth} (the last block of {backbone.info.name}), got "
            f"{layer}."
        )


def cut_model(
    backbone: Backbone,
    layer: int,
    out: Path,
    settings: CutSettings,
    *,
    texts: Sequence[str],
    source: Any = None,
    evidence: Sequence[str] = (),
    processor: Any = None,
    overwrite: bool = False,
) -> Cut:
    """Cut a model after a block, save it, and prove in a new process that it gives that layer.

    Args:
        backbone: the source; it is not changed.
        layer: 1 to L.
        out: folder for it.
        settings: how.
        texts: real texts to compare on.
        source: the sentence-transformers model that the source is part of, or None.
        evidence: sentences for the model card.
        processor: the image processor of a model of images.
        overwrite: whether a model that layerscope saved there may be replaced.

    Raises:
        InputError: it cannot be done; nothing was written.
        MismatchError: what was saved gives something else; kept as `OUT.unverified`.
        RunError: the disk is full.
    """
    surgery.refuse_folder(out, overwrite=overwrite)
    refuse_layer(backbone, layer)
    surgery.refuse_surgery(backbone)
    surgery.refuse_quantized(backbone)
    if settings.format != "transformers":
        surgery.refuse_decoder(backbone, settings.format)
    site, kept, output, notes = _place(backbone, layer, settings)
    plan = Plan(kept, output, (), (), format=settings.format, head=settings.head)
    if backbone.tokenizer is None:
        plan = _with_pictures(backbone, plan, site, settings, processor)
    else:
        plan, more = _with_texts(backbone, plan, site, settings, texts, source)
        notes += more
    record = {
        "command": "cut",
        "layerscope": __version__,
        "source": backbone.info.as_dict(),
        "layer": layer,
        "blocks": len(kept),
        "stage": site.stage,
        "output": list(output),
        "format": settings.format,
        "evidence": list(evidence),
        "notes": notes,
    }

    def card(verification: Verification) -> str:
        return surgery.model_card(
            backbone,
            _story(backbone, layer, site, settings, out, output, evidence, notes, verification),
        )

    shipped = surgery.ship(backbone, plan, out, overwrite=overwrite, record=record, card=card)
    return Cut(
        shipped,
        layer=layer,
        of=backbone.depth,
        blocks=len(kept),
        stage=site.stage,
        output=output,
        source_size=surgery.bytes_of(backbone.whole if settings.head else backbone.model),
        settings=settings,
        notes=tuple(notes),
        evidence=tuple(evidence),
    )


def _place(
    backbone: Backbone, layer: int, settings: CutSettings
) -> tuple[Site, tuple[int, ...], OutputPath, list[str]]:
    """Return the state that is wanted, the blocks to keep, and where the smaller model gives it out."""
    keeps_norm = settings.final_norm == "keep" and backbone.final_norm is not None
    site = Site(layer, "final_norm" if keeps_norm else "block")
    if settings.kind == "pointer":
        if keeps_norm and layer < backbone.depth:
            raise InputError(
                f"a pointer finds states that the whole model computes, which never norms layer {layer}; "
                "pass --final-norm drop, or cut."
            )
        kept = tuple(range(backbone.depth))
        output = surgery.find_output(backbone, kept, site)
        if output is not None:
            return site, kept, output, []
        raise _no_output(backbone, layer)
    kept = tuple(range(layer))
    output = surgery.find_output(backbone, kept, site)
    if output is not None:
        return site, kept, output, []
    if layer == backbone.depth:
        raise _no_output(backbone, layer)
    longer = tuple(range(layer + 1))
    output = surgery.find_output(backbone, longer, site)
    if output is None:
        raise _no_output(backbone, layer)
    note = (
        f"{backbone.info.model_class} in transformers hands out its last block's state only behind the "
        f"final norm, so block {layer + 1} is kept as well and layer {layer} is read before it."
    )
    return site, longer, output, [note]


def _no_output(backbone: Backbone, layer: int) -> InputError:
    return InputError(
        f"{backbone.info.model_class} in transformers gives out layer {layer} behind its final norm "
        "only; pass --final-norm keep, or choose an earlier layer."
    )


def _with_texts(
    backbone: Backbone,
    plan: Plan,
    site: Site,
    settings: CutSettings,
    texts: Sequence[str],
    source: Any,
) -> tuple[Plan, list[str]]:
    """Return the plan with the texts to compare on and what each must give; and notes."""
    limit = length_limit(backbone.tokenizer, backbone.model.config, settings.max_length)
    chosen = list(dict.fromkeys(texts))[:_TEXTS]
    tokens = tokenize(backbone.tokenizer, chosen, min(limit, _TOKENS))
    chosen = [
        _as_read(backbone.tokenizer, text, read) for text, read in zip(chosen, tokens, strict=True)
    ]
    tokens = tokenize(backbone.tokenizer, chosen, limit)
    notes: list[str] = []
    counting: Counting | None = None
    if settings.format == "sentence-transformers":
        counting, notes = _counting(backbone, settings, tokens, source, limit)
        if counting is not None and counting.prompt:
            chosen = [counting.prompt + text for text in chosen]
            plain = expected_states(backbone, tokens, site)
            prompted = tokenize(backbone.tokenizer, chosen, limit)
            notes.append(_agreement(backbone, counting, plain, tokens, prompted, site))
            tokens = prompted
    expected = expected_states(backbone, tokens, site)
    return (
        replace(
            plan,
            expected=expected,
            texts=list(zip(chosen, tokens, strict=True)),
            counting=counting,
            source=source if counting is None else None,
            max_length=limit,
        ),
        notes,
    )


def _as_read(tokenizer: Any, text: str, tokens: TokenizedText) -> str:
    """Return a text cut where its tokens were cut, so that both processes read a short one."""
    if not tokens.truncated:
        return text
    inner = [
        token for token, special in zip(tokens.ids, tokens.special, strict=True) if not special
    ]
    return str(tokenizer.decode(inner)).strip() or text


def expected_states(
    backbone: Backbone, tokens: Sequence[TokenizedText], site: Site
) -> list[Tensor]:
    """Return a site's states (token, dim) of each text; `final_norm` of any layer."""
    found = surgery.token_states(backbone, tokens, Site(site.layer))
    if site.stage != "final_norm" or backbone.final_norm is None:
        return found
    return [_normed(backbone, states) for states in found]


def _normed(backbone: Backbone, states: Tensor) -> Tensor:
    norm: Any = backbone.final_norm
    weight = next(norm.parameters(), next(backbone.model.parameters()))
    with torch.inference_mode():
        normed: Tensor = norm(states[None].to(weight.device, weight.dtype))[0]
    return normed.to("cpu", states.dtype)


def _counting(
    backbone: Backbone,
    settings: CutSettings,
    tokens: Sequence[TokenizedText],
    source: Any,
    limit: int,
) -> tuple[Counting | None, list[str]]:
    """Say which tokens count in the folder: as the source does, or as a scan does."""
    if source is not None and not settings.asks_for_pooling:
        return None, ["pooling, normalization and prompts are the source's own."]
    policy = settings.first_token or FirstToken.AUTO
    if policy is FirstToken.AUTO:
        policy = decided(policy, sample_ratio(backbone, limit))
    counting = surgery.counting_of(
        backbone.tokenizer,
        tokens,
        settings.pooling or Pooling.MEAN,
        special_tokens=bool(settings.special_tokens),
        drop_first=policy is FirstToken.DROP,
        normalize=settings.normalize,
    )
    return counting, _counting_notes(backbone, counting)


def _counting_notes(backbone: Backbone, counting: Counting) -> list[str]:
    notes = [
        f"{counting.pooling.value} pooling, vectors {'' if counting.normalize else 'not '}normalized."
    ]
    if counting.silent:
        names = ", ".join(backbone.tokenizer.convert_ids_to_tokens(sorted(counting.silent)))
        notes.append(f"Tokens that do not count: {names}.")
    if counting.prompt:
        notes.append(
            f"The first token is an attention sink and the tokenizer adds none, so {counting.prompt!r} "
            "is put before every text as a prompt and does not count."
        )
    return notes


def _agreement(
    backbone: Backbone,
    counting: Counting,
    plain: Sequence[Tensor],
    tokens: Sequence[TokenizedText],
    prompted: Sequence[TokenizedText],
    site: Site,
) -> str:
    """Say how near the vectors with the prompt are to those that were scanned without one."""
    without = replace(counting, prompt="")
    scanned = [
        replace_first(without, states, text) for states, text in zip(plain, tokens, strict=True)
    ]
    given = [
        counting.vector(states, text)
        for states, text in zip(expected_states(backbone, prompted, site), prompted, strict=True)
    ]
    cosine = torch.cosine_similarity(torch.stack(scanned), torch.stack(given)).mean()
    return (
        f"With that prompt the vectors are near those that were scanned without it, not equal: mean "
        f"cosine {float(cosine):.3f} over {len(given)} texts."
    )


def replace_first(counting: Counting, states: Tensor, text: TokenizedText) -> Tensor:
    """Return the vector without position 0, as a scan makes it."""
    if len(text.ids) == 1:
        return counting.vector(states, text)
    rest = TokenizedText(text.ids[1:], text.special[1:], truncated=False)
    return counting.vector(states[1:], rest)


def _with_pictures(
    backbone: Backbone, plan: Plan, site: Site, settings: CutSettings, processor: Any
) -> Plan:
    """Return the plan with noise for pictures: no texts are read by a model of images."""
    if settings.format != "transformers":
        raise InputError(
            f"{backbone.info.model_class} reads images; its cut is saved with --format transformers."
        )
    pixels = torch.cat([surgery.probe(backbone, seed)["pixel_values"] for seed in range(_PICTURES)])
    states = [_picture_states(backbone, picture[None], site) for picture in pixels]
    return replace(plan, expected=states, pixels=pixels.cpu(), processor=processor)


def _picture_states(backbone: Backbone, picture: Tensor, site: Site) -> Tensor:
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[0])

    handle = backbone.blocks[site.layer - 1].register_forward_hook(keep)
    try:
        with evaluating(backbone.model):
            backbone.model(pixel_values=picture)
    finally:
        handle.remove()
    states = seen[0].cpu().clone()
    return _normed(backbone, states) if site.stage == "final_norm" else states


def _story(
    backbone: Backbone,
    layer: int,
    site: Site,
    settings: CutSettings,
    out: Path,
    output: OutputPath,
    evidence: Sequence[str],
    notes: Sequence[str],
    verification: Verification,
) -> Story:
    name = backbone.info.name
    norm = (
        "The final norm is applied to it, as the source applies it to its last block."
        if site.stage == "final_norm"
        else "It is the residual stream after that block, without the final norm."
        if backbone.final_norm is not None
        else ""
    )
    what = (
        f"Layer {layer} of the {backbone.depth} of {name}: its first {layer} blocks. {norm}".strip()
    )
    if settings.kind == "pointer":
        what = f"{name}, whole, with a pointer to its layer {layer} of {backbone.depth}. {norm}".strip()
    return Story(
        title=f"{name}, layer {layer} of {backbone.depth}",
        what=[f"{what} Made by layerscope {__version__}.", *notes],
        evidence=evidence or ["The layer was named by hand."],
        usage=usage_of(Path(out.name), settings.format, output),
        library=settings.format,
        verified=(
            f"Loaded in a new process by {verification.reader}, on {verification.texts} texts the "
            f"largest difference from layer {layer} of the source is {verification.largest:.1e} of the "
            f"largest number (limit {verification.limit:.0e})."
        ),
    )
