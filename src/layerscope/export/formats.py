"""Write a checkpoint's folder: complete and verified, or not at all.

It is written under a hidden name in the same parent folder, then moved into place. A folder that was
there before is removed only then, and only if layerscope made it.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import secrets
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from layerscope.data.files import (
    explained_write_error,
    locked,
    refuse_busy,
    refuse_unwritable,
    write_json,
)
from layerscope.errors import InputError, LayerscopeError, RunError
from layerscope.export.modules import ReadoutModules, TokenReadout
from layerscope.export.shorten import LAST, OutputPath
from layerscope.models.backbone import Backbone

RECORD: Final = "layerscope.json"
# What an error of the disk is known by: libraries raise an OSError for other things as well.
_CANNOT_WRITE: Final = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EFBIG,
}
ONNX_FILE: Final = "model.onnx"
_IN_ONE_FILE: Final = 1_500_000_000  # bytes; protobuf ends at two gigabytes
_ONNX_NEEDS: Final = ("onnx", "onnxscript", "onnxruntime")
_SPARE: Final = 32_000_000  # tokenizer, card and configs, in bytes, with room


class MismatchError(RunError):
    """What was saved does not give what it must; the folder stays for whoever wants to look."""


def refuse_folder(out: Path, *, overwrite: bool, sources: Iterable[Any] = ()) -> None:
    """Refuse, before any work, a folder that is not ours to write.

    Args:
        out: the folder.
        overwrite: whether a model that layerscope saved there may be replaced.
        sources: what the work starts from; those that are files or folders must not be touched.

    Raises:
        InputError: it is a file, or holds something that may not be replaced.
    """
    for source in (Path(each).resolve() for each in sources if isinstance(each, str | Path)):
        if source.exists() and (source == out.resolve() or out.resolve() in source.parents):
            raise InputError(
                f"--out {str(out)!r} would replace {str(source)!r}, what it is made from; choose another."
            )
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"expected a folder for the model, {str(place)!r} is a file.")
    refuse_unwritable(out)
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / RECORD).exists():
        raise InputError(f"{str(out)!r} holds other files; choose a new or empty --out folder.")
    if not overwrite:
        raise InputError(
            f"{str(out)!r} already holds a model that layerscope saved; pass --overwrite to replace it, "
            "or choose another --out folder."
        )


def refuse_full_disk(out: Path, size: int) -> None:
    """Raise a RunError if a checkpoint of so many bytes does not fit where it is to go."""
    free = free_bytes(out)
    if size + _SPARE > free:
        raise RunError(
            f"the model takes {(size + _SPARE) / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free where "
            f"{str(out)!r} is to go; nothing was written: free some space or choose another --out."
        )


def free_bytes(out: Path) -> int:
    """Return what is free on the disk of a folder, which need not be there yet."""
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(place).free


def claimed(out: Path) -> AbstractContextManager[None]:
    """Return what keeps other processes from writing to a place, by a hidden file in the same folder.

    Raises:
        InputError: on entering: another process is at work there.
    """
    beside = out.absolute()
    return locked(beside.with_name(f".{beside.name}.lock"), lambda: refuse_busy(out))


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` if all goes well, and else is gone.

    Raises:
        RunError: the disk is full; MismatchError as it came, after what was saved was kept under the
            name that its message says.
        InputError: the place cannot be written to.
    """
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    made = [folder for folder in out.absolute().parents if not folder.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        _move(partial, out)
    except MismatchError as error:
        kept = _free_name(out)
        partial.rename(kept)
        raise MismatchError(f"{error} What was saved is kept in {str(kept)!r}.") from error
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # not made yet, or used by somebody else by now
                folder.rmdir()
        if _says_full(error):
            raise RunError(
                f"no space left on the disk while {str(out)!r} was written; nothing of it was kept and "
                "the source is untouched: free some space and run the same command again."
            ) from error
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            raise explained_write_error(error, out) from error
        if isinstance(error, Exception) and not isinstance(error, LayerscopeError):
            raise _not_saved(error, out) from error
        raise


def _not_saved(error: Exception, out: Path) -> RunError:
    """Return one sentence for what a library raised while it wrote: it did not fail at the disk."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = said[0].rstrip(".") if said else "nothing more was said"
    return RunError(
        f"the model could not be saved in {str(out)!r} ({type(error).__name__}: {first}); nothing of it "
        "was kept."
    )


def _says_full(error: BaseException) -> bool:
    """Tell a full disk, whoever met it: safetensors reports it in words of its own."""
    number = getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _free_name(out: Path) -> Path:
    """Return where to keep what did not pass: nothing that stands there is touched."""
    names = (f"{out.name}.unverified{number or ''}" for number in count())
    return next(path for path in map(out.with_name, names) if not path.exists())


def _move(partial: Path, out: Path) -> None:
    """Put a finished folder in its place; what stood there goes last."""
    old = out.with_name(f".{out.name}.old.{secrets.token_hex(4)}") if out.exists() else None
    if old:
        out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        if old:
            old.rename(out)
        raise
    if old:
        shutil.rmtree(old, ignore_errors=True)


def bytes_of(model: nn.Module) -> int:
    """Return the bytes of a model's weights; tied ones count once."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def write_transformers(model: nn.Module, processor: Any, folder: Path) -> None:
    """Save a model, its generation config and its tokenizer (or image processor) as transformers does."""
    saved: Any = model
    saved.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write what was done, on what evidence, and what was verified."""
    write_json(folder / RECORD, record)


# --- ONNX, by torch's own exporter -----------------------------------------------------------------


class _Layer(nn.Module):
    """A model that gives one state, or the readout of every token, and nothing else."""

    def __init__(self, model: nn.Module, output: OutputPath, readout: nn.Module | None) -> None:
        super().__init__()
        self.model, self.output, self.readout = model, output, readout

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Any = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=self.output != LAST,
        )
        if self.readout is not None:
            found = self.readout(found["hidden_states"])
        else:
            for name in self.output:
                found = found[name]
        state: Tensor = found
        return state


def require_onnx() -> None:
    """Raise an InputError where the exporter or its runtime is not installed."""
    if any(importlib.util.find_spec(name) is None for name in _ONNX_NEEDS):
        raise InputError("this format needs an extra: pip install 'layerscope[onnx]'.")


def write_onnx(
    model: Any,
    backbone: Backbone,
    folder: Path,
    output: OutputPath,
    readout: ReadoutModules | None = None,
) -> None:
    """Export a model; inputs `input_ids` and `attention_mask`, output `last_hidden_state`.

    That output is the state at `output`, or the readout of every token.

    Raises:
        InputError: torch's exporter does not do this architecture.
    """
    real: Any = model.to("cpu").eval()
    real.set_attn_implementation("eager")
    real.config.architectures = [type(real).__name__]
    if hasattr(real.config, "use_cache"):
        real.config.use_cache = False
    try:
        external = bytes_of(model) > _IN_ONE_FILE
        mapped = None if readout is None else TokenReadout(readout)
        _export(
            _Layer(real, output, mapped).eval(), folder, real.config.vocab_size, external=external
        )
    except Exception as error:  # an exporter raises whatever it meets in the model's code
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"torch's ONNX exporter cannot do {type(model).__name__} ({first}); choose another --format."
        ) from error
    real.config.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)


def _export(layer: nn.Module, folder: Path, vocabulary: int, *, external: bool) -> None:
    ids = torch.arange(16).reshape(2, 8) % vocabulary
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), torch.inference_mode(), open(os.devnull, "w") as nowhere:  # noqa: PTH123
        warnings.simplefilter("ignore")  # of the exporter's own parts, deprecated among themselves
        with redirect_stdout(nowhere):
            torch.onnx.export(
                layer,
                (ids, torch.ones_like(ids)),
                str(folder / ONNX_FILE),
                input_names=["input_ids", "attention_mask"],
                output_names=["last_hidden_state"],
                dynamic_shapes={"input_ids": axes, "attention_mask": axes},
                dynamo=True,
                external_data=external,
                verbose=False,
            )
