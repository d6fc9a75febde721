"""The tokenizer of the suite, and batches of its tokens for each objective."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from studies.testbed.loop import Batch
from studies.testbed.models import CLS, CONTEXT, END, MASK, SEP, VOCABULARY

SPECIAL = ("<|endoftext|>", "<|padding|>", "[CLS]", "[SEP]", "[MASK]")
MASKED = 0.15  # part of the tokens that a masked model must predict; of these
SHOWN_AS_MASK, SHOWN_AS_OTHER = 0.8, 0.1  # and the rest are shown as they are


def trained(texts: Iterable[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer of 2,048 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, masked: bool) -> None:
    """Write the two files that `AutoTokenizer` reads, with [CLS] and [SEP] if the model masks."""
    names: dict[str, str] = {"pad_token": SPECIAL[1]}
    if masked:
        ends = [(SPECIAL[CLS], CLS), (SPECIAL[SEP], SEP)]
        template = f"{SPECIAL[CLS]} $A {SPECIAL[SEP]}"
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, pair=f"{template} $B {SPECIAL[SEP]}", special_tokens=ends
        )
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    else:
        names |= {"bos_token": SPECIAL[END], "eos_token": SPECIAL[END], "unk_token": SPECIAL[END]}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        **names,
    }
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def blocks(tokenizer: Tokenizer, documents: Sequence[str]) -> Tensor:
    """Return all documents as rows of 128 tokens, each document ended; an unfinished row is left out."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(list(documents), add_special_tokens=False):
        ids.extend(encoding.ids)
        ids.append(END)
    return torch.tensor(ids[: len(ids) // CONTEXT * CONTEXT]).reshape(-1, CONTEXT)


def causal(rows: Iterable[Tensor]) -> Iterator[Batch]:
    """Yield batches in which each next token is to be predicted."""
    for found in rows:
        yield {"input_ids": found, "labels": found}


def masked(rows: Iterable[Tensor], seed: int) -> Iterator[Batch]:
    """Yield batches in which masked tokens are to be predicted, as BERT's authors mask them."""
    generator = torch.Generator().manual_seed(seed)
    for found in rows:
        whole = found.clone()
        whole[:, 0], whole[:, -1] = CLS, SEP
        draw = torch.rand(whole.shape, generator=generator)
        draw[:, [0, -1]] = 1.0
        other = torch.randint(len(SPECIAL), VOCABULARY, whole.shape, generator=generator)
        shown = whole.clone()
        shown[draw < MASKED * (SHOWN_AS_MASK + SHOWN_AS_OTHER)] = MASK
        as_other = draw < MASKED * SHOWN_AS_OTHER
        shown[as_other] = other[as_other]
        yield {"input_ids": shown, "labels": torch.where(draw < MASKED, whole, -100)}


def unigram_entropy(train: Tensor, held_out: Tensor) -> float:
    """Return the loss on held-out rows of the tokens' frequencies in training, in nats."""
    counts = np.bincount(train.flatten().numpy(), minlength=VOCABULARY) + 1.0
    return float(-np.log(counts / counts.sum())[held_out.flatten().numpy()].mean())
