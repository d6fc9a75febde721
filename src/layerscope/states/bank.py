"""Pooled vectors of every site of a model, stored on disk by the text they belong to.

The vectors of a text are stored under the hash of that text (with its prompt), in one folder for one
model and one choice of counted tokens. Any task, layer or pooling reads them from there, one site at a
time.

Each shard is written whole, under a unique name, and never changed, so that reading needs no lock. One
process at a time writes; the others wait and then find what it wrote.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from safetensors import safe_open

from layerscope.config import Pooling
from layerscope.data.files import LOCK_FILE, locked, refuse_unwritable, write_atomically, write_json
from layerscope.errors import InputError, RunError
from layerscope.models.backbone import OLDER, is_older_fingerprint
from layerscope.states.extract import Site
from layerscope.states.store import Array, ShardWriter, read_shard, shards_in

BANK_FILE: Final = "bank.json"
PLANS: Final = "encoding*.plan"
SCHEMA_VERSION: Final = 1
FACTS: Final = ("tokens", "truncated", "all_counted")
_HASH_BYTES: Final = 16
_LOG: Final = logging.getLogger(__name__)


def hash_of(text: str) -> bytes:
    """Return the hash that names a text in a bank."""
    encoded = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(encoded, digest_size=_HASH_BYTES).digest()


def key(site: Site, pooling: Pooling) -> str:
    """Return the name of the rows of a site in a shard."""
    return f"{pooling.value}/{site}"


class VectorBank(ShardWriter):
    """The vectors of a folder, all of one model and one way to count tokens.

    Args:
        folder: of the shards; created if missing.
        identity: everything that decides the vectors except text, site and pooling, as plain values.
        facts: further entries of the folder's description; not compared.

    Raises:
        InputError: the folder holds vectors of another identity, or something else.
    """

    IDS: ClassVar[str] = "names"

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(folder)
        self.identity = dict(identity)
        found = description(folder)
        if found is None:
            _refuse_other_files(folder)
            with locked(folder / LOCK_FILE, self._tell_waiting, keep=True):
                found = description(folder)  # another process may have just created it
                if found is None:
                    self._describe({}, facts or {})
        if found is not None:
            _refuse_other_identity(folder, found.get("identity", {}), identity)
            self._learn(found.get("facts", {}), facts or {})
        self._shards: list[_Shard] = []
        self._indexes: dict[str, dict[bytes, tuple[int, int]]] = {}
        self._enlist_new()

    def _describe(self, known: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Write the description; a fact that is None now keeps its earlier value."""
        told = {name: value for name, value in facts.items() if value is not None}
        described = {"schema_version": SCHEMA_VERSION, "identity": self.identity}
        write_json(self.folder / BANK_FILE, described | {"facts": {**known, **told}})

    def _learn(self, known: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Write facts that the description lacks; a read-only bank works without them."""
        if any(value is not None and known.get(name) != value for name, value in facts.items()):
            with suppress(InputError):
                self._describe(known, facts)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the bank for writing, and load the shards that other processes wrote.

        While another process writes, wait for it, with a warning.

        Raises:
            InputError: the folder cannot be written to.
        """
        with locked(self.folder / LOCK_FILE, self._tell_waiting, keep=True):
            self._enlist_new()
            yield

    def _tell_waiting(self) -> None:
        _LOG.warning(
            "layerscope: another process is writing to the bank in %r; waiting until it is done.",
            str(self.folder),
        )

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(shard.size for shard in self._shards)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len({name for shard in self._shards for name in shard.names})

    def missing(self, names: Iterable[bytes], pooling: Pooling) -> list[bytes]:
        """Return the texts without vectors of this pooling, each once, in order."""
        known = self._index(pooling)
        return [name for name in dict.fromkeys(names) if name not in known]

    def add(self, names: Sequence[bytes], rows: Mapping[str, Array]) -> None:
        """Keep one batch: rows by `key` and the rows of `FACTS`, one for each text."""
        hashes = np.frombuffer(b"".join(names), np.uint8).reshape(-1, _HASH_BYTES)
        self._keep(hashes, rows, budget=self.BUDGET, seconds=self.SECONDS)

    def vectors(self, site: Site, pooling: Pooling, names: Sequence[bytes]) -> Array:
        """Return one site's vectors (text, dim) of these texts, in their order.

        Only this site's rows are read, shard by shard.

        Raises:
            RunError: a text has none.
        """
        return self._rows(key(site, pooling), names, self._index(pooling))

    def facts(self, pooling: Pooling, names: Sequence[bytes]) -> dict[str, Array]:
        """Return `FACTS` of these texts: tokens, whether truncated, whether all tokens are counted."""
        rows = self._rows("facts", names, self._index(pooling))
        return {name: rows[:, column] for column, name in enumerate(FACTS)}

    # --- the plan of an encoding, so that an encoding that was killed resumes with the same batches

    # Each plan has its own file, so that no process overwrites the unfinished plan of another.

    def save_plan(self, names: Sequence[bytes]) -> None:
        """Save which texts are about to be encoded together."""
        write_atomically(self._plan_file(names), b"".join(names))

    def load_plan(self, missing: Sequence[bytes], asked: Collection[bytes]) -> list[bytes]:
        """Return the texts of an unfinished encoding; empty if there is none that fits.

        Args:
            missing: texts to encode; the plan must contain all of them.
            asked: texts at hand; the plan must contain no others.
        """
        for path in sorted(self.folder.glob(PLANS)):
            content = path.read_bytes()
            planned = [content[i : i + _HASH_BYTES] for i in range(0, len(content), _HASH_BYTES)]
            if set(missing) <= set(planned) <= set(asked):
                return planned
        return []

    def drop_plan(self, names: Sequence[bytes]) -> None:
        """Remove a plan, because all of its texts are encoded."""
        self._plan_file(names).unlink(missing_ok=True)

    def _plan_file(self, names: Sequence[bytes]) -> Path:
        digest = hashlib.blake2b(b"".join(names), digest_size=8).hexdigest()
        return self.folder / f"encoding-{digest}.plan"

    # --- shards -----------------------------------------------------------------------------------

    def _enlist_new(self) -> None:
        """Load the shards that other processes wrote since the last look."""
        known = {shard.path for shard in self._shards}
        for path in shards_in(self.folder):
            if path not in known:
                self._enlist(path)

    def _new_name(self) -> str:
        # Not a number: a process that opened the bank before does not know the others' numbers.
        return secrets.token_hex(6)

    def _enlist(self, path: Path) -> None:
        shard = _Shard.read(path)
        self._shards.append(shard)
        for pooling, index in self._indexes.items():
            if pooling in shard.poolings:
                index.update(shard.places(len(self._shards) - 1))

    def _index(self, pooling: Pooling) -> dict[bytes, tuple[int, int]]:
        """Return text -> (shard, row) for a pooling; built once."""
        if pooling.value not in self._indexes:
            index: dict[bytes, tuple[int, int]] = {}
            for number, shard in enumerate(self._shards):
                if pooling.value in shard.poolings:
                    index.update(shard.places(number))
            self._indexes[pooling.value] = index
        return self._indexes[pooling.value]

    def _rows(
        self, rows_key: str, names: Sequence[bytes], index: Mapping[bytes, tuple[int, int]]
    ) -> Array:
        if lacking := sum(name not in index for name in names):
            raise RunError(f"{lacking} of {len(names)} texts are not in {str(self.folder)!r}.")
        places = np.array([index[name] for name in names], dtype=np.int64).reshape(-1, 2)
        out: Array | None = None
        for number in np.unique(places[:, 0]):
            found = read_shard(self._shards[number].path, rows_key)
            if found is None:
                raise RunError(f"{str(self.folder)!r} holds no vectors of {rows_key}.")
            [rows] = found
            here = places[:, 0] == number
            if out is None:
                out = np.empty((len(names), *rows.shape[1:]), rows.dtype)
            out[here] = rows[places[here, 1]]
        if out is None:
            raise RunError("expected at least one text to read vectors of, got none.")
        return out


class _Shard:
    """One file of a bank: which texts it holds, in which poolings."""

    def __init__(self, path: Path, names: Sequence[bytes], poolings: frozenset[str]) -> None:
        self.path, self.names, self.poolings = path, names, poolings
        self.size = path.stat().st_size

    @classmethod
    def read(cls, path: Path) -> _Shard:
        try:
            with safe_open(path, framework="numpy") as shard:
                content = shard.get_tensor("names").tobytes()
                poolings = frozenset(k.partition("/")[0] for k in shard.keys() if "/" in k)  # noqa: SIM118
        except Exception as error:  # safetensors raises its own error type
            raise InputError(
                f"{str(path)!r} cannot be read ({error}); remove it, and its texts are encoded again."
            ) from error
        names = [content[i : i + _HASH_BYTES] for i in range(0, len(content), _HASH_BYTES)]
        return cls(path, names, poolings)

    def places(self, number: int) -> dict[bytes, tuple[int, int]]:
        return {name: (number, row) for row, name in enumerate(self.names)}


def description(folder: Path) -> dict[str, Any] | None:
    """Return the description of a bank, None if the folder has none yet.

    Raises:
        InputError: a description that cannot be read, or of a newer layerscope.
    """
    try:
        found = json.loads((folder / BANK_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"the bank in {str(folder)!r} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"the bank in {str(folder)!r} has another version than {SCHEMA_VERSION}, the one that this "
            "layerscope reads; choose another --bank folder."
        )
    return found


def refuse_no_bank(folder: Path) -> None:
    """Refuse, before a model is loaded, a folder that holds other things or is not writable."""
    if not folder.is_dir() or description(folder) is None:
        _refuse_other_files(folder)
    refuse_unwritable(folder)


def _refuse_other_files(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
        raise InputError(
            f"expected a bank of vectors or an empty folder, {str(folder)!r} holds other things; "
            "choose another --bank folder."
        )


def _is_foreign(file: Path) -> bool:
    """Whether a file in a folder without a description is none that an interrupted start left."""
    return file.name != LOCK_FILE and not file.name.startswith(f".{BANK_FILE}")


def _refuse_other_identity(
    folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    if is_older_fingerprint(found.get("weights_fingerprint")):
        raise InputError(
            f"the bank in {str(folder)!r} was {OLDER}; choose another --bank folder, or remove that one."
        )
    differing = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    if differing:
        listed = ", ".join(
            f"{name.replace('_', ' ')} ({found.get(name)} there, {wanted.get(name)} now)"
            for name in differing[:3]
        )
        raise InputError(
            f"the bank in {str(folder)!r} holds vectors of another {listed}; choose another --bank "
            "folder."
        )
