"""Readouts with their scores: what a scan keeps of them, and a choice goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd

from layerscope.errors import InputError
from layerscope.metrics.readouts import Floats, Readout


@dataclass(frozen=True)
class Candidate:
    """One row of the table.

    Attributes:
        name: The readout's name, or a baseline's that is no readout.
        readout: What it is; None for LOES and EmbedFilter, which are compared but not chosen.
        highest: Blocks that must run for it.
        score: Mean reciprocal rank of crop retrieval.
        low: Lower 95 % limit of the score by resampling texts.
        high: Upper limit.
    """

    name: str
    readout: Readout | None
    highest: int
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Costs:
    """What it costs to serve a readout.

    Attributes:
        weight_bytes: (block,) bytes of the model's weights with the first 0, 1, ... all blocks.
        seconds: time of a text through no block and through all of them, on the scanned texts.
        dim: dimensions of a layer's vectors.
    """

    weight_bytes: tuple[int, ...]
    seconds: tuple[float, float]
    dim: int

    def size(self, candidate: Candidate) -> int:
        """Return the bytes of weights: of the blocks that must run, one at least, and of the map."""
        mapped = candidate.readout is not None and candidate.readout.map != "none"
        blocks = self.weight_bytes[max(1, candidate.highest)]
        return blocks + (4 * self.dim * (self.dim + 1) if mapped else 0)

    def speed(self, candidate: Candidate) -> float:
        """Return texts a second where every block takes as long as the others."""
        none, every = self.seconds
        share = max(1, candidate.highest) / (len(self.weight_bytes) - 1)
        return 1 / (none + (every - none) * share)


@dataclass(frozen=True, eq=False)
class ReadoutTable:
    """All candidates with each text's contribution to their scores.

    Attributes:
        candidates: in the order in which they were scored.
        contributions: (candidate, text) float64, NaN where undefined.
        own: which candidate is the model's own output.
        baselines: name -> which candidate it is.
        galleries: texts in each of the two folds; compare scores at equal galleries only.
        chance: score of a guess.
        crops: what the vectors are of, in words.
        blocks: number of blocks of the model.
        left_out: name of a readout without a score -> why.
        asked: names of the user's own readouts.
        costs: what serving costs; None where no model was at hand.
    """

    candidates: tuple[Candidate, ...]
    contributions: Floats = field(repr=False)
    own: int
    baselines: Mapping[str, int]
    galleries: tuple[int, int]
    chance: float
    crops: str = ""
    blocks: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    costs: Costs | None = None

    def index(self, readout: Readout | str) -> int:
        """Return which candidate a readout is.

        Raises:
            InputError: it was not scored.
        """
        wanted = Readout.parse(readout) if isinstance(readout, str) else readout
        for place, candidate in enumerate(self.candidates):
            if candidate.readout is not None and candidate.readout.key == wanted.key:
                return place
        raise InputError(
            f"the readout '{wanted}' was not scored; give it among the readouts to compare."
        )

    def frame(self) -> pd.DataFrame:
        """Return a row a candidate with its texts' contributions, for a file."""
        rows = pd.DataFrame([asdict(each) for each in self.candidates])
        names = [str(each.readout or "") for each in self.candidates]
        contributions = list(self.contributions.astype(np.float32))
        return rows.assign(readout=names, contributions=contributions)

    def facts(self) -> dict[str, Any]:
        """Return what the rows do not say, as plain values for a record."""
        return {
            "own": self.own,
            "baselines": dict(self.baselines),
            "galleries": list(self.galleries),
            "chance": self.chance,
            "crops": self.crops,
            "blocks": self.blocks,
            "left_out": dict(self.left_out),
            "asked": list(self.asked),
            "costs": None if self.costs is None else asdict(self.costs),
        }

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, facts: Mapping[str, Any]) -> Self:
        """Read what `frame` and `facts` wrote."""
        candidates = tuple(
            Candidate(
                name=row["name"],
                readout=Readout.parse(row["readout"]) if row["readout"] else None,
                highest=int(row["highest"]),
                score=float(row["score"]),
                low=float(row["low"]),
                high=float(row["high"]),
            )
            for row in frame.to_dict("records")
        )
        contributions = np.stack(frame["contributions"].tolist()).astype(np.float64)
        known = dict(facts)
        for name in ("galleries", "asked"):
            known[name] = tuple(known.get(name, ()))
        if costs := known.get("costs"):
            weights, seconds = tuple(costs["weight_bytes"]), tuple(costs["seconds"])
            known["costs"] = Costs(weights, seconds, costs["dim"])
        return cls(candidates, contributions, **known)
