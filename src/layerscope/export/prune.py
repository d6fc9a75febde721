"""Save and verify a model without some of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from layerscope.config import Pooling
from layerscope.data.tokens import TokenizedText
from layerscope.errors import InputError
from layerscope.export import card, sentence, ship, shorten, verify
from layerscope.export.card import Story, model_card, result
from layerscope.export.cut import with_pictures
from layerscope.export.patches import Patch, patched
from layerscope.export.sentence import PoolingMask
from layerscope.export.ship import Compared, Plan, Shipped
from layerscope.export.trial import output_site, without
from layerscope.export.verify import NEW_TOKENS, Verification
from layerscope.models import blocks, configs
from layerscope.models.backbone import Backbone, non_finite_states, writes_text
from layerscope.models.modes import evaluating
from layerscope.settings import Format

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


_PROMPT_WORDS: Final = 8


@dataclass(frozen=True)
class Saving:
    """How a pruned model is saved.

    Attributes:
        format: of the folder.
        source: the sentence-transformers model that it is part of, whose pooling is kept.
        pooling: token states -> a vector, for sentence-transformers without a source.
        special_tokens: whether tokens that the tokenizer adds count there.
        drop_first: whether position 0 is left out there.
        max_length: most tokens a text may have.
        overwrite: whether a model that layerscope saved there may be replaced.
        writes: whether it must write text alike with and without its cache.
    """

    format: Format
    source: Any = None
    pooling: Pooling = Pooling.MEAN
    special_tokens: bool = False
    drop_first: bool = False
    max_length: int = 512
    overwrite: bool = False
    writes: bool = True


def save_pruned(
    backbone: Backbone,
    removed: Sequence[int],
    out: Path,
    how: Saving,
    *,
    patches: Sequence[Patch] = (),
    texts: Sequence[str],
    record: dict[str, Any],
    evidence: Sequence[str],
) -> Shipped:
    """Save the model without some blocks; a new process must read the same states from it.

    Patches heal it. A model that predicts the next token must also go on from a text alike with and
    without its cache.

    Raises:
        InputError: it cannot be saved so; nothing was written.
        MismatchError: what was saved gives something else; it is kept as `OUT.unverified`.
        RunError: the disk is full.
    """
    kept = blocks.kept_blocks(backbone, removed)
    head = has_head(backbone, how)
    plan = Plan(
        kept,
        output_of(backbone, removed, how),
        (),
        (),
        format=how.format,
        head=head,
        source=how.source,
        generate=_prompts(texts) if head and how.writes and writes_text(backbone) else (),
    )
    with patched(backbone, patches), blocks.skipping(backbone, removed) as shorter:
        site = output_site(shorter)
        if backbone.reads_images:
            plan = with_pictures(shorter, plan, site, backbone.processor)
        else:
            compared = texts_to_compare(backbone, how, texts)
            tokens = [tokens for _, tokens in compared.texts]
            plan = replace(
                plan, expected=verify.token_states(shorter, tokens, site), texts=compared.texts,
                counting=compared.counting, prompt=compared.prompt, max_length=compared.limit,
            )  # fmt: skip

    def written(verification: Verification) -> str:
        story = _story(backbone, removed, how, out, evidence, verification, patches)
        return model_card(backbone, replace(story, results=_results(backbone, how, record)))

    with patched(backbone, patches):
        return ship.ship(backbone, plan, out, overwrite=how.overwrite, record=record, card=written)


def refuse_unsavable(backbone: Backbone, how: Saving, eligible: Sequence[int]) -> None:
    """Raise an InputError where no model without some of these blocks can be saved.

    The whole model and the one without the first block that may go are built and run on a short input.
    """
    shorten.refuse_own_code(backbone)
    if how.format != "transformers":
        shorten.refuse_decoder(backbone, how.format)
        shorten.refuse_processor(backbone, how.format)
    output_of(backbone, (), how)
    refusals = []
    for block in eligible:
        try:
            output_of(backbone, (block,), how)
        except InputError as error:
            refusals.append(error)
        else:
            return
    if refusals:
        raise refusals[0]


def with_writing(
    backbone: Backbone, how: Saving, texts: Sequence[str]
) -> tuple[Saving, tuple[str, ...]]:
    """Return the same, with what the source itself does with its cache, and what to say of that.

    A source that writes other text with its cache than without it (a bidirectional encoder with a head
    for text) is no reason against what is made of it.
    """
    exact = backbone.info.dtype in ("float32", "float64")  # else two words may be equally likely
    if not (exact and has_head(backbone, how) and writes_text(backbone)):
        return how, ()
    whole: Any = backbone.whole
    for prompt in _prompts(texts):
        ids = backbone.tokenizer(prompt, return_tensors="pt")["input_ids"].to(backbone.device)
        try:
            with evaluating(whole):
                one, other = (
                    whole.generate(
                        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS,
                        do_sample=False, use_cache=cache, pad_token_id=0,
                    )
                    for cache in (True, False)
                )  # fmt: skip
            alike = torch.equal(one, other)
        except Exception:  # whatever the model's own code raises
            alike = False
        if not alike:
            said = "the model itself writes other text with its cache than without; that is not checked."
            return replace(how, writes=False), (said,)
    return how, ()


def output_of(backbone: Backbone, removed: Sequence[int], how: Saving) -> shorten.OutputPath:
    """Return where the saved model will return its states, from a run on a short input.

    Raises:
        InputError: it would give other states than the source without these blocks.
    """
    kept = blocks.kept_blocks(backbone, removed)
    small: Any = shorten.smaller(backbone, kept, head=has_head(backbone, how))
    head = has_head(backbone, how) and writes_text(backbone)
    if removed and head and cached(backbone.whole.config) and not cached(small.config):
        raise InputError(
            f"without block {', '.join(map(str, sorted(removed)))} no block of "
            f"{backbone.info.model_class} keeps a cache that transformers can write text with; pass "
            "--no-head, or protect an attention block."
        )
    if how.format != "transformers":
        shorten.refuse_padding(backbone, small, how.format)
    with without(backbone, removed) as shorter:
        wanted = verify.probed_state(shorter, output_site(shorter))
    if not bool(wanted.isfinite().all()):
        raise non_finite_states(backbone, " on a short input")
    output = shorten.find_output(backbone, small, wanted)
    if output != shorten.LAST:
        gone = f" without block {', '.join(map(str, sorted(removed)))}" if removed else ""
        raise InputError(
            f"{backbone.info.model_class}{gone} in transformers does not return the states that were "
            "measured, so it cannot be saved; leave --out out to see what dropping blocks changes."
        )
    return shorten.LAST


def cached(config: Any) -> bool:
    """Whether a model runs with a key-value cache by default."""
    return bool(getattr(configs.text_config_of(config), "use_cache", True))


def has_head(backbone: Backbone, how: Saving) -> bool:
    """Whether the head is saved as well."""
    return how.format == "transformers" and backbone.whole is not backbone.model


def texts_to_compare(backbone: Backbone, how: Saving, texts: Sequence[str]) -> Compared:
    """Return the texts to compare on, and which tokens count in the folder (None: the source says).

    Raises:
        InputError: the format cannot say which tokens count.
    """

    def counting(tokens: Sequence[TokenizedText]) -> PoolingMask | None:
        if how.source is not None:
            return None
        return sentence.pooling_mask(
            backbone.tokenizer,
            tokens,
            how.pooling,
            special_tokens=how.special_tokens,
            drop_first=how.drop_first,
            normalize=False,
        )

    return ship.texts_to_compare(
        backbone, texts, counting, max_length=how.max_length, format=how.format, source=how.source
    )


def _prompts(texts: Sequence[str]) -> list[str]:
    return [" ".join(text.split()[:_PROMPT_WORDS]) for text in list(texts)[:2]]


def kinds_of(backbone: Backbone) -> tuple[str, ...]:
    """Return of each block what kind it is: the config's layer types, or the class of the block."""
    config: Any = backbone.model.config
    for name in ("layer_types", "layers_block_type"):
        kinds = getattr(config, name, None)
        if isinstance(kinds, list | tuple) and len(kinds) == backbone.depth:
            return tuple(str(kind) for kind in kinds)
    return tuple(type(block).__name__ for block in backbone.blocks)


def usage_of(backbone: Backbone, how: Saving, out: Path) -> str:
    """Return a few lines of Python that load the saved folder."""
    sees = backbone.reads_images
    if sees or how.format == "sentence-transformers":
        return card.usage_of(out, how.format, shorten.LAST, "", pictures=sees)
    kind = "AutoModelForCausalLM" if writes_text(backbone) else "AutoModel"
    return (
        f"from transformers import {kind}, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{out}")\n'
        f'model = {kind}.from_pretrained("{out}")'
    )


def _story(
    backbone: Backbone,
    removed: Sequence[int],
    how: Saving,
    out: Path,
    evidence: Sequence[str],
    verification: Verification,
    patches: Sequence[Patch],
) -> Story:
    name, gone = backbone.info.name, ", ".join(map(str, sorted(removed)))
    generated = (
        " Text is generated alike with and without the cache." if verification.generated else ""
    )
    healed = ""
    if patches:
        into = ", ".join(str(patch.block) for patch in patches)
        healed = f" A linear map in place of the removed blocks is folded into block {into}."
    return Story(
        title=f"{name} without {len(removed)} of its {backbone.depth} blocks",
        what=[
            f"{name} without block{'s' if len(removed) > 1 else ''} {gone} of {backbone.depth}; what "
            f"enters a removed block goes on to the next.{healed} Not trained since. Made by "
            "layerscope prune."
        ],
        evidence=evidence,
        usage=usage_of(backbone, how, Path(out.name)),
        library=how.format,
        head=has_head(backbone, how),
        verified=verification.sentence("the source without these blocks") + generated,
    )


def _results(backbone: Backbone, how: Saving, record: dict[str, Any]) -> tuple[EvalResult, ...]:
    """Return the scores of the trial, where they are of what the saved model gives."""
    trial, serving = record["outcomes"][0]["trial"], backbone.serving
    if trial is None:
        return ()
    if has_head(backbone, how):
        facts = {"type": "text-generation", "metric": "perplexity"}
        found = trial["perplexity"]
        return () if found is None else (result("held-out texts", facts, found),)
    as_served = serving is None or (serving.pooling == how.pooling and how.special_tokens)
    if how.format != "sentence-transformers" or not as_served:
        return ()
    return tuple(
        result(name, record["tasks"][name], value) for name, value in trial["scores"].items()
    )
