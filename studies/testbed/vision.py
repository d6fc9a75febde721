"""Four small vision transformers of one architecture, each trained with another objective.

Run: `python -m studies.testbed.vision [MODEL ...] [--images FOLDER] [--out FOLDER] [--all-steps]`.

All read the same images of clothes in the same order and are committed as BEiT without their heads, with
an image processor and weights in half precision. The autoregressive one is causal by its weights: whether
a patch comes later in raster order depends on how far apart two patches lie alone, which is what BEiT's
table of relative positions is read by, so that the table can hold the mask.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional

from studies.testbed.loop import Batch, Schedule, drawn, train, write_losses
from studies.testbed.train import HERE, SEED, write_half

SIDE, PATCH = 28, 4  # pixels
ROW = SIDE // PATCH  # patches
WIDTH, LAYERS, HEAD = 48, 8, 16
CLASSES = 10
BATCH = 64  # images, or views of them
STEPS = 2048
VALIDATION = 512  # images
SHOWN = 60  # images of each class that are committed for the studies
MASKED = 0.6  # part of the patches that the masked model must fill in
TEMPERATURE = 0.2  # of the contrastive loss
UNSEEN = -1e4  # added to the attention logit of a patch that is not seen; exp of it is 0
FOLDER = "usr/share/datasets/fashion-mnist"  # of the Debian package dataset-fashion-mnist
DATA = HERE.parent / "small" / "data" / "fashion.parquet"
NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip


def read_clothes(root: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return the images (image, 28, 28) of a part, train or t10k, in bytes, and their classes."""

    def content(kind: str, start: int) -> np.ndarray[Any, Any]:
        path = root / FOLDER / f"{part}-{kind}-ubyte.gz"
        if not path.is_file():
            raise SystemExit(
                f"{path} is missing: install it with `apt-get install dataset-fashion-mnist`, or run "
                "`apt-get download` and `dpkg -x` with a folder, and give --images FOLDER."
            )
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=start).copy()

    images = content("images-idx3", 16).reshape(-1, SIDE, SIDE)
    return torch.from_numpy(images), torch.from_numpy(content("labels-idx1", 8)).long()


def pixels_of(images: Tensor) -> Tensor:
    """Return bytes (image, 28, 28) as the processor gives them: three equal channels of -1 to 1."""
    return (images.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)


def patches_of(pixels: Tensor) -> Tensor:
    """Return the gray patches (image, patch, pixel), each with mean 0 and variance 1, as MAE's."""
    found = functional.unfold(pixels[:, :1], PATCH, stride=PATCH).transpose(1, 2)
    centered = found - found.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-4).sqrt()


def architecture() -> hf.BeitModel:
    """Return the untrained model that all objectives start from."""
    config = hf.BeitConfig(
        image_size=SIDE, patch_size=PATCH, hidden_size=WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // HEAD, intermediate_size=2 * WIDTH, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, drop_path_rate=0.0, layer_scale_init_value=0.0,
        use_mask_token=True, use_absolute_position_embeddings=True, use_mean_pooling=False,
        use_shared_relative_position_bias=True,
    )  # fmt: skip
    model = hf.BeitModel(config)
    with torch.no_grad():  # transformers starts these from 0
        for name in ("cls_token", "mask_token", "position_embeddings"):
            nn.init.normal_(getattr(model.embeddings, name), std=config.initializer_range)
    # transformers keeps an index of the first call, which must not be one in inference mode.
    model.shared_position_bias((ROW, ROW))
    return model


def hide_later_patches(model: hf.BeitModel) -> None:
    """Make a model causal, for good: patches see themselves, earlier ones and the class token.

    The class token sees itself alone, so that it is what the first patch is predicted from.
    """
    bias = model.shared_position_bias
    reach = torch.arange(1 - ROW, ROW)
    below, right = torch.meshgrid(reach, reach, indexing="ij")  # of the patch that sees
    seen = (below > 0) | ((below == 0) & (right >= 0))
    rows = torch.cat([seen.flatten(), torch.tensor([False, True, True])])
    with torch.no_grad():
        bias.relative_position_bias_table.copy_(torch.where(rows, 0.0, UNSEEN)[:, None])
    bias.relative_position_bias_table.requires_grad = False


@dataclass(frozen=True)
class Loss:
    """What a training step asks of a model."""

    loss: Tensor


class Supervised(nn.Module):
    """Cross-entropy of the class, read from the mean of the patches."""

    images_a_step = BATCH

    def __init__(self) -> None:
        super().__init__()
        self.model = architecture()
        self.head = self.make_head()

    def make_head(self) -> nn.Module:
        """Return what is read from the model's states."""
        return nn.Linear(WIDTH, CLASSES)

    def states(self, pixels: Tensor, masked: Tensor | None = None) -> Tensor:
        """Return the normed states of the class token and the patches."""
        states: Tensor = self.model(pixels, bool_masked_pos=masked).last_hidden_state
        return states

    def batch(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
        """Return a batch of it."""
        del generator
        return {"pixels": pixels_of(images), "labels": labels}

    def forward(self, pixels: Tensor, labels: Tensor) -> Loss:
        """Return the loss."""
        return Loss(functional.cross_entropy(self.head(self.states(pixels)[:, 1:].mean(1)), labels))


class Contrastive(Supervised):
    """Cross-entropy of the other view of an image among all views of the batch, as SimCLR's."""

    images_a_step = BATCH // 2  # so that as many go through the model as of the others

    def make_head(self) -> nn.Module:
        """Return the projection of the mean of the patches."""
        return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def batch(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
        """Return two views of each image."""
        del labels
        pixels = pixels_of(images)
        return {"pixels": torch.cat([augmented(pixels, generator) for _ in range(2)])}

    def forward(self, pixels: Tensor) -> Loss:  # type: ignore[override]
        """Return the loss."""
        found = functional.normalize(self.head(self.states(pixels)[:, 1:].mean(1)), dim=-1)
        near = (found @ found.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        return Loss(functional.cross_entropy(near, torch.arange(len(found)).roll(len(found) // 2)))


class Masked(Supervised):
    """Squared error of masked patches, as SimMIM's."""

    def make_head(self) -> nn.Module:
        """Return what predicts the pixels of a patch."""
        return nn.Linear(WIDTH, PATCH**2)

    def batch(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
        """Return images and which of their patches are masked, as many of each."""
        del labels
        order = torch.rand(len(images), ROW**2, generator=generator).argsort()
        return {"pixels": pixels_of(images), "masked": order < round(MASKED * ROW**2)}

    def forward(self, pixels: Tensor, masked: Tensor) -> Loss:  # type: ignore[override]
        """Return the loss."""
        gap = self.head(self.states(pixels, masked)[:, 1:]) - patches_of(pixels)
        return Loss(gap.square()[masked].mean())


class Autoregressive(Masked):
    """Squared error of the next patch in raster order, as AIM's."""

    def __init__(self) -> None:
        super().__init__()
        hide_later_patches(self.model)

    def batch(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
        """Return images."""
        del labels, generator
        return {"pixels": pixels_of(images)}

    def forward(self, pixels: Tensor) -> Loss:  # type: ignore[override]
        """Return the loss."""
        gap = self.head(self.states(pixels)[:, :-1]) - patches_of(pixels)
        return Loss(gap.square().mean())


OBJECTIVES: dict[str, type[Supervised]] = {
    "vit-supervised": Supervised,
    "vit-contrastive": Contrastive,
    "vit-masked": Masked,
    "vit-autoregressive": Autoregressive,
}


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return a view of each image: a crop of 20 to 100 % of the area, flipped or not, lit otherwise."""
    draw = torch.rand(5, len(pixels), generator=generator)
    side = (0.2 + 0.8 * draw[0]).sqrt()
    flip = torch.where(draw[1] < 0.5, -1.0, 1.0)
    x, y = ((2 * each - 1) * (1 - side) for each in draw[2:4])
    zero = torch.zeros_like(side)
    rows = [torch.stack([side * flip, zero, x], -1), torch.stack([zero, side, y], -1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    found = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return ((found + 1) * (0.6 + 0.8 * draw[4])[:, None, None, None] - 1).clamp(-1, 1)


def batches(
    objective: Supervised, images: Tensor, labels: Tensor, chosen: Iterable[Tensor], seed: int
) -> Iterator[Batch]:
    """Yield a batch for each tensor of image numbers."""
    generator = torch.Generator().manual_seed(seed)
    for rows in chosen:
        yield objective.batch(images[rows], labels[rows], generator)


def save(model: hf.BeitModel, folder: Path) -> None:
    """Write a checkpoint with the processor that makes pixels of any image."""
    write_half(model, folder)
    hf.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def run(name: str, root: Path, out: Path, all_steps: bool) -> None:
    """Train one model, write its checkpoints and its losses."""
    torch.manual_seed(SEED)
    objective = OBJECTIVES[name]()
    images, labels = read_clothes(root, "train")
    others, their = (each[:VALIDATION] for each in read_clothes(root, "t10k"))

    def keep(step: int) -> None:
        if all_steps or step == STEPS:
            save(objective.model, out / "models" / name / f"step{step}")

    print(name, sum(each.numel() for each in objective.model.parameters()), flush=True)
    size = objective.images_a_step
    order = drawn(torch.arange(len(images)), size, STEPS, SEED)
    held_out = torch.arange(VALIDATION).split(size)
    records = train(
        objective,
        batches(objective, images, labels, order, SEED),
        Schedule(STEPS),
        list(batches(objective, others, their, held_out, SEED + 1)),
        keep,
        size,
    )
    write_losses(out / "loss.csv", name, records)


def save_shown(root: Path, path: Path) -> None:
    """Write a few images of each class that no model was trained or validated on."""
    import datasets
    from PIL import Image

    images, labels = (each[VALIDATION:] for each in read_clothes(root, "t10k"))
    rows = torch.cat([(labels == kind).nonzero()[:SHOWN, 0] for kind in range(CLASSES)])
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(NAMES))
    )
    given = {"image": [Image.fromarray(images[row].numpy()) for row in rows], "label": labels[rows]}
    datasets.Dataset.from_dict(given, features=features).to_parquet(path)


def main() -> None:
    """Train the models that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(OBJECTIVES)}")
    parser.add_argument(
        "--images", type=Path, default=Path("/"), help="where the package's usr/ is"
    )
    parser.add_argument("--out", type=Path, default=HERE, help="where checkpoints and losses go")
    parser.add_argument("--all-steps", action="store_true", help="keep every power of two")
    given = parser.parse_args()
    if unknown := set(given.models) - set(OBJECTIVES):
        parser.error(f"no model is named {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.out == HERE:
        save_shown(given.images, DATA)
    for name in given.models or OBJECTIVES:
        run(name, given.images, given.out, given.all_steps)


if __name__ == "__main__":
    main()
