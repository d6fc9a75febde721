"""What does the tokenizer add and pad with, and does its vocabulary fit the model?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerscope.doctor.records import Finding, judged, skipped
from layerscope.doctor.subject import Subject
from layerscope.sinks import SINK_RATIO, first_token_ratio
from layerscope.tokenization import padding_id, tokenize

_IMAGES = "this model reads images; it has no tokenizer"


def tokenizer(subject: Subject) -> Finding:
    """The tokens that the tokenizer adds are known and marked, and something serves as padding."""
    if subject.images is not None:
        return skipped(_IMAGES)
    words = subject.backbone.tokenizer
    text = subject.texts[0]
    plain = words(text, add_special_tokens=False, verbose=False)["input_ids"]
    full = words(text, verbose=False)["input_ids"]
    place = _inside(plain, full)
    advice = "the tokenizer does not mark what it adds; --special-tokens include counts every token"
    if place is None:
        said = "with its own tokens added, the tokenizer gives a text other tokens than without"
        return judged(False, said, advice)
    front, back = full[:place], full[place + len(plain) :]
    expected = [True] * len(front) + [False] * len(plain) + [True] * len(back)
    [ours] = tokenize(words, [text], len(full) + 1)
    said = (
        f"adds {_named(words, front)} in front and {_named(words, back)} behind; "
        f"{_padding(subject)}{_unused_bos(words, front)}; {_sink(subject)}"
    )
    if list(ours.special) != expected:
        marked = sum(ours.special)
        said = f"marks {marked} tokens of a text as added where it adds {len(front) + len(back)}"
    return judged(list(ours.special) == expected, said, advice)


def _inside(part: Sequence[int], whole: Sequence[int]) -> int | None:
    for start in range(len(whole) - len(part) + 1):
        if list(whole[start : start + len(part)]) == list(part):
            return start
    return None


def _named(words: Any, ids: Sequence[int]) -> str:
    return " ".join(words.convert_ids_to_tokens(list(ids))) if ids else "nothing"


def _padding(subject: Subject) -> str:
    words, config = subject.backbone.tokenizer, subject.backbone.model.config
    used = padding_id(words, config)
    if getattr(words, "pad_token_id", None) is None:
        return f"has no padding token, id {used} stands in and is masked"
    other = getattr(config, "pad_token_id", None)
    differs = f" (the config says {other})" if other not in (None, used) else ""
    return f"pads with {words.pad_token} (id {used}){differs}"


def _unused_bos(words: Any, front: Sequence[int]) -> str:
    bos = getattr(words, "bos_token_id", None)
    return "" if bos is None or bos in front else f"; knows {words.bos_token} but does not add it"


def _sink(subject: Subject) -> str:
    ratio = first_token_ratio(subject.backbone, subject.whole)
    if ratio is None:
        return "no text has a second token to compare the first with"
    policy = (
        "an attention sink, left out by default" if ratio >= SINK_RATIO else "no attention sink"
    )
    return f"the first token's norm is {ratio:.3g} x the median of the others ({policy})"


def vocabulary(subject: Subject) -> Finding:
    """Every id that the tokenizer gives has a row in the model's embeddings."""
    if subject.images is not None:
        return skipped(_IMAGES)
    words = subject.backbone.tokenizer
    model: Any = subject.backbone.model
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids: dict[str, int] = words.get_vocab()
    added = {str(token) for token in getattr(words, "added_tokens_decoder", {}).values()}
    homeless = {token: number for token, number in ids.items() if number >= rows}
    ordinary = homeless.keys() - added
    used = max(max(text.ids) for text in subject.whole)
    said = f"{len(ids):,} tokens, ids up to {max(ids.values()):,}, for {rows:,} rows of embeddings"
    if homeless and not ordinary and used < rows:
        names = ", ".join(sorted(homeless)[:3])
        said += f"; {len(homeless)} without a row ({names}): a text that holds one would fail"
    pad_id = padding_id(words, subject.backbone.model.config)
    advice = (
        f"this tokenizer belongs to another model, or the embeddings were never resized to its "
        f"{len(ids):,} tokens; save the right one beside the model"
    )
    return judged(not ordinary and used < rows and pad_id < rows, said, advice)
