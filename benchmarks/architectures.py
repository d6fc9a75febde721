"""Every architecture that reads texts, a tiny random model of each: is what layerscope does right?

`python -m benchmarks architectures` measures all of them, `--only NAME` one. Each model is saved, and
what layerscope makes of the folder is held against the model as stock transformers loads it, with
hooks of this file's own: no padding, one text at a time.

- scan: every layer's mean-pooled vectors; and the table, in batches and text by text
- doctor: no check fails
- cut: the checkpoint of the first half gives layer k
- sentence-transformers: the same, as that library loads it
- prune: the checkpoint without a block gives what the model does when that block hands on what it gets

Every cell is "yes", "refused: ..." with the reason, before a text was read or a weight written, or
"FAILS: ...". Finished architectures are kept under `runs/architectures`, for the sources as they stand,
so that a stopped campaign goes on. The results go to benchmarks/results/architectures.json and, as a
table, into docs/architectures.md.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import torch
import transformers
from torch import Tensor, nn

import layerscope
from benchmarks.tables import markdown
from layerscope.analysis.reduce import POOLED, key
from layerscope.errors import InputError, LayerscopeError
from layerscope.export import reload, verify
from layerscope.models.architectures import ARCHITECTURES as TABLE
from layerscope.states.extract import Site
from layerscope.states.store import StateStore

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import matrix  # noqa: E402
from architectures import ARCHITECTURES, Tiny, save_random  # noqa: E402
from tiny import texts  # noqa: E402

WORK: Final = Path("runs/architectures")
TEXTS: Final = texts(12, longest=12)
FEW: Final = TEXTS[:4]
VECTORS: Final = 1e-4  # greatest difference of vectors and states, as a share of the largest
NUMBERS: Final = 1e-3  # and of measures, which sum and divide them
_SAID: Final = 300


class WrongError(AssertionError):
    """What layerscope did is not what the model does."""


# --- the model by itself ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Own:
    """A model as stock transformers loads it, read by hooks of our own.

    Attributes:
        core: the part that makes the states of texts.
        tiny: where its blocks are.
        tokenizer: that of its folder.
    """

    core: nn.Module
    tiny: Tiny
    tokenizer: Any

    @property
    def blocks(self) -> list[nn.Module]:
        """Its blocks, each once."""
        return list(self.core.get_submodule(self.tiny.blocks).children())

    def states(self, text: str, skipped: int | None = None) -> list[Tensor]:
        """Return what enters block 1 and what leaves each block, (token, dim), then the last state.

        Args:
            text: read by itself.
            skipped: a block (from 1) that hands on what it is given.
        """
        ids = self.tokenizer(text, return_tensors="pt")["input_ids"]
        seen: list[Tensor] = []
        with self._hooks(seen, skipped), torch.inference_mode():
            output = self.core(input_ids=ids, output_hidden_states=not self.tiny.blocks)
        found = seen or list(output.hidden_states)
        return [_rows(state, ids.shape[1]) for state in (*found, output[0])]

    @contextmanager
    def _hooks(self, seen: list[Tensor], skipped: int | None) -> Iterator[None]:
        """Add to `seen` what enters block 1 and leaves each block."""

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if not seen:
                seen.append(given(args, kwargs))

        def leave(_module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
            seen.append(first(output))

        blocks = self.blocks if self.tiny.blocks else []
        handles = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks[:1]]
        if skipped is not None:
            handles.append(blocks[skipped - 1].register_forward_hook(hand_on, with_kwargs=True))
        handles += [block.register_forward_hook(leave, with_kwargs=True) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def middle(self) -> int:
        """The layer in the middle."""
        if self.tiny.blocks:
            return len(self.blocks) // 2
        return int(self.tiny.config().num_hidden_layers) // 2

    def counted(self, text: str) -> Tensor:
        """For each token of a text, whether the tokenizer did not add it."""
        mask = self.tokenizer(text, return_special_tokens_mask=True)["special_tokens_mask"]
        return torch.tensor(mask) == 0

    def pooled(self) -> Tensor:
        """Mean-pooled vectors (layer, text, dim) of `TEXTS`, without the tokens that are added."""
        each = [
            torch.stack([state[self.counted(text)].mean(0) for state in self.states(text)[:-1]])
            for text in TEXTS
        ]
        return torch.stack(each, dim=1)


def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the states among a block's arguments."""
    state: Tensor = args[0] if args else kwargs["hidden_states"]
    return state


def first(output: Any) -> Tensor:
    """Return the states among what a block gives."""
    state: Tensor = output if isinstance(output, Tensor) else output[0]
    return state


def hand_on(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    """Put what a block was given in the place of what it gives: a hook that makes it change nothing.

    LiLT's blocks carry states of the layout beside those of the text.
    """
    state = given(args, kwargs)
    if isinstance(output, Tensor):
        return state
    rest = list(output[1:])
    for place, (came, left) in enumerate(zip(args[1:], rest, strict=False)):
        if isinstance(came, Tensor) and came.ndim == 3 and came.shape == left.shape:
            rest[place] = came
    return type(output)([state, *rest])


def _rows(state: Tensor, length: int) -> Tensor:
    """(token, dim) of one text, however the model lays it out; without what it pads for itself."""
    if state.shape[0] == 1 and state.ndim == 3:
        return state[0, :length].float().clone()
    return state.reshape(-1, state.shape[-1])[:length].float().clone()


def own(folder: Path, tiny: Tiny) -> Own:
    """Load a folder as its model card says: by the class that its config names."""
    config = transformers.AutoConfig.from_pretrained(folder)
    kind: Any = getattr(transformers, config.architectures[0])
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    core = model.base_model
    if tiny.inside == "encoder":
        core = core.get_encoder()
    elif hasattr(core, tiny.inside):
        core = core.get_submodule(tiny.inside)
    return Own(core, tiny, transformers.AutoTokenizer.from_pretrained(folder))


# --- the checks --------------------------------------------------------------------------------------


def scan(folder: Path, source: Own) -> str:
    """A scan's vectors are those of our own hooks, and its table does not depend on the batches."""
    settings: dict[str, Any] = {"first_token": "keep", "augmentation": ("halves",), "resamples": 10}
    kept: dict[str, dict[int, Any]] = {}
    add = StateStore.add

    def keep(store: StateStore, items: Any, rows: Any) -> None:
        for name, values in rows.items():
            kept.setdefault(name, {}).update(zip(items.tolist(), values, strict=True))
        add(store, items, rows)

    with mock.patch.object(StateStore, "add", keep):
        together = layerscope.scan(folder, TEXTS, **settings)
    alone = layerscope.scan(folder, TEXTS, batch_tokens=1, **settings)
    expected = source.pooled()
    for layer, vectors in enumerate(expected):
        rows = kept.get(key(Site(layer), POOLED))
        if rows is None:
            raise WrongError(f"it has no layer {layer} of {len(expected) - 1}")
        came = torch.from_numpy(np.stack([rows[item] for item in range(len(TEXTS))]))
        same(came, vectors, f"vectors of layer {layer}")
    depth = together.record["model"]["blocks"]
    if depth != len(expected) - 1:
        raise WrongError(f"it finds {depth} blocks, the model has {len(expected) - 1}")
    same_tables(together.table(), alone.table())
    return "yes"


def same(came: Tensor, expected: Tensor, what: str, limit: float = VECTORS) -> None:
    """Raise a WrongError if two arrays part by more than a share of the larger one's greatest."""
    if came.shape != expected.shape:
        raise WrongError(f"{what}: shape {tuple(came.shape)}, expected {tuple(expected.shape)}")
    scale = max(float(expected.abs().max()), 1e-12)
    off = float((came - expected).abs().max()) / scale
    if not off <= limit:
        raise WrongError(f"{what} are off by {off:.1e}")


def same_tables(one: Any, other: Any) -> None:
    """Raise a WrongError unless two results tables hold the same numbers."""
    keys = ["perturbation", "level", "layer", "stage", "other_layer", "metric", "convention"]
    both = one.merge(other, on=keys, how="outer", suffixes=("", "_alone"), indicator=True)
    lonely = both[both["_merge"] != "both"]
    if len(lonely):
        raise WrongError(f"{len(lonely)} numbers are there in batches or text by text only")
    left, right = both["value"].to_numpy(float), both["value_alone"].to_numpy(float)
    off = np.abs(left - right) / np.maximum(np.abs(left), 1)
    if not (off <= NUMBERS).all():
        row = both.iloc[int(np.nan_to_num(off, nan=np.inf).argmax())]
        count = int((~(off <= NUMBERS)).sum())
        raise WrongError(
            f"{count} of {len(both)} numbers depend on the batches: {row['metric']} of layer "
            f"{row['layer']} is {row['value']:.6g}, text by text {row['value_alone']:.6g}"
        )


def doctor(folder: Path, _source: Own) -> str:
    """No check of the doctor fails."""
    found = layerscope.doctor(folder, TEXTS)
    if not found.healthy:
        failed = [check for check in found.checks if str(check.verdict) == "failed"]
        raise WrongError("; ".join(f"{check.name}: {check.said}" for check in failed))
    return "yes"


def cut(folder: Path, source: Own) -> str:
    """The model cut in the middle, loaded by stock transformers, gives the middle layer."""
    layer = source.middle
    out = folder.parent / "cut"
    found = layerscope.cut(folder, layer, out=out, data=FEW, format="transformers")
    smaller = own(out, source.tiny)
    for text in FEW:
        ids = smaller.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            output: Any = smaller.core(input_ids=ids, output_hidden_states=True)
        for name in found.output:
            output = output[name]
        same(_rows(output, ids.shape[1]), source.states(text)[layer], f"states of layer {layer}")
    return "yes" if found.blocks == layer else "yes, one block more"


def sentences(folder: Path, source: Own) -> str:
    """The same for sentence-transformers, whose vectors are the mean of that layer."""
    from sentence_transformers import SentenceTransformer

    layer = source.middle
    out = folder.parent / "sentences"
    layerscope.cut(
        folder, layer, out=out, data=FEW, format="sentence-transformers", first_token="keep"
    )
    came = SentenceTransformer(str(out), device="cpu").encode(
        FEW, convert_to_tensor=True, show_progress_bar=False
    )
    expected = [source.states(text)[layer][source.counted(text)].mean(0) for text in FEW]
    same(came.cpu(), torch.stack(expected), f"vectors of layer {layer}")
    return "yes"


def prune(folder: Path, source: Own) -> str:
    """The model without a block gives what the whole one does when that block changes nothing."""
    out = folder.parent / "pruned"
    found = layerscope.prune(
        folder, budget="1", data=TEXTS, out=out, format="transformers", heal="off"
    )
    [gone] = found.removed
    pruned = own(out, source.tiny)
    if source.tiny.blocks and len(pruned.blocks) != len(source.blocks) - 1:
        raise WrongError(f"{len(pruned.blocks)} blocks are left of {len(source.blocks)}")
    for text in FEW:
        came, expected = pruned.states(text), source.states(text, skipped=gone)
        same(came[-1], expected[-1], f"last states without block {gone}")
    try:
        layerscope.prune(folder, "random", "1", data=FEW, protect=(0, 0))
    except InputError as error:  # a block that is protected unless one asks otherwise
        needed = re.search(r"cannot do without (block \d+)", str(error))
        if needed is None:
            raise
        return f"yes, not {needed[1]}"
    return "yes"


CHECKS: Final[dict[str, Callable[[Path, Own], str]]] = {
    "scan": scan,
    "doctor": doctor,
    "cut": cut,
    "sentence-transformers": sentences,
    "prune": prune,
}


# --- what came of them -------------------------------------------------------------------------------


@dataclass
class Work:
    """What was done before something was refused."""

    read: bool = False
    written: bool = False

    @property
    def begun(self) -> str:
        """What it was, "" if nothing."""
        done = {"texts were read": self.read, "weights were written": self.written}
        return " and ".join(what for what, was in done.items() if was)


@contextmanager
def watched(tokenizer: Any) -> Iterator[Work]:
    """Notice texts of ours in any embedding, and any checkpoint that is saved."""
    starts = {tuple(tokenizer(text)["input_ids"][:4]) for text in TEXTS}
    work = Work()
    save = transformers.PreTrainedModel.save_pretrained

    def look(module: nn.Module, args: Any) -> None:
        ids = args[0] if isinstance(module, nn.Embedding) and args else None
        if isinstance(ids, Tensor) and ids.ndim == 2 and not work.read:  # some take a shape
            rows = ids.tolist()
            work.read = any(
                tuple(row[at : at + 4]) in starts for row in rows for at in range(len(row))
            )

    def note(model: Any, *args: Any, **kwargs: Any) -> Any:
        work.written = True
        return save(model, *args, **kwargs)

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        with mock.patch.object(transformers.PreTrainedModel, "save_pretrained", note):
            yield work
    finally:
        handle.remove()


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, no bars; and the saved folder is read back here, which spares seconds of imports."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    here = mock.patch.object(
        verify, "_run", lambda request, answer: reload.main(str(request), str(answer))
    )
    with warnings.catch_warnings(), here:
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


def cell(check: Callable[[Path, Own], str], folder: Path, source: Own) -> str:
    """Return what came of a check, in words."""
    with watched(source.tokenizer) as work:
        try:
            return check(folder, source)
        except InputError as error:
            late = f"FAILS: refused only after {work.begun}: " if work.begun else "refused: "
            return late + shortened(str(error), folder)
        except WrongError as error:
            return shortened(f"FAILS: {error}", folder)
        except LayerscopeError as error:
            return shortened(f"FAILS: {type(error).__name__}: {error}", folder)
        except Exception as error:  # a traceback that a user would see
            return shortened(f"FAILS: traceback: {type(error).__name__}: {error}", folder)


def shortened(said: str, folder: Path) -> str:
    """Return a message on one line, without the path of this machine and names drawn at random."""
    line = " ".join(said.replace(f"{folder.parent}/", "").split())
    line = re.sub(r"\.[\w-]+\.\w{8}(?=\W)", "...", line)
    return line if len(line) <= _SAID else line[: _SAID - 1] + "…"


def measure(name: str, cells: Sequence[str] = matrix.COLUMNS) -> dict[str, Any]:
    """Make the checks of one architecture and return its row."""
    tiny = ARCHITECTURES[name]
    row: dict[str, Any] = {"architecture": name}
    with quiet(), tempfile.TemporaryDirectory(prefix="layerscope-architectures-") as room:
        folder = save_random(name, Path(room, name))
        source = own(folder, tiny)
        kind = getattr(getattr(source.core, "config", None), "model_type", name)
        row |= {"class": type(source.core).__name__}
        row |= {"read by": "table" if kind in TABLE else "structure"}
        for each in cells:
            row[each] = cell(CHECKS[each], folder, source)
    return row


# --- the campaign --------------------------------------------------------------------------------------


def stamp() -> str:
    """Return a name for the sources and versions that decide the results."""
    digest = hashlib.sha256(f"{torch.__version__} {transformers.__version__}".encode())
    files = sorted((ROOT / "src").rglob("*.py"))
    for path in (*files, Path(__file__), ROOT / "tests/architectures.py", ROOT / "tests/tiny.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def kept(name: str, folder: Path, *, again: bool) -> dict[str, Any]:
    """Return the row of an architecture, measured now or found from before."""
    path = folder / f"{name}.json"
    if again or not path.exists():
        started = time.perf_counter()
        row = measure(name)
        seconds = time.perf_counter() - started
        path.write_text(json.dumps(row, ensure_ascii=False))
        cells = ", ".join(f"{each} {row[each][:60]}" for each in matrix.COLUMNS)
        print(f"{name} ({seconds:.1f} s): {cells}", file=sys.stderr, flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main(only: Sequence[str] = ()) -> str:
    """Measure all architectures, or some again; write the results, and return them as a table."""
    unknown = set(only) - ARCHITECTURES.keys()
    if unknown:
        raise SystemExit(f"no tiny model of {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    folder = WORK / stamp()
    folder.mkdir(parents=True, exist_ok=True)
    rows = matrix.measured() if only else {}
    for name in only or ARCHITECTURES:
        rows[name] = kept(name, folder, again=bool(only))
    ordered = [rows[name] for name in sorted(rows)]
    written = {"transformers": transformers.__version__, "architectures": ordered}
    matrix.RESULTS.write_text(
        json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    matrix.write()
    shown = [row for row in ordered if not only or row["architecture"] in only]
    return f"{matrix.summary(ordered)}\n\n{markdown(shown)}"
