"""Token states that probes are trained on: from one pass, on disk, a site at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerscope.evaluation.classifiers import Floats
from layerscope.models.backbone import Backbone
from layerscope.states.encode import refuse_non_finite
from layerscope.states.extract import Site, TokenStates
from layerscope.states.pooling import mean
from layerscope.states.store import Array, StateStore


class TokenStore:
    """The states of some texts' tokens by site, on disk: as float16 with a scale for each token.

    Half the disk of float32. The scale, the largest entry of a token's state, is what makes it safe:
    at an attention sink single entries pass float16's range, while relative to the largest of their
    token entries lose less than 0.1 %.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - np.asarray(lengths)
        self._means, self._tokens = StateStore(), StateStore()

    def add(self, items: Sequence[int], by_site: Mapping[Site, Mapping[str, Array]]) -> None:
        """Keep what `KeptTokens` made of a batch of texts."""
        places = [np.arange(self.starts[item], self.ends[item]) for item in items]
        means = {str(site): rows["mean"] for site, rows in by_site.items()}
        self._means.add(np.asarray(items), means)
        tokens = {
            f"{site} {kind}": rows[kind]
            for site, rows in by_site.items()
            for kind in ("state", "scale")
            if kind in rows
        }
        if tokens:
            self._tokens.add(np.concatenate(places), tokens)

    def flush(self) -> None:
        """Write what waits."""
        self._means.flush()
        self._tokens.flush()

    def means(self, site: Site) -> Floats:
        """Return a site's mean over the tokens that count, (text, dim)."""
        return self._means.rows(str(site), np.arange(len(self.ends)))

    def tokens(self, site: Site, cut: int) -> tuple[_Texts, _Texts]:
        """Return a site's states of the tokens that count, for the first `cut` texts and the others."""
        every = np.arange(self.ends[-1])
        states = torch.from_numpy(self._tokens.rows(f"{site} state", every))
        scales = torch.from_numpy(self._tokens.rows(f"{site} scale", every))
        spans = list(zip(self.starts.tolist(), self.ends.tolist(), strict=True))
        return _Texts(states, scales, spans[:cut]), _Texts(states, scales, spans[cut:])

    def close(self) -> None:
        """Remove the files."""
        self._means.close()
        self._tokens.close()


@dataclass(frozen=True)
class _Texts(Sequence[Tensor]):
    """For each text its states (token, dim), made float32 when they are asked for."""

    states: Tensor
    scales: Tensor
    spans: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return _Texts(self.states, self.scales, self.spans[item])
        start, end = self.spans[item]
        return self.states[start:end].float() * self.scales[start:end, None]


@dataclass(frozen=True)
class KeptTokens:
    """The reducer that extraction calls: the mean of the tokens that count and, if wanted, each."""

    tokens: bool
    backbone: Backbone

    def __call__(self, tokens: TokenStates) -> dict[str, Array]:
        """Return what is kept of a batch of texts."""
        rows = {"mean": mean(tokens.states, tokens.counted.to(tokens.states.dtype)).float()}
        refuse_non_finite(rows["mean"], tokens.site, self.backbone)
        if self.tokens:
            states = tokens.states[tokens.counted].float()
            scale = states.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            rows |= {"state": (states / scale[:, None]).half(), "scale": scale}
        return {kind: value.cpu().numpy() for kind, value in rows.items()}
