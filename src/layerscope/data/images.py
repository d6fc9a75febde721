"""Images from a folder, a parquet file, a datasets id or Python objects, decoded when they are needed.

An image is identified by a hash of its bytes, its key, which stands for it wherever texts stand for
themselves: in the fingerprint of the data, among duplicates, in a bank of vectors.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps

from layerscope.data.hub import load_hub_dataset
from layerscope.data.tables import choose_split
from layerscope.data.texts import Texts, as_texts, refuse_options
from layerscope.errors import InputError, unknown_name
from layerscope.settings import DEFAULT_LIMIT

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LONGEST: Final = 100  # sides beyond this ratio make a processor build an enormous strip
_SIXTEEN_BITS: Final = 65_535
_WHITE: Final = (255, 255, 255, 255)

Opener = Callable[[], Image.Image]
Edit = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Picture:
    """One image, decoded each time it is loaded, so that only those of a batch are in memory.

    Attributes:
        key: identifies its content, changes included.
        name: what messages call it.
        opened: opens the stored image.
        edit: changes the decoded image, for an augmented copy; None changes nothing.
    """

    key: str
    name: str
    opened: Opener = field(compare=False, repr=False)
    edit: Edit | None = field(default=None, compare=False, repr=False)

    def load(self) -> Image.Image:
        """Return the image in RGB, upright.

        Raises:
            InputError: it cannot be decoded.
        """
        with _explained(self.name):
            image = rgb(self.opened(), self.name)
        return image if self.edit is None else self.edit(image)


@dataclass(frozen=True)
class Images(Texts):
    """Images that are measured; `texts` holds their keys.

    Attributes:
        pictures: key -> image.
        labels: key -> class: a subfolder's name or the column `label`; empty where there are none.
    """

    pictures: Mapping[str, Picture] = field(default_factory=dict, compare=False, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    noun = "images"

    @property
    def samples(self) -> tuple[Picture, ...]:
        """The images in order."""
        return tuple(self.pictures[key] for key in self.texts)


# What a caller may give as images: a name, or one of the objects that `read_images` takes.
ImageSource = str | os.PathLike[str] | Iterable[Any] | Images


def read_images(
    source: Any,
    *,
    column: str | None = None,
    split: str | None = None,
    limit: int | None = DEFAULT_LIMIT,
    seed: int = 0,
) -> Images:
    """Read images, without those whose bytes repeat an earlier one's.

    Args:
        source: a folder (whose subfolders give labels), a .parquet file or a datasets id with a column
            of images, a `datasets.Dataset`, or a list of PIL images or of paths of image files.
        column: of a table; by default "image" or else the only column of images.
        split: of a datasets id; by default "train", or the only one.
        limit: the most images to keep; None keeps all.
        seed: of the random subset that is kept when there are more.

    Raises:
        InputError: no images there, or one that cannot be decoded.
    """
    name, found = _found(source, column, split)
    first: dict[str, tuple[Picture, str | None]] = {}
    keys = []
    for picture, label in found:
        keys.append(picture.key)
        first.setdefault(picture.key, (picture, label))
    if not keys:
        raise InputError(
            f"expected images in {name!r} ({', '.join(SUFFIXES)}, or rows with an image), found none "
            "there."
        )
    short = Path(name).resolve().name if Path(name).exists() else name
    kept = as_texts(keys, name=short, limit=limit, seed=seed)
    pictures = {key: first[key][0] for key in kept.texts}
    for picture in pictures.values():
        _refuse_undecodable(picture)
    labels = {key: label for key in pictures if (label := first[key][1]) is not None}
    facts = {each: getattr(kept, each) for each in (part.name for part in fields(Texts))}
    facts |= {"source": name, "column": column}
    return Images(**facts, pictures=pictures, labels=labels)


Found = Iterator[tuple[Picture, str | None]]


def _found(source: Any, column: str | None, split: str | None) -> tuple[str, Found]:
    """Return what a source is called, and its images with their labels."""
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if path.is_dir():
            refuse_options(str(path), column=column, split=split)
            return str(path), _of_folder(path)
        if path.suffix.lower() in SUFFIXES and path.is_file():
            refuse_options(str(path), column=column, split=split)
            return str(path), iter([(_of_file(path), None)])
        return str(source), of_dataset(_table(path, split), column, str(source))
    kind = type(source).__name__
    if hasattr(source, "features") and hasattr(source, "cast_column"):
        refuse_options(kind, split=split)
        return kind, of_dataset(source, column, kind)
    if isinstance(source, Mapping):  # a `datasets.DatasetDict`
        return kind, of_dataset(source[choose_split(split, list(source), kind)], column, kind)
    refuse_options(kind, column=column, split=split)
    if isinstance(source, Image.Image | bytes) or not isinstance(source, Iterable):
        raise InputError(
            "expected images (a folder, a .parquet file, a datasets id, a Dataset, or a list of PIL "
            f"images), got {kind}."
        )
    return "images", (_of_object(number, each) for number, each in enumerate(source))


# --- where images are --------------------------------------------------------------------------------


def _of_folder(folder: Path) -> Found:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in inside)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            yield _of_file(path), inside[0] if len(inside) > 1 else None


def _of_file(path: Path) -> Picture:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    # From its bytes, as a damaged file would stay open.
    return Picture(digest, str(path), lambda: Image.open(io.BytesIO(path.read_bytes())))


def _of_object(number: int, given: Any) -> tuple[Picture, None]:
    if isinstance(given, str | os.PathLike):
        path = Path(given).expanduser()
        if not path.is_file():
            raise InputError(f"there is no image {str(path)!r}; check the path.")
        return _of_file(path), None
    if not isinstance(given, Image.Image):
        raise InputError(
            f"expected PIL images or paths of image files, number {number} is "
            f"{type(given).__name__}; convert it, as with PIL.Image.fromarray."
        )
    with _explained(f"image {number}"):
        content = given.tobytes()
    digest = hashlib.sha256(f"{given.mode} {given.size} ".encode() + content).hexdigest()
    return Picture(digest, f"image {number}", lambda: given), None


def _table(path: Path, split: str | None) -> Any:
    """Return a parquet file or a dataset of the hub as a `datasets.Dataset`, whose rows stay on disk."""
    if path.suffix.lower() == ".parquet" and path.is_file():
        import datasets

        refuse_options(str(path), split=split)
        try:
            return datasets.Dataset.from_parquet(str(path))
        except Exception as error:  # datasets wraps what pyarrow raises in errors of its own
            raise InputError(
                f"the parquet file {str(path)!r} cannot be read ({type(error).__name__}); write it "
                "again."
            ) from error
    if path.exists() or path.suffix.lower() in SUFFIXES:
        raise InputError(
            f"expected a folder of images, a .parquet file or a datasets id, got {str(path)!r}."
        )
    return load_hub_dataset(str(path), split)


def of_dataset(data: Any, column: str | None, name: str) -> Found:
    """Yield the images of a column of a `datasets.Dataset` with their labels; its rows stay on disk.

    Raises:
        InputError: no such column, or a row without an image.
    """
    import datasets

    if not hasattr(data, "__len__"):
        raise InputError(
            f"expected a dataset with a length, {name!r} is a stream; take a part of it as a Dataset."
        )
    column = _column(data, column, name)
    stored = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    labels = _labels(data)
    for row in range(len(data)):
        content = _content(stored, column, row)
        where = f"row {row} of {name}"
        if content is None:
            raise InputError(f"{where} holds no image; leave such rows out.")

        def opened(row: int = row) -> Image.Image:
            return Image.open(io.BytesIO(_content(stored, column, row) or b""))

        digest = hashlib.sha256(content).hexdigest()
        yield Picture(digest, where, opened), labels[row] if labels else None


def _column(data: Any, column: str | None, name: str) -> str:
    """Return the column of images: the one asked for, "image", or the only one."""
    known = [each for each, kind in data.features.items() if _holds_images(kind)]
    if column is None and ("image" in known or len(known) == 1):
        column = "image" if "image" in known else known[0]
    if column is None and known:
        raise InputError(
            f"expected one column of images, {name!r} has {', '.join(known)}; name one (--column)."
        )
    if column is None or column not in known:
        if column is not None and column not in data.features:
            raise unknown_name(f"column of {name!r}:", column, data.features)
        raise InputError(
            f"expected a column of images (datasets' Image, or the bytes of image files), {name!r} has "
            f"none{f' of the name {column!r}' if column else ''}: {', '.join(data.features)}."
        )
    return column


def _holds_images(kind: Any) -> bool:
    """Whether a feature of datasets is an image, the bytes of one, or a struct of bytes and path."""
    inside = set(kind) if isinstance(kind, Mapping) else set()
    return type(kind).__name__ == "Image" or "bytes" in inside or "binary" in str(kind)


def _content(stored: Any, column: str, row: int) -> bytes | None:
    found = stored[row][column]
    if found is None or (found.get("bytes") is None and not found.get("path")):
        return None
    given: bytes | None = found["bytes"]
    return Path(found["path"]).read_bytes() if given is None else given


def _labels(data: Any) -> list[str | None]:
    """Return the column `label` as strings, none if there is no such column."""
    if "label" not in data.features:
        return []
    names = getattr(data.features["label"], "names", None)
    return [
        None if label is None else names[label] if names and label >= 0 else str(label)
        for label in data["label"]
    ]


# --- what an image is --------------------------------------------------------------------------------


def rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Return an image in RGB, turned as its EXIF data say.

    Transparent parts lie on white, 16 bits are scaled to 8, and grayscale, palette and CMYK are
    converted by Pillow.

    Raises:
        InputError: pixels without a known range.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > _SIXTEEN_BITS:
            raise InputError(
                f"expected pixels of 8 or 16 bits, {name!r} holds others (mode {image.mode}); convert "
                "it to 8 bits."
            )
        image = Image.fromarray((values.astype(np.float64) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer)
    return image.convert("RGB")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what Pillow raises for an image into an InputError of one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{name!r} holds more than {Image.MAX_IMAGE_PIXELS:,} pixels, Pillow's limit against "
            "decompression bombs; scale it down, or leave it out."
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError and more
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"the image {name!r} is damaged, was cut off or is none ({reason}); save it again, or leave "
            "it out."
        ) from error


def _refuse_undecodable(picture: Picture) -> None:
    """Read an image to its end, a JPEG at an eighth of its size, so that no pass stops at it."""
    with _explained(picture.name):
        image = picture.opened()
        width, height = image.size
        image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
        image.load()
    if max(width, height) > LONGEST * min(width, height):
        raise InputError(
            f"{picture.name!r} is a strip of {width} x {height} pixels, of which no patch could be made "
            f"sense; the longer side may be {LONGEST} times the shorter."
        )


def refuse_one_class(labels: Sequence[str], name: str) -> None:
    """Raise an InputError for images that have fewer than two classes."""
    known = sorted(set(labels))
    if len(known) < 2:
        got = f"only {known[0]!r}" if known else "no labels"
        raise InputError(
            f"expected images of at least 2 classes in {name!r} (a subfolder for each, or a column "
            f"label), got {got}."
        )
