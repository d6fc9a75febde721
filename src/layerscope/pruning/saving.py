"""A model without some of its blocks as a stock checkpoint, proven in a new process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from layerscope import surgery
from layerscope.errors import InputError
from layerscope.models import Backbone, evaluating
from layerscope.pruning.trial import output_site, without, writes_text
from layerscope.settings import Pooling
from layerscope.surgery import Counting, Plan, Shipped, Story, Verification
from layerscope.surgery.verifying import NEW_TOKENS
from layerscope.tokenization import TokenizedText, length_limit, tokenize

_PROMPT_WORDS = 8
Texts = list[tuple[str, TokenizedText]]


@dataclass(frozen=True)
class Saving:
    """How a pruned model is saved.

    Attributes:
        format: of the folder.
        source: the sentence-transformers model that it is part of, whose pooling comes along.
        pooling: token states -> a vector, for sentence-transformers without a source.
        special_tokens: whether tokens that the tokenizer adds count there.
        drop_first: whether position 0 is left out there.
        max_length: most tokens a text may have.
        overwrite: whether a model that layerscope saved there may be replaced.
        writes: whether it must write text alike with and without its cache.
    """

    format: surgery.Format
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
    texts: Sequence[str],
    record: dict[str, Any],
    evidence: Sequence[str],
) -> Shipped:
    """Save the model without some blocks; a new process must read the same states from it.

    A model that predicts the next token must also go on from a text alike with and without its cache.

    Raises:
        InputError: it cannot be saved so; nothing was written.
        MismatchError: what was saved gives something else; it is kept as `OUT.unverified`.
        RunError: the disk is full.
    """
    kept = surgery.kept_blocks(backbone, removed)
    head = has_head(backbone, how)
    counting, read = texts_to_compare(backbone, how, texts)
    prompt = _prompt(how, counting)
    with surgery.skipping(backbone, removed) as shorter:
        site = output_site(shorter)
        expected = surgery.token_states(shorter, [tokens for _, tokens in read], site)
    output = output_of(backbone, removed, how)
    plan = Plan(
        kept,
        output,
        expected,
        read,
        format=how.format,
        head=head,
        counting=counting,
        source=how.source,
        prompt=prompt,
        max_length=length_limit(backbone.tokenizer, backbone.model.config, how.max_length),
        generate=_prompts(texts) if head and how.writes and writes_text(backbone) else (),
    )

    def card(verification: Verification) -> str:
        return surgery.model_card(
            backbone, _story(backbone, removed, how, out, evidence, verification)
        )

    return surgery.ship(backbone, plan, out, overwrite=how.overwrite, record=record, card=card)


def refuse_unsavable(backbone: Backbone, how: Saving, eligible: Sequence[int]) -> None:
    """Raise an InputError where no model without some of these blocks can be saved.

    The whole model and the one without the first block that may go are built and run on a short input.
    """
    surgery.refuse_own_code(backbone)
    if how.format != "transformers":
        surgery.refuse_decoder(backbone, how.format)
        surgery.refuse_processor(backbone, how.format)
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


def output_of(backbone: Backbone, removed: Sequence[int], how: Saving) -> surgery.OutputPath:
    """Return where the saved model will give out its states, from a run on a short input.

    Raises:
        InputError: it would give other states than the source without these blocks.
    """
    kept = surgery.kept_blocks(backbone, removed)
    small: Any = surgery.smaller(backbone, kept, head=has_head(backbone, how))
    head = has_head(backbone, how) and writes_text(backbone)
    if removed and head and cached(backbone.whole.config) and not cached(small.config):
        raise InputError(
            f"without block {', '.join(map(str, sorted(removed)))} no block of "
            f"{backbone.info.model_class} keeps a cache that transformers can write text with; pass "
            "--no-head, or protect an attention block."
        )
    if how.format != "transformers":
        surgery.refuse_padding(backbone, small, how.format)
    ids = tuple(surgery.probe(backbone)["input_ids"][0].tolist())
    text = TokenizedText(ids, (False,) * len(ids), truncated=False)
    with without(backbone, removed) as shorter:
        wanted = surgery.token_states(shorter, [text], output_site(shorter))[0]
    output = surgery.find_output(backbone, small, wanted)
    if output != surgery.LAST:
        gone = f" without block {', '.join(map(str, sorted(removed)))}" if removed else ""
        raise InputError(
            f"{backbone.info.model_class}{gone} in transformers does not give out the states that were "
            "measured, so it cannot be saved; leave --out out to see what dropping blocks changes."
        )
    return surgery.LAST


def cached(config: Any) -> bool:
    """Whether a model runs with a key-value cache unless told otherwise."""
    return bool(getattr(surgery.text_config_of(config), "use_cache", True))


def has_head(backbone: Backbone, how: Saving) -> bool:
    """Whether the head is saved as well."""
    return how.format == "transformers" and backbone.whole is not backbone.model


def texts_to_compare(
    backbone: Backbone, how: Saving, texts: Sequence[str]
) -> tuple[Counting | None, Texts]:
    """Return which tokens count in the folder (None: the source says), and the texts to compare on.

    Raises:
        InputError: the format cannot say which tokens count.
    """
    limit = length_limit(backbone.tokenizer, backbone.model.config, how.max_length)
    most = limit if how.source is None else min(limit, how.source.max_seq_length or limit)
    chosen = surgery.beginnings(texts, most)
    tokens = tokenize(backbone.tokenizer, chosen, limit)
    counting: Counting | None = None
    if how.format == "sentence-transformers" and how.source is None:
        counting = surgery.counting_of(
            backbone.tokenizer,
            tokens,
            how.pooling,
            special_tokens=how.special_tokens,
            drop_first=how.drop_first,
            normalize=False,
        )
    if prompt := _prompt(how, counting):
        chosen = [prompt + text for text in chosen]
        tokens = tokenize(backbone.tokenizer, chosen, limit)
    return counting, list(zip(chosen, tokens, strict=True))


def _prompt(how: Saving, counting: Counting | None) -> str:
    """Return what sentence-transformers will put before each text."""
    if how.format != "sentence-transformers":
        return ""
    return (counting.prompt if counting else "") + surgery.default_prompt(how.source)


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
    if how.format == "sentence-transformers":
        return surgery.usage_of(out, how.format, surgery.LAST, "", pictures=False)
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
) -> Story:
    name, blocks = backbone.info.name, ", ".join(map(str, sorted(removed)))
    generated = (
        " Text is generated alike with and without the cache." if verification.generated else ""
    )
    return Story(
        title=f"{name} without {len(removed)} of its {backbone.depth} blocks",
        what=[
            f"{name} without block{'s' if len(removed) > 1 else ''} {blocks} of {backbone.depth}; what "
            f"enters a removed block goes on to the next. Not trained since. Made by "
            "layerscope prune."
        ],
        evidence=evidence,
        usage=usage_of(backbone, how, Path(out.name)),
        library=how.format,
        verified=(
            f"Loaded in a new process by {verification.reader}, on {verification.texts} texts the "
            f"largest difference from the source without these blocks is {verification.largest:.1e} of "
            f"its length (limit {verification.limit:.0e}).{generated}"
        ),
    )
