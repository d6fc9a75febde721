"""Verify a saved model: a new process loads it with stock libraries, and its states are compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from layerscope.data.tokens import TokenizedText
from layerscope.errors import RunError
from layerscope.export.formats import MismatchError
from layerscope.export.shorten import OutputPath
from layerscope.models.backbone import Backbone, given_by, probe
from layerscope.models.modes import evaluating
from layerscope.states.extract import Site, TokenStates, batches, extract

ONNX_LIMIT: Final = 1e-4  # another runtime, which sums in another order
NEW_TOKENS: Final = 16
_TEXTS: Final = 16
_WORDS, _CHARACTERS = 24, 120  # of each
_TIMEOUT: Final = 1800


@dataclass(frozen=True)
class Verification:
    """What a new process found in a saved folder.

    Attributes:
        reader: the class that loaded it.
        texts: how many texts were compared.
        largest: the largest difference of a token (or a vector), as a share of its length.
        limit: the largest that counts as equal in this dtype.
        seconds: time to load it there.
        parameters: weights of what was loaded.
        generated: whether text was generated alike with and without the cache; None if not asked.
    """

    reader: str
    texts: int
    largest: float
    limit: float
    seconds: float
    parameters: int
    generated: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a record."""
        return asdict(self)

    def sentence(self, source: str) -> str:
        """Return what was found, for a model card; `source` names what the model is compared with."""
        return (
            f"Loaded in a new process by {self.reader}, on {self.texts} texts the largest difference "
            f"from {source} is {self.largest:.1e} of its length (limit {self.limit:.0e})."
        )


@dataclass(frozen=True)
class Request:
    """What the new process is asked for.

    Attributes:
        format: transformers or sentence-transformers.
        texts: what it reads, each by itself.
        output: where in the model's output the states are.
        max_length: tokens that a text is cut to.
        generate: prompts to go on from, with and without the cache.
        device: where to compute; what is expected was computed on one of the same kind.
        parameters: weights of the model, where the format cannot say.
        pixels: (picture, channel, row, column) for a model of images, in place of texts.
    """

    format: str
    texts: Sequence[str] = ()
    output: OutputPath = ()
    max_length: int = 128
    generate: Sequence[str] = ()
    device: str = "cpu"
    parameters: int = 0
    pixels: Tensor | None = None


@dataclass(frozen=True)
class Answer:
    """What the new process gave: arrays by name, and facts."""

    arrays: dict[str, Tensor]
    facts: dict[str, Any]


def read_back(folder: Path, request: Request) -> Answer:
    """Load a folder in a new process and return what it gives there.

    Raises:
        MismatchError: stock libraries cannot load it.
        RunError: the process was killed.
    """
    with tempfile.TemporaryDirectory() as room:
        ask, answer = Path(room, "request.json"), Path(room, "answer.safetensors")
        asked: dict[str, Any] = asdict(request) | {
            "folder": str(folder.resolve()),
            "threads": torch.get_num_threads(),
            "new_tokens": NEW_TOKENS,
            "pixels": None,
        }
        if request.pixels is not None:
            asked["pixels"] = str(Path(room, "pixels.safetensors"))
            save_file({"pixels": request.pixels.contiguous()}, asked["pixels"])
        ask.write_text(json.dumps(asked), encoding="utf-8")
        _run(ask, answer)
        with safe_open(str(answer), framework="pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Answer(arrays, json.loads(file.metadata()["facts"]))


def _run(request: Path, answer: Path) -> None:
    program = Path(__file__).with_name("reload.py")
    try:
        done = subprocess.run(  # noqa: S603
            # -P: the program's own folder must not stand in for libraries of the same names
            [sys.executable, "-P", str(program), str(request), str(answer)],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(
            f"the process that checks the saved model took over {_TIMEOUT // 60} minutes and was "
            "stopped; nothing was kept."
        ) from error
    if done.returncode < 0:
        raise RunError(
            f"the process that checks the saved model was killed (signal {-done.returncode}), most "
            "likely for want of memory; nothing was kept."
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise MismatchError(f"the saved model cannot be loaded in a new process: {last}.")


def beginnings(texts: Sequence[str], limit: int) -> list[str]:
    """Return the first distinct texts, so little of each that no limit of tokens cuts it again.

    A saved folder may have a limit of its own, and a text that it cuts would be another text.
    """
    most = max(1, min(_CHARACTERS, limit // 2))
    short = (" ".join(text.split()[:_WORDS])[:most].strip() for text in texts)
    return list(dict.fromkeys(filter(None, short)))[:_TEXTS]


def token_states(backbone: Backbone, texts: Sequence[TokenizedText], site: Site) -> list[Tensor]:
    """Return one site's states (token, dim) of each text, read by itself."""
    counted = [[True] * len(text.ids) for text in texts]
    found: dict[int, Tensor] = {}
    for result in extract(backbone, batches(backbone, texts, counted, budget=1), [site], _kept):
        found[result.items[0]] = result.by_site[site]
    return [found[place] for place in range(len(texts))]


def _kept(tokens: TokenStates) -> Tensor:
    return tokens.states[0].cpu().clone()


def expected_states(
    backbone: Backbone, tokens: Sequence[TokenizedText], site: Site
) -> list[Tensor]:
    """Return a site's states (token, dim) of each text; `final_norm` of any layer."""
    found = token_states(backbone, tokens, Site(site.layer))
    if site.stage != "final_norm" or backbone.final_norm is None:
        return found
    return [normed(backbone, states) for states in found]


def probed_state(backbone: Backbone, site: Site) -> Tensor:
    """Return a site's state (token, dim) of the short input; `final_norm` of any layer."""
    block = backbone.blocks[site.layer - 1]
    states = given_by(backbone, block, probe(backbone))[0]
    if site.stage == "final_norm" and backbone.final_norm is not None:
        return normed(backbone, states[0])
    return states[0]


def normed(backbone: Backbone, states: Tensor) -> Tensor:
    """Return states (token, dim) after the final norm."""
    norm: Any = backbone.final_norm
    weight = next(norm.parameters(), next(backbone.model.parameters()))
    with evaluating(norm):
        found: Tensor = norm(states[None].to(weight.device, weight.dtype))[0]
    return found.to("cpu", states.dtype)


def picture_states(backbone: Backbone, picture: Tensor, site: Site) -> Tensor:
    """Return a site's state (patch, dim) of one picture (1, channel, row, column)."""
    block = backbone.blocks[site.layer - 1]
    states = given_by(backbone, block, {"pixel_values": picture})[0][0].cpu().clone()
    return normed(backbone, states) if site.stage == "final_norm" else states


def compare(
    expected: Sequence[Tensor],
    answer: Answer,
    name: str,
    what: str,
    *,
    limit: float,
) -> Verification:
    """Compare what was expected of each text with what came.

    Args:
        expected: states (token, dim) or a vector (dim,) of each text.
        answer: what the new process gave.
        name: of the arrays in the answer: "states" or "vector".
        what: what is compared, for people.
        limit: the largest difference that counts as equal, see `LIMITS`.

    Raises:
        MismatchError: they differ; the message says where, and by how much.
    """
    if answer.facts["missing"] or answer.facts["unexpected"]:
        names = [*answer.facts["missing"], *answer.facts["unexpected"]]
        raise MismatchError(
            f"the saved model lacks or has left over {len(names)} weights when it is loaded, such as "
            f"{names[0]!r}."
        )
    largest = 0.0
    for place, wanted in enumerate(expected):
        came = answer.arrays[f"{name}.{place}"].to(wanted.dtype)
        if came.shape != wanted.shape:
            raise MismatchError(
                f"the saved model gives {what} of shape {tuple(came.shape)} for text {place + 1}, "
                f"expected {tuple(wanted.shape)}."
            )
        shares = distances(came, wanted)
        if not bool((shares <= limit).all()):
            raise MismatchError(_where(shares, came, wanted, limit, place, what))
        largest = max(largest, float(shares.max()))
    return Verification(
        reader=answer.facts["class"],
        texts=len(expected),
        largest=largest,
        limit=limit,
        seconds=round(answer.facts["seconds"], 3),
        parameters=answer.facts["parameters"],
    )


def distances(came: Tensor, wanted: Tensor) -> Tensor:
    """Return how far each token of a text, or its vector, is off, as a share of its own length.

    Each token is compared with its own length, since next to an attention sink's every other difference
    would vanish; a token shorter than the text's median length is compared with that.
    """
    lengths = _rows(wanted).norm(dim=-1)
    tiny = torch.finfo(wanted.dtype).tiny
    off: Tensor = _rows(came - wanted).norm(dim=-1) / lengths.clamp(
        min=max(tiny, float(lengths.median()))
    )
    return off


def _rows(states: Tensor) -> Tensor:
    return states if states.ndim == 2 else states[None]


def _where(
    shares: Tensor, came: Tensor, wanted: Tensor, limit: float, place: int, what: str
) -> str:
    at = int(shares.nan_to_num(torch.inf).argmax())
    token = f", token {at + 1}" if wanted.ndim == 2 else ""
    pair = _rows(came)[at], _rows(wanted)[at]
    return (
        f"the saved model gives other {what}: text {place + 1}{token} is off by {float(shares[at]):.1e} "
        f"of its length (limit {limit:.0e}; cosine {float(torch.cosine_similarity(*pair, dim=0)):.4f})."
    )
