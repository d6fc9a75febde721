"""What mteb sees of a model: an encoder for each layer, that reads its vectors from the bank."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from layerscope.settings import EvaluateConfig
from layerscope.states.bank import hash_of
from layerscope.states.encode import BankEncoder
from layerscope.states.extract import Site
from layerscope.states.store import Array


class LayerEncoder:
    """One site of a model as mteb's `EncoderProtocol`.

    The first site that is asked for a text has it run through the model, which fills the bank for all
    sites; the others only read.

    Args:
        source: the model over its bank.
        site: whose vectors to give.
        settings: prompts, pooling, length of the vectors.

    Attributes:
        seen: the distinct texts that were asked for, by their hash.
    """

    def __init__(self, source: BankEncoder, site: Site, settings: EvaluateConfig) -> None:
        self._source, self._site, self._settings = source, site, settings
        self.seen: set[bytes] = set()

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        prompt_type: Any = None,
        **_: Any,
    ) -> Array:
        """Return one vector (text, dim) for each text in batches of texts."""
        texts = [text for batch in inputs for text in batch["text"]]
        before = self._prompt(prompt_type)
        if before:
            texts = [before + text for text in texts]
        self.seen.update(map(hash_of, texts))
        vectors = self._source.vectors(self._site, texts)
        return unit(vectors) if self._settings.normalize else vectors

    def _prompt(self, prompt_type: Any) -> str:
        given = self._settings.query_prompt
        is_query = str(getattr(prompt_type, "value", prompt_type)) == "query"
        return given if is_query and given is not None else self._settings.prompt

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosine of every vector of the one with every vector of the other."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosine of each vector of the one with its counterpart in the other."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> Any:
        """A name and arguments that no other layer, pooling or model shares.

        mteb keeps results by them: under one name it would give one layer's score for another.
        """
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        info, site = self._source.backbone.info, self._site
        short = re.sub(r"[^\w.-]+", "-", info.name).strip("-") or "model"
        return ModelMeta.create_empty(
            {
                "name": f"layerscope/{short}-{site}-{self._settings.pooling.value}",
                "revision": info.weights_fingerprint,
                "similarity_fn_name": ScoringFunction.COSINE,
                "embed_dim": info.dim,
                "experiment_kwargs": {
                    "layer": site.layer,
                    "stage": site.stage,
                    **self._settings.deciding(),
                },
            }
        )


def unit(vectors: Array) -> Array:
    """Return vectors (text, dim) at unit length; one of zeros stays what it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Array = vectors / np.where(lengths > 0, lengths, 1)
    return found
