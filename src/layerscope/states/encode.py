"""Texts -> pooled vectors of every site, in a bank: each distinct text runs through the model once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from torch import Tensor

from layerscope.config import FirstToken, Pooling
from layerscope.data.images import Picture
from layerscope.data.texts import SAMPLE, read_texts
from layerscope.data.tokens import TokenizedText, length_limit, padding_id
from layerscope.models.backbone import Backbone, non_finite_states
from layerscope.models.processing import read
from layerscope.settings import TokenConfig
from layerscope.states.bank import VectorBank, description, hash_of, key
from layerscope.states.extract import (
    Progress,
    Site,
    TokenStates,
    batches,
    extract,
    note_on_padding,
    silent,
    sites_of,
)
from layerscope.states.pooling import decided, first_token_ratio, first_token_ratios, pool
from layerscope.states.store import Array

BANK_BUDGET: Final = 20_000_000_000  # bytes; beyond it only the requested pooling is kept
_FLOAT: Final = 4


class TokenPolicy(TokenConfig):
    """Which tokens of a text count."""

    @classmethod
    def of_config(cls, config: TokenConfig) -> Self:
        """Return the policy of a command's config."""
        return cls(**{name: getattr(config, name) for name in cls.model_fields})

    def by_rule(self, text: TokenizedText) -> list[bool]:
        """Return whether each token counts."""
        return text.counted(
            special_tokens=bool(self.special_tokens),
            first_token=self.first_token is not FirstToken.DROP,
        )

    def counted(self, text: TokenizedText) -> list[bool]:
        """Return whether each token counts; all tokens count if otherwise none would."""
        marks = self.by_rule(text)
        return marks if any(marks) else [True] * len(text.ids)


@dataclass(frozen=True)
class OpenBank:
    """A bank and the token policy that was decided for it.

    Attributes:
        bank: the vectors.
        policy: which tokens count, with `auto` decided.
        first_token_ratio: norm of position 0 over the median of the others, at the worst layer; None
            if it was not needed.
    """

    bank: VectorBank
    policy: TokenPolicy
    first_token_ratio: float | None


def open_bank(folder: Path, backbone: Backbone, policy: TokenPolicy) -> OpenBank:
    """Open or create the bank of a model.

    Whether the first token is a sink is measured once per model, on the built-in sample, so that neither
    the order of tasks nor their texts can change which tokens count.

    Raises:
        InputError: the folder holds vectors of another model, or with other tokens counted.
    """
    limit = length_limit(backbone.tokenizer, backbone.model.config, policy.max_length)
    ratio = ((description(folder) or {}).get("facts") or {}).get("first_token_ratio")
    if ratio is None and policy.first_token is FirstToken.AUTO:
        ratio = sample_ratio(backbone, limit)
    policy = policy.changed(first_token=decided(policy.first_token, ratio), max_length=limit)
    info = backbone.info
    identity = {
        "weights_fingerprint": info.weights_fingerprint,
        "revision": info.revision,
        "tokenizer_fingerprint": info.tokenizer_fingerprint,
        "config_fingerprint": info.config_fingerprint,
        "dtype": info.dtype,
        "special_tokens": bool(policy.special_tokens),
        "first_token": policy.first_token.value,
        "max_length": limit,
    }
    if backbone.padding == "none":  # a bank of padded batches would hold other vectors
        identity["batches"] = "of one length"
    facts = {"model": info.name, "dim": info.dim, "first_token_ratio": ratio}
    return OpenBank(VectorBank(folder, identity, facts), policy, ratio)


def first_token_for(backbone: Backbone, asked: FirstToken, limit: int) -> FirstToken:
    """Return a policy on the first token with `auto` decided on the built-in sample."""
    if asked is not FirstToken.AUTO:
        return asked
    return decided(asked, sample_ratio(backbone, limit))


def sample_ratio(backbone: Backbone, limit: int) -> float | None:
    """Return how far the first token's norm exceeds the others' on the built-in sample.

    None for a model of images, whose first token is a class token, which is special, or a patch.
    """
    return first_token_ratio(backbone, _sample(backbone, limit))


def sample_ratios(backbone: Backbone, limit: int) -> dict[int, float]:
    """Return the same of each layer, 0 to L; nothing for a model of images."""
    return first_token_ratios(backbone, _sample(backbone, limit))


def _sample(backbone: Backbone, limit: int) -> list[TokenizedText]:
    if backbone.reads_images:
        return []
    return read(backbone, read_texts(SAMPLE, limit=64).texts, limit)


@dataclass
class Encoded:
    """Counts of what an encoder has run through the model so far.

    Attributes:
        texts: number of texts.
        tokens: number of their tokens, without padding.
        seconds: time taken.
    """

    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the record."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


class BankEncoder:
    """Reads vectors of texts from a bank, and runs the model on texts that the bank lacks.

    Args:
        backbone: the model.
        opened: its bank, and which tokens count.
        pooling: the pooling whose vectors are read.
        poolings: poolings to store; None stores all while the bank stays below its budget.
        sites: sites to store; None stores the output of every block and of the model.
        batch_tokens: padded tokens in one forward pass.
        pictures: key -> image, where keys of images are asked for in place of texts.
        progress: called with the number of tokens that went through the model.
    """

    def __init__(
        self,
        backbone: Backbone,
        opened: OpenBank,
        pooling: Pooling,
        *,
        poolings: Sequence[Pooling] | None = None,
        sites: Sequence[Site] | None = None,
        batch_tokens: int = 4096,
        pictures: Mapping[str, Picture] | None = None,
        progress: Progress = silent,
    ) -> None:
        self.pictures = {} if pictures is None else pictures
        self.backbone, self.bank, self.policy = backbone, opened.bank, opened.policy
        self.pooling, self.poolings = pooling, poolings
        self.batch_tokens, self.progress = batch_tokens, progress
        self.sites = sites_of(backbone) if sites is None else tuple(sites)
        self.encoded = Encoded()
        self.notes: dict[str, None] = dict.fromkeys(note_on_padding(backbone))

    def vectors(self, site: Site, texts: Sequence[str]) -> Array:
        """Return one site's vectors (text, dim) of some texts; the model runs on those not yet stored.

        Raises:
            RunError: states that are not finite, a text that does not fit in memory, a full disk.
        """
        names = [hash_of(text) for text in texts]
        self.fill(texts, names)
        return self.bank.vectors(site, self.pooling, names)

    def fill(self, texts: Sequence[str], names: Sequence[bytes]) -> None:
        """Run the model on the texts that the bank lacks, for all sites at once."""
        if not self.bank.missing(names, self.pooling):
            return
        with self.bank.writing():
            missing = self.bank.missing(names, self.pooling)
            if not missing:  # another process encoded them in the meantime
                return
            started = time.perf_counter()
            by_name = dict(zip(names, texts, strict=True))
            # Batches decide the last digits, so an encoding that was killed resumes with its own batches.
            planned = self.bank.load_plan(missing, by_name.keys())
            if not planned:
                planned = missing
                self.bank.save_plan(planned)
            try:
                self._encode([by_name[name] for name in planned], planned, set(missing))
            finally:  # an interrupt or a failure must not lose computed vectors
                self.bank.flush()
            self.bank.drop_plan(planned)
            self.encoded.seconds += time.perf_counter() - started

    def _encode(self, texts: Sequence[str], names: Sequence[bytes], missing: set[bytes]) -> None:
        tokenized = self._tokenized(texts)
        marks = [self.policy.counted(text) for text in tokenized]
        facts = np.array(
            [(len(t.ids), t.truncated, not any(self.policy.by_rule(t))) for t in tokenized],
            dtype=np.int32,
        )
        poolings = self._poolings(len(missing))
        total = sum(len(t.ids) for t, name in zip(tokenized, names, strict=True) if name in missing)
        done, stage = 0, "encoding images" if self.pictures else "encoding texts"
        self.progress(stage, done, total)
        planned = batches(
            self.backbone,
            tokenized,
            marks,
            self.batch_tokens,
            finished={item for item, name in enumerate(names) if name not in missing},
            tight=True,
        )
        for result in extract(self.backbone, planned, self.sites, _Pooled(poolings, self.backbone)):
            items = list(result.items)
            rows = {
                key(site, pooling): vectors
                for site, by_pooling in result.by_site.items()
                for pooling, vectors in by_pooling.items()
            }
            self.bank.add([names[item] for item in items], rows | {"facts": facts[items]})
            tokens = sum(len(tokenized[item].ids) for item in items)
            self.encoded.texts += len(items)
            self.encoded.tokens += tokens
            done += tokens
            self.progress(stage, min(done, total), total)

    def _tokenized(self, texts: Sequence[str]) -> list[TokenizedText]:
        samples = [self.pictures.get(text, text) for text in texts]
        found = read(self.backbone, samples, self.policy.max_length)
        # The model needs at least one token, even for a text without any.
        filler = padding_id(self.backbone.tokenizer, self.backbone.model.config)
        nothing = TokenizedText((filler,), (True,), truncated=False)
        return [text if text.ids else nothing for text in found]

    def _poolings(self, texts: int) -> tuple[Pooling, ...]:
        """Return the poolings to store: all, unless some were chosen or the bank would grow too big."""
        if self.poolings is not None:
            return tuple(dict.fromkeys((self.pooling, *self.poolings)))
        one = texts * len(self.sites) * self.backbone.info.dim * _FLOAT
        free = shutil.disk_usage(self.bank.folder).free
        if self.bank.size + one * len(Pooling) <= min(BANK_BUDGET, free // 2):
            return tuple(Pooling)
        note = (
            f"the bank keeps {self.pooling.value} pooling only: all {len(Pooling)} would take more than "
            f"{min(BANK_BUDGET, free // 2) / 1e9:.0f} GB; --bank-poolings names those to keep."
        )
        self.notes[note] = None
        return (self.pooling,)


def refuse_non_finite(vectors: Tensor, site: Site, backbone: Backbone) -> None:
    """Raise a NonFiniteError if vectors of a site hold NaN or infinity."""
    if not bool(vectors.isfinite().all()):
        raise non_finite_states(backbone, f" at {site}")


@dataclass(frozen=True)
class _Pooled:
    """Reducer for `extract`: token states of a site -> one vector per text and pooling."""

    poolings: tuple[Pooling, ...]
    backbone: Backbone

    def __call__(self, tokens: TokenStates) -> dict[Pooling, Array]:
        found = {pooling: pool(tokens, pooling).float() for pooling in self.poolings}
        for vectors in found.values():
            refuse_non_finite(vectors, tokens.site, self.backbone)
        return {pooling: vectors.cpu().numpy() for pooling, vectors in found.items()}
