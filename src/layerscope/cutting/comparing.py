"""What the smaller model must give: the layer's states, taken from the source on real inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from layerscope import surgery
from layerscope.cutting.placing import normed
from layerscope.cutting.records import CutSettings
from layerscope.encoding import first_token_for
from layerscope.models import Backbone
from layerscope.settings import FirstToken, Pooling
from layerscope.states import Site
from layerscope.surgery import Counting, Plan
from layerscope.tokenization import TokenizedText, length_limit, tokenize

_PICTURES: Final = 4


def with_texts(
    backbone: Backbone,
    plan: Plan,
    site: Site,
    settings: CutSettings,
    texts: Sequence[str],
    source: Any,
) -> tuple[Plan, list[str]]:
    """Return the plan with the texts to compare on and what each must give; and notes."""
    limit = length_limit(backbone.tokenizer, backbone.model.config, settings.max_length)
    most = limit if source is None else min(limit, source.max_seq_length or limit)
    chosen = surgery.beginnings(texts, most)
    tokens = tokenize(backbone.tokenizer, chosen, limit)
    notes: list[str] = []
    counting: Counting | None = None
    if settings.format == "sentence-transformers":
        counting, notes = _counting(backbone, settings, tokens, source, limit)
    prompt = surgery.default_prompt(source) if settings.format == "sentence-transformers" else ""
    if counting is not None and counting.prompt:
        prompt = counting.prompt + prompt
    if prompt:
        plain, bare = expected_states(backbone, tokens, site), tokens
        chosen = [prompt + text for text in chosen]
        tokens = tokenize(backbone.tokenizer, chosen, limit)
        if counting is not None and prompt == counting.prompt:
            notes.append(_agreement(backbone, counting, plain, bare, tokens, site))
    expected = expected_states(backbone, tokens, site)
    return (
        replace(
            plan,
            expected=expected,
            texts=list(zip(chosen, tokens, strict=True)),
            counting=counting,
            source=source,
            prompt=prompt,
            normalize=settings.normalize,
            max_length=limit,
        ),
        notes,
    )


def expected_states(
    backbone: Backbone, tokens: Sequence[TokenizedText], site: Site
) -> list[Tensor]:
    """Return a site's states (token, dim) of each text; `final_norm` of any layer."""
    found = surgery.token_states(backbone, tokens, Site(site.layer))
    if site.stage != "final_norm" or backbone.final_norm is None:
        return found
    return [normed(backbone, states) for states in found]


def _counting(
    backbone: Backbone,
    settings: CutSettings,
    tokens: Sequence[TokenizedText],
    source: Any,
    limit: int,
) -> tuple[Counting | None, list[str]]:
    """Say which tokens count in the folder: as the source does, or as a scan does."""
    if source is not None and not settings.asks_for_pooling:
        return None, ["Pooling and prompts are the source's own; a scan pools by its own settings."]
    policy = first_token_for(backbone, settings.first_token or FirstToken.AUTO, limit)
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
        _without_first(without, states, text) for states, text in zip(plain, tokens, strict=True)
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


def _without_first(counting: Counting, states: Tensor, text: TokenizedText) -> Tensor:
    """Return the vector without position 0, as a scan makes it."""
    if len(text.ids) == 1:
        return counting.vector(states, text)
    rest = TokenizedText(text.ids[1:], text.special[1:], truncated=False)
    return counting.vector(states[1:], rest)


def with_pictures(backbone: Backbone, plan: Plan, site: Site, processor: Any) -> Plan:
    """Return the plan with noise for pictures: no texts are read by a model of images."""
    pixels = torch.cat([surgery.probe(backbone, seed)["pixel_values"] for seed in range(_PICTURES)])
    states = [_picture_states(backbone, picture[None], site) for picture in pixels]
    return replace(plan, expected=states, pixels=pixels.cpu(), processor=processor)


def _picture_states(backbone: Backbone, picture: Tensor, site: Site) -> Tensor:
    block = backbone.blocks[site.layer - 1]
    states = surgery.given_by(backbone, block, {"pixel_values": picture})[0][0].cpu().clone()
    return normed(backbone, states) if site.stage == "final_norm" else states
