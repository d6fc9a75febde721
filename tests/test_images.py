"""Images: read, converted, refused in one sentence; measured by the same pass as texts."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers as hf
from benchmarks.pictures import dinov2
from PIL import Image
from torch import nn

import layerscope
from commands import run
from layerscope.analysis.labels import row_vectors
from layerscope.api.deciding import labelled_images
from layerscope.data import images as images_module
from layerscope.data.image_views import ImageViewConfig
from layerscope.data.images import Images, Picture, read_images, rgb
from layerscope.errors import InputError
from layerscope.evaluation.classifiers import linear_predictions
from layerscope.evaluation.images import plan_of_images
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.models.backbone import Backbone, backbone_of
from layerscope.models.loading import load
from layerscope.models.modes import evaluating
from layerscope.models.processing import read, special_tokens
from layerscope.states.extract import Site, batches, extract, sites_of
from layerscope.studies.store import StudyFolder
from tiny import (
    UNKNOWN_VISION,
    UNUSUAL,
    VISION,
    condition,
    image_processor,
    pictures,
    texts,
    tiny_model,
    tiny_tokenizer,
    vision_model,
)

ALL = VISION | UNKNOWN_VISION
# Class, distillation, register and detection tokens of each model; all others have one class token.
SPECIALS = {
    "aimv2_vision_model": 0, "ijepa": 0, "siglip_vision_model": 0, "deit": 2, "pixio": 8,
    "dinov2_with_registers": 3, "dinov3_vit": 3, "tipsv2_vision_model": 2, "yolos": 3,
}  # fmt: skip


def backbone(name: str) -> Backbone:
    return backbone_of(vision_model(name), image_processor())


def scanned(model: nn.Module, count: int = 12, **options) -> layerscope.Scan:
    given = {"images": pictures(count), "tokenizer": image_processor(), "show_progress": False}
    return layerscope.scan(model, **given | options)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run, monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four images of two classes, in three formats, and files that are none."""
    root = tmp_path / "animals"
    for number, (label, suffix) in enumerate(
        [("cat", "png"), ("cat", "jpg"), ("dog", "webp"), ("dog", "PNG")]
    ):
        (root / label).mkdir(parents=True, exist_ok=True)
        pictures(4)[number].save(root / label / f"{number}.{suffix}")
    (root / "notes.txt").write_text("none of them")
    (root / ".cache").mkdir()
    pictures(1)[0].save(root / ".cache" / "hidden.png")
    return root


# --- reading ------------------------------------------------------------------------------------------


def test_a_folder_gives_images_and_the_names_of_its_subfolders_as_labels(folder):
    found = read_images(folder)
    assert [Path(picture.name).name for picture in found.samples] == [
        "0.png", "1.jpg", "2.webp", "3.PNG",
    ]  # fmt: skip
    assert [found.labels[key] for key in found.texts] == ["cat", "cat", "dog", "dog"]
    assert (found.name, found.noun, len(found)) == ("animals", "images", 4)
    assert {picture.load().mode for picture in found.samples} == {"RGB"}


def test_every_source_gives_the_same_images(folder, tmp_path):
    files = sorted(path for path in folder.rglob("[0-9].*"))
    rows = {
        "image": [{"bytes": path.read_bytes(), "path": None} for path in files],
        "label": [0, 0, 1, 1],
    }
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"])
    )
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(tmp_path / "table.parquet")
    bare = datasets.Dataset.from_dict({"image": [path.read_bytes() for path in files]})
    sources = [
        folder, files, table, datasets.DatasetDict(train=table), tmp_path / "table.parquet", bare,
    ]  # fmt: skip
    found = [read_images(source) for source in sources]
    assert len({each.fingerprint for each in found}) == 1
    assert found[0].labels == found[2].labels == found[3].labels == found[4].labels
    assert found[1].labels == {}
    for one, other in zip(found[0].samples, found[4].samples, strict=True):
        assert np.array_equal(one.load(), other.load())


def test_repeated_images_are_dropped_and_a_limit_keeps_a_seeded_subset():
    given = pictures(6)
    found = read_images([*given, given[0].copy()])
    assert (len(found), found.dropped_duplicates, found.total_read) == (6, 1, 7)
    few = read_images(given, limit=3, seed=1)
    assert set(few.texts) < set(found.texts)
    assert few.texts == read_images(given[::-1], limit=3, seed=1).texts[::-1]


def test_images_are_decoded_only_when_they_are_loaded(folder, monkeypatch):
    found = read_images(folder)
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *given: opened.append(given) or original(*given))
    assert all(isinstance(picture, Picture) for picture in found.samples)
    assert opened == []
    found.samples[1].load()
    assert len(opened) == 1


# --- what an image is ---------------------------------------------------------------------------------


def test_every_mode_becomes_rgb():
    plain = pictures(1)[0]
    gray = np.asarray(plain.convert("L"))
    assert np.array_equal(rgb(plain.convert("L")), np.repeat(gray[..., None], 3, axis=2))
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    assert deep.mode.startswith("I;16")
    assert np.array_equal(rgb(deep), rgb(plain.convert("L")))
    assert np.array_equal(rgb(Image.fromarray(gray.astype(np.int32) * 257)), rgb(deep))
    palette = plain.quantize(256)
    assert np.array_equal(rgb(palette), palette.convert("RGB"))
    assert np.abs(np.asarray(rgb(plain.convert("CMYK")), int) - np.asarray(plain, int)).max() <= 1
    assert set(np.unique(rgb(plain.convert("1")))) <= {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_lie_on_white(mode):
    image = Image.new("RGBA", (4, 2), (200, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    given = image.convert("LA") if mode == "LA" else image
    if mode == "P":
        stream = io.BytesIO()
        image.quantize(4).save(stream, "PNG")
        given = Image.open(stream)
    found = rgb(given)
    assert found.getpixel((0, 0)) == (255, 255, 255)
    assert found.getpixel((3, 1)) != (255, 255, 255)


def test_an_image_is_turned_as_its_camera_says(tmp_path):
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_images([tmp_path / "turned.jpg"]).samples[0].load().size == (4, 6)


def test_images_that_cannot_be_read_are_refused_in_one_sentence(tmp_path, monkeypatch):
    whole = tmp_path / "whole.jpg"
    pictures(1)[0].resize((300, 200)).save(whole)
    broken = tmp_path / "broken" / "cut.jpg"
    broken.parent.mkdir()
    broken.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(
        InputError, match=r"the image '.*cut.jpg' is damaged, was cut off or is none"
    ):
        read_images(broken.parent)
    broken.write_bytes(b"no image at all")
    with pytest.raises(InputError, match=r"cut.jpg' is damaged, was cut off or is none \(cannot"):
        read_images(broken.parent)
    closed = Image.open(whole)
    closed.close()
    with pytest.raises(InputError, match="the image 'image 0' is damaged"):
        read_images([closed])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    with pytest.raises(
        InputError, match="holds more than 40,000 pixels, Pillow's limit against dec"
    ):
        read_images([whole])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    with pytest.raises(InputError, match="holds more than 20,000 pixels"):
        read_images([whole])


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ([], {}, r"expected images in 'images' \(.png, .jpg, .jpeg, .webp, .bmp, or rows with an"),
        (["none.png"], {}, "there is no image 'none.png'; check the path"),
        (["a.png", 5], {}, "there is no image 'a.png'"),
        (
            [np.zeros((4, 4, 3))],
            {},
            "expected PIL images or paths of image files, number 0 is ndarray",
        ),
        (Image.new("RGB", (2, 2)), {}, "or a list of PIL images., got Image"),
        ([Image.new("RGB", (2, 2))], {"column": "x"}, "list has no columns; leave out column='x'"),
        ([Image.new("RGB", (202, 2))], {}, "is a strip of 202 x 2 pixels, of which no patch"),
        ([Image.fromarray(np.ones((4, 4), np.float32))], {}, None),
        (
            "none.jpg",
            {},
            "expected a folder of images, a .parquet file or a datasets id, got 'none.jpg",
        ),
    ],
)
def test_other_sources_are_refused(given, options, said):
    if said is None:
        found = read_images(given, **options)
        with pytest.raises(
            InputError, match=r"expected pixels of 8 or 16 bits, 'image 0' holds others"
        ):
            found.samples[0].load()
        return
    with pytest.raises(InputError, match=said):
        read_images(given, **options)


def test_tables_without_images_are_refused(tmp_path):
    rows = {"one": [b"x"], "two": [b"x"], "word": ["x"]}
    table = datasets.Dataset.from_dict(rows)
    with pytest.raises(
        InputError, match="expected one column of images, 'Dataset' has one, two; name"
    ):
        read_images(table)
    with pytest.raises(InputError, match="unknown column of 'Dataset': 'ones'"):
        read_images(table, column="ones")
    with pytest.raises(InputError, match="has none of the name 'word': one, two, word"):
        read_images(table, column="word")
    with pytest.raises(InputError, match="expected a column of images .* 'Dataset' has none: word"):
        read_images(table.select_columns("word"))
    with pytest.raises(InputError, match="'IterableDataset' is a stream; take a part of it"):
        read_images(table.to_iterable_dataset())
    empty = datasets.Dataset.from_dict({"image": [b"x", None]})
    with pytest.raises(InputError, match="row 1 of Dataset holds no image; leave such rows out"):
        read_images(empty)
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(
        InputError, match=r"the parquet file '.*' cannot be read \(.*\); write it again"
    ):
        read_images(tmp_path / "bad.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found none there"):
        read_images(tmp_path / "empty")


# --- views --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["augmented", "crops"])
def test_views_are_distinct_seeded_and_depend_on_the_image_alone(kind):
    one, other = read_images(pictures(2)).samples
    made = ImageViewConfig(kind=kind).views(one, 2, 0)
    arrays = [np.asarray(view.load()) for view in made]
    assert len({array.tobytes() for array in arrays}) == len({view.key for view in made}) == 2
    again = ImageViewConfig(kind=kind).views(read_images(pictures(1)).samples[0], 2, 0)
    assert all(np.array_equal(a, b.load()) for a, b in zip(arrays, again, strict=True))
    reseeded = ImageViewConfig(kind=kind).views(one, 2, 1)
    assert not np.array_equal(arrays[0], reseeded[0].load())
    assert not np.array_equal(arrays[0], ImageViewConfig(kind=kind).views(other, 2, 0)[0].load())


def test_crops_keep_the_share_of_the_area_that_is_asked():
    one = read_images([pictures(1)[0].resize((400, 300))]).samples[0]
    settings = ImageViewConfig(kind="crops", smallest=0.1, largest=0.4, draws=20)
    sizes = [view.load().size for view in settings.views(one, 2, 0)]
    shares = [width * height / (400 * 300) for width, height in sizes]
    assert len(shares) == 40
    assert 0.09 < min(shares) < 0.2
    assert 0.3 < max(shares) < 0.41
    large = read_images([pictures(1)[0].resize((3000, 2000))]).samples[0]
    assert max(ImageViewConfig().views(large, 1, 0)[0].load().size) == 512


# --- models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_layer_k_is_the_librarys_own(name):
    found = backbone(name)
    given = read(found, read_images(pictures(3)).samples, 0)
    marks = [[True] * len(each.ids) for each in given]
    [batch] = batches(found, given, marks, 1000)
    [result] = extract(found, [batch], sites_of(found), lambda states: states.states.clone())
    with evaluating(found.model):
        output = found.model(pixel_values=batch.pixels, output_hidden_states=True, return_dict=True)
    listed = output.hidden_states
    assert len(listed) == found.depth + 1 == 5
    for layer in range(found.depth):
        assert torch.equal(result.by_site[Site(layer)], listed[layer])
    last = result.by_site[sites_of(found)[-1]]
    assert torch.equal(last, output.last_hidden_state)
    assert sum(given[0].special) == SPECIALS.get(name, 1)
    assert len(given[0].ids) == SPECIALS.get(name, 1) + 4


@pytest.mark.real
@pytest.mark.skipif(dinov2() is None, reason="make benchmark-models makes DINOv2-small")
def test_layer_k_of_a_real_model_is_the_librarys_own():
    found = load(str(dinov2()), images=True)
    given = read(found, read_images(pictures(2)).samples, 0)
    assert len(given[0].special) == 257
    assert given[0].special.index(False) == sum(given[0].special) == 1
    [batch] = batches(found, given, [[True] * 257] * 2, 4096)
    [result] = extract(found, [batch], sites_of(found), lambda states: states.states.clone())
    with evaluating(found.model):
        listed = found.model(pixel_values=batch.pixels, output_hidden_states=True).hidden_states
    for layer, states in enumerate(listed):
        assert torch.equal(result.by_site[Site(layer)], states)


def test_register_tokens_stand_first_and_detection_tokens_last():
    assert special_tokens(backbone("dinov2_with_registers")) == (True,) * 3 + (False,) * 4
    assert special_tokens(backbone("yolos")) == (True, *(False,) * 4, True, True)


def test_a_masked_autoencoder_reads_whole_images_in_order_and_is_left_as_it_was():
    model = vision_model("vit_mae")
    before = condition(model)
    found = scanned(model, views=0, metrics="curvature")
    kept = condition(model)
    assert kept | {"python": ""} == before | {"python": ""}
    assert found.run.record["data"]["longest"] == 5
    assert model(torch.rand(1, 3, 16, 16)).last_hidden_state.shape[1] == 2  # it masks by itself


@pytest.mark.parametrize("kind", ["clip", "siglip", "gemma3 with vision"])
def test_the_image_tower_of_a_model_of_both_is_taken(kind):
    sight = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
             "image_size": 16, "patch_size": 8, "intermediate_size": 64}  # fmt: skip
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50,
             "intermediate_size": 16}  # fmt: skip
    makers = {
        "clip": lambda: hf.CLIPModel(hf.CLIPConfig(text_config=small, vision_config=sight)),
        "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(text_config=small, vision_config=sight)),
    }
    model = (makers.get(kind) or UNUSUAL[kind])().eval()
    found = scanned(model, 4, views=0, metrics="prompt_entropy")
    assert "Vision" in found.record["model"]["model_class"]
    assert found.record["model"]["dim"] == 32


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            lambda: hf.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2],
                                  num_heads=[2, 2], window_size=4),
            "SwinModel hands on fewer and wider tokens from block to block, as a pyramid does",
        ),
        (
            lambda: hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]),
            "cannot tell where ResNetModel keeps its image model",
        ),
        (
            lambda: hf.Siglip2VisionConfig(hidden_size=32, num_hidden_layers=2,
                                           num_attention_heads=2, num_patches=4),
            "Siglip2VisionModel names no image_size in its config",
        ),
        (
            lambda: hf.PixtralVisionConfig(hidden_size=32, num_hidden_layers=2, image_size=16,
                                           num_attention_heads=2, patch_size=8),
            "PixtralVisionModel gives an image other states when another image of the same length",
        ),
    ],
)  # fmt: skip
def test_models_whose_layers_cannot_be_told_apart_are_refused(config, said):
    model = hf.AutoModel.from_config(config()).eval()
    with pytest.raises(InputError, match=said):
        backbone_of(model, None)


# --- a scan -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "siglip_vision_model", "dinov3_vit"])
def test_a_scan_of_images_makes_every_measure_and_chooses(name):
    found = scanned(vision_model(name), 16)
    table = found.table()
    one_token = {"block_influence"}
    assert set(table["metric"]) >= {
        record.name for record in CATALOGUE if record.level != "pair"
    } - (one_token)
    assert set(table["perturbation"]) == {"none", "augmented images", "crops of images"}
    assert found.run.readouts is not None
    assert found.run.readouts.crops == "crops of images"
    assert "On 16 images" in found.select().answer
    assert found.record["data"]["texts"] == 16
    assert " text" not in found.summary() + found.select().answer + str(found.record["notes"])
    assert "95 % limits over images" in found.page()


def test_batches_and_the_order_of_images_change_no_number():
    model = vision_model("dinov2")
    keys = ["metric", "convention", "layer", "stage", "perturbation", "level", "other_layer"]

    def values(**options):
        rows = scanned(
            model, metrics=["prompt_entropy", "infonce", "cka_unbiased"], **options
        ).table()
        return rows.set_index(keys)["value"].sort_index()

    plain = values()
    assert np.allclose(values(batch_tokens=7), plain, rtol=1e-4, atol=1e-5)
    assert np.allclose(values(images=pictures(12)[::-1]), plain, rtol=1e-4, atol=1e-5)


def test_a_killed_scan_goes_on_and_gives_the_same_table(tmp_path, monkeypatch):
    original = images_module.rgb
    decoded = []
    monkeypatch.setattr(
        images_module, "rgb", lambda *given: decoded.append(given) or original(*given)
    )
    whole = scanned(vision_model("vit"), batch_tokens=20).table()
    every = len(decoded)
    left = [20]

    def failing(image, name):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(image, name)

    options = {"out": tmp_path / "killed", "batch_tokens": 20}
    monkeypatch.setattr(images_module, "rgb", failing)
    with pytest.raises(KeyboardInterrupt):
        scanned(vision_model("vit"), **options)
    decoded.clear()
    monkeypatch.setattr(
        images_module, "rgb", lambda *given: decoded.append(given) or original(*given)
    )
    again = scanned(vision_model("vit"), **options).table()
    assert len(decoded) == every - 20
    assert np.allclose(again["value"], whole["value"], rtol=1e-4, atol=1e-4)


def test_class_tokens_count_only_where_they_are_asked_for():
    model = vision_model("vit")

    def values(**options):
        given = {"views": 0, "metrics": "dataset_entropy", "layers": "1-4"}
        return scanned(model, **given | options).table()["value"]

    plain = values()
    assert not np.allclose(plain, values(special_tokens=True))
    assert not np.allclose(plain, values(pooling="first"))


def test_images_and_models_of_texts_do_not_go_together():
    given = {"images": pictures(3), "show_progress": False}
    with pytest.raises(InputError, match="reads texts, images came; give texts"):
        layerscope.scan(tiny_model("bert"), tokenizer=tiny_tokenizer(), **given)
    with pytest.raises(
        InputError, match="reads images: expected an image processor with it, got a tok"
    ):
        layerscope.scan(vision_model("vit"), tokenizer=tiny_tokenizer(), **given)
    with pytest.raises(
        InputError, match="reads texts: expected a tokenizer with it, got an image pro"
    ):
        layerscope.scan(tiny_model("bert"), texts(3), tokenizer=image_processor())
    with pytest.raises(
        InputError, match="was given without an image processor; pass it as tokenizer="
    ):
        layerscope.scan(vision_model("vit"), **given)
    with pytest.raises(
        InputError, match="expected texts or images, got both; leave data or images out"
    ):
        layerscope.scan(vision_model("vit"), texts(3), **given)
    with pytest.raises(InputError, match="text 0 is Image; pass images as images="):
        layerscope.scan(vision_model("vit"), pictures(3))
    with pytest.raises(
        InputError, match="what was read already has no columns; leave out column='x'"
    ):
        layerscope.scan(
            vision_model("vit"), column="x", **given | {"images": read_images(pictures(3))}
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": "a "}, "a prompt can be made of texts only; leave it out for images"),
        ({"perturbation": "random p=0.5"}, "a perturbation can be made of texts only"),
        (
            {"augmentation": ["default", "cloze", "halves"]},
            "the augmentation cloze, halves can be made",
        ),
        (
            {"limit": 1},
            "expected at least 2 distinct images to measure layers on, got 1 from images",
        ),
    ],
)
def test_settings_of_texts_are_refused_for_images(options, said):
    with pytest.raises(InputError, match=said):
        scanned(vision_model("vit"), **options)


def test_a_processor_that_makes_several_sizes_is_refused():
    loose = hf.BitImageProcessorPil(size={"shortest_edge": 16}, do_center_crop=False)
    with pytest.raises(
        InputError, match="expected one size of all images, the processor of ViTModel"
    ):
        scanned(vision_model("vit"), tokenizer=loose)


def test_a_folder_without_an_image_processor_is_refused(tmp_path, folder):
    vision_model("vit").save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="comes without an image processor that can be loaded"):
        layerscope.scan(tmp_path / "model", images=folder)


def test_a_model_whose_processor_needs_torchvision_is_read_by_pillow(tmp_path, folder):
    vision_model("dinov3_vit").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(
        '{"image_processor_type": "DINOv3ViTImageProcessor", "size": {"height": 16, "width": 16}}'
    )
    found = layerscope.scan(
        tmp_path / "model", images=folder, views=0, metrics="prompt_entropy", show_progress=False
    )
    assert found.record["data"]["texts"] == 4


def test_the_command_scans_a_folder(command, folder):
    vision_model("vit").save_pretrained("small-vit")
    image_processor().save_pretrained("small-vit")
    finished = command("scan", "small-vit", "--images", folder, "--metrics", "prompt_entropy")
    assert finished.code == 0, finished.err
    assert Path("runs/small-vit--animals/results.parquet").exists()
    asked = command("scan", "small-vit", "--images", folder, "--dry-run", "--json")
    assert asked.code == 0, asked.err


def test_images_that_were_read_already_are_taken(folder):
    found = read_images(folder)
    assert isinstance(found, Images)
    run = scanned(vision_model("vit"), images=found, views=0, metrics="prompt_entropy")
    assert run.record["data"]["fingerprint"] == found.fingerprint


# --- scores -------------------------------------------------------------------------------------------


def labelled(root: Path, count: int = 24) -> Path:
    """Images of three classes, each of a brightness of its own."""
    for number, image in enumerate(pictures(count)):
        label = ["bird", "cat", "dog"][number % 3]
        (root / label).mkdir(parents=True, exist_ok=True)
        scale = (0.3, 0.6, 1.0)[number % 3]
        image.point(lambda level, scale=scale: int(level * scale)).save(
            root / label / f"{number}.png"
        )
    return root


def test_every_layer_is_scored_on_labelled_images(tmp_path):
    folder = labelled(tmp_path / "animals")
    model, processor = vision_model("vit"), image_processor()
    given = {"images": folder, "tokenizer": processor, "show_progress": False}
    kinds = ("linear", "knn", "attention")
    found = layerscope.evaluate(model, probes=kinds, probe_seeds=2, **given)
    assert set(found.scores().columns) == {
        "animals", *(f"probe/animals/{kind}_accuracy" for kind in kinds),
    }  # fmt: skip
    assert len(found.scores()) == 6
    facts = found.record["tasks"]["animals"]
    assert facts["texts"] == 24
    assert "half of every class" in facts["notes"][0]
    rows = found.run.table.query("metric == 'probe/animals/linear_accuracy'")
    assert (rows["low"] <= rows["value"]).all()
    assert rows["value"].max() > 1.2 / 3
    assert found.record["evaluation"]["encoded"]["texts"] == 24
    assert layerscope.evaluate.plan(model, **given).estimate().forward_passes == 24


def test_the_vectors_that_are_scored_are_those_of_a_plain_call(tmp_path):
    folder = labelled(tmp_path / "animals")
    model, processor = vision_model("dinov2"), image_processor()
    found = layerscope.evaluate(
        model, images=folder, tokenizer=processor, probes="linear", layers=[4], show_progress=False
    )
    plan = plan_of_images(folder)
    task = plan.build()
    sets = []
    for split in ("train", "test"):
        keys = task.dataset[split]["text"]
        images = [plan.pictures[key].load() for key in keys]
        with torch.no_grad():
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            states = model(pixels).last_hidden_state[:, 1:].mean(1).numpy()
        sets.append((states, np.array(task.dataset[split]["label"])))
    (train, labels), (test, expected) = sets
    predicted = linear_predictions(train, labels, test)
    rows = found.run.table.query("metric == 'probe/animals/linear_accuracy' and stage != 'block'")
    assert rows["value"].tolist() == [pytest.approx(float((predicted == expected).mean()))]


def test_a_table_of_images_gives_its_name_to_the_task(tmp_path):
    folder = labelled(tmp_path / "animals")
    rows = {"image": [str(path) for path in sorted(folder.rglob("*.png"))]}
    rows["label"] = [Path(path).parent.name for path in rows["image"]]
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "many.animals.parquet")
    assert plan_of_images(tmp_path / "many.animals.parquet").name == "many.animals"


def test_folders_named_train_and_test_are_kept_apart(tmp_path):
    labelled(tmp_path / "set" / "train", 12)
    labelled(tmp_path / "set" / "Val", 3)
    labelled(tmp_path / "set" / "test", 9)
    plan = plan_of_images(tmp_path / "set")
    task = plan.build()
    assert (plan.name, plan.split, plan.notes) == ("set", "test", ())
    assert [len(task.dataset[split]) for split in ("train", "test")] == [12, 9]


def test_images_without_classes_are_refused(tmp_path):
    given = {"tokenizer": image_processor(), "show_progress": False}
    model = vision_model("vit")
    with pytest.raises(InputError, match="images of at least 2 classes in 'images' .* no labels"):
        layerscope.evaluate(model, images=pictures(4), **given)
    folder = labelled(tmp_path / "animals", 9)
    shutil.copytree(folder / "cat", tmp_path / "one" / "cat")
    with pytest.raises(InputError, match="at least 2 classes in 'one' .*, got only 'cat'"):
        layerscope.evaluate(model, images=tmp_path / "one", **given)
    pictures(1, seed=5)[0].save(folder / "bare.png")
    with pytest.raises(
        InputError, match="a class for every image in 'animals', 1 have none .*bare.png"
    ):
        layerscope.evaluate(model, images=folder, **given)
    with pytest.raises(
        InputError, match="tasks and tables and a prompt are of texts; leave them out"
    ):
        layerscope.evaluate(model, "STS17", images=folder, prompt="a ", **given)
    with pytest.raises(
        InputError, match="is a folder; name one of .* pass a folder of images as images"
    ):
        layerscope.scan(model, folder, **given)


def test_the_command_scores_a_folder_beside_its_scan(command, tmp_path):
    folder = labelled(tmp_path / "animals")
    vision_model("vit").save_pretrained("small-vit")
    image_processor().save_pretrained("small-vit")
    given = ("small-vit", "--images", folder, "--out", "run")
    measured = ("--metrics", "retrieval,prompt_entropy")
    said = [
        command("scan", *given, *measured, "--dry-run"),
        command("scan", *given, *measured, "--verbose"),
    ]
    said += [
        command("evaluate", *given, "--dry-run"),
        command("evaluate", *given, "--probe", "knn", "--verbose"),
    ]
    said += [command("select", "run", "--verbose"),
             command("evaluate", *given[:3], "--out", "alone", "--verbose")]  # fmt: skip
    for each in said:
        assert each.code == 0, each.err
        assert "images" in each.out
        assert " text" not in each.out
    assert "animals" in said[3].out


def test_a_study_scans_and_scores_images(tmp_path):
    folder = labelled(tmp_path / "animals")
    vision_model("vit").save_pretrained(tmp_path / "small-vit")
    image_processor().save_pretrained(tmp_path / "small-vit")
    images = [{"images": "animals", "label": "Animals"}]
    given = {
        "models": ["small-vit"],
        "parts": [
            {"data": images, "settings": {"views": 0, "metrics": "prompt_entropy"}},
            {"data": images, "command": "evaluate", "settings": {"probes": "knn"}},
        ],
        "plot": {"metric": ["prompt_entropy", "animals"]},
    }
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(given))  # JSON is YAML
    assert layerscope.study.plan(path, out=tmp_path / "out", workers=0).estimate().cells == 2
    found = layerscope.study(path, out=tmp_path / "out", workers=0, show_progress=False)
    assert not found.failures
    table = found.table()
    assert set(table["data"]) == {"Animals"}
    assert set(table["metric"]) == {
        "prompt_entropy", "mteb/animals/accuracy", "probe/animals/knn_accuracy",
    }  # fmt: skip
    place = StudyFolder(tmp_path / "out")
    cell = place.cells()[0]
    assert place.is_finished(cell, tmp_path)
    later = time.time() + 5
    os.utime(folder / "cat" / "1.png", (later, later))
    assert not place.is_finished(cell, tmp_path)


def saved(name: str) -> str:
    """A model with its image processor in a folder of the same name here."""
    vision_model(name).save_pretrained(name)
    image_processor().save_pretrained(name)
    return name


def test_models_are_ranked_on_images(command, folder):
    folder = labelled(folder.parent / "many")
    given = ("rank", saved("vit"), saved("dinov2"), "--images", folder)
    asked = command(*given, "--dry-run")
    ordered = command(*given, "--out", "ranking")
    for each in (asked, ordered):
        assert each.code == 0, each.err
        assert "images" in each.out
        assert " texts" not in each.out.replace(str(folder), "")
    again = command("rank", "ranking/vit", "dinov2", "--images", folder, "--out", "again")
    assert again.code == 0, again.err
    other = command("rank", "ranking/vit", "dinov2", "--images", labelled(Path("other"), 6))
    assert other.code == 2
    assert "was scanned on other images" in other.err
    kept = command("rank", *given[1:4], Path("other"), "--out", "ranking", "--overwrite")
    assert kept.code == 0, kept.err
    refused = command("rank", "vit", "dinov2", "--images", folder, "--data", "sample")
    assert "expected texts or images, got both" in refused.err
    texts_given = command("rank", "vit", "dinov2", "--data", "sample")
    assert "the model reads images and has no tokenizer" in texts_given.err


def test_labelled_images_are_weighed_against_the_choice_without_labels(command):
    folder = labelled(Path("animals"), 60)
    given = ("scan", saved("vit"), "--images", folder, "--out", "run")
    assert command(*given, "--metrics", "retrieval", "--layers", "0-4").code == 0
    chosen = command("select", "run", "--images", folder, "--model", "vit")
    assert chosen.code == 0, chosen.err
    assert "labelled rows of 'animals'" in chosen.out
    assert " text" not in chosen.out
    refused = command("select", "run", "--images", folder, "--table", "none.csv", "--model", "vit")
    assert "expected a table or images, got both; leave table or images out" in refused.err
    few = command("select", "run", "--images", labelled(Path("few"), 9), "--model", "vit")
    assert "expected at least 50 labelled rows, got 9 in 'few'" in few.err
    rows = labelled_images(folder)
    settings = layerscope.load("run").record["settings"]
    backbone = load("vit", images=True)
    vectors = row_vectors(backbone, settings, rows, list(rows.pictures.values()))
    images = [rows.pictures[key].load() for key in rows.texts]
    with torch.no_grad():
        pixels = image_processor()(images=images, return_tensors="pt")["pixel_values"]
        states = backbone.model(pixels).last_hidden_state[:, 1:].mean(1).numpy()
    assert np.allclose(vectors.first[4], states, atol=1e-5)
    assert len(vectors.fitted_on[4]) == 120


def test_a_model_of_images_is_pruned(command):
    folder = labelled(Path("animals"), 24)
    given = ("prune", saved("vit"), "--images", folder, "--budget", "1")
    asked = command(*given, "--dry-run", "--table", folder, "--out", "smaller")
    tried = ("--table", folder, "--draws", "2", "--heal", "on")
    pruned = command(*given, *tried, "--out", "smaller")
    for each in (asked, pruned):
        assert each.code == 0, each.err
        assert " text" not in each.out
    assert "animals" in pruned.out
    assert "Healed by linear maps" in pruned.out
    small = hf.AutoModel.from_pretrained("smaller").eval()
    assert small.config.num_hidden_layers == 3
    record = json.loads(Path("smaller/layerscope.json").read_text())
    assert record["data"]["kind"] == "images"
    again = command("scan", "smaller", "--images", folder, "--metrics", "prompt_entropy")
    assert again.code == 0, again.err


def test_prunings_of_images_and_of_texts_do_not_go_together(tmp_path):
    folder = labelled(tmp_path / "animals", 24)
    given = {"tokenizer": image_processor(), "show_progress": False}
    model = vision_model("vit")
    with pytest.raises(InputError, match="STS17 is a task of texts; name tasks of images, or give"):
        layerscope.prune(model, images=folder, evaluate="STS17", **given)
    with pytest.raises(InputError, match="ViTModel reads images; measure it on images"):
        layerscope.prune(model, data=texts(4), **given)
    with pytest.raises(InputError, match="reads texts, images came"):
        layerscope.prune(
            tiny_model("bert"), images=folder, tokenizer=tiny_tokenizer(), show_progress=False
        )


def of_the_hub(root: Path, monkeypatch) -> None:
    """Let mteb's CIFAR10 load images of three classes that lie here."""
    from mteb.tasks.classification.eng.cifar import CIFAR10Classification

    def split(part: str) -> datasets.Dataset:
        paths = sorted(labelled(root / part, 60 if part == "train" else 24).rglob("*.png"))
        names = sorted({path.parent.name for path in paths})
        rows = {
            "img": [str(path) for path in paths],
            "label": [names.index(path.parent.name) for path in paths],
        }
        return datasets.Dataset.from_dict(rows).cast_column("img", datasets.Image())

    def load_data(self, **_):
        self.dataset = datasets.DatasetDict({part: split(part) for part in ("train", "test")})
        self.data_loaded = True

    monkeypatch.setattr(CIFAR10Classification, "load_data", load_data)


def test_tasks_of_images_are_scored_by_mteb_without_torchvision(tmp_path, monkeypatch):
    of_the_hub(tmp_path, monkeypatch)
    given = {"tokenizer": image_processor(), "show_progress": False, "layers": "3,4"}
    asked = layerscope.evaluate.plan(vision_model("vit"), "CIFAR10", **given).estimate()
    assert (asked.forward_passes, asked.kind) == (60, "images")  # those to test on are among them
    found = layerscope.evaluate(vision_model("vit"), "CIFAR10", probes="knn", **given)
    assert set(found.scores().columns) == {"CIFAR10", "probe/CIFAR10/knn_accuracy"}
    assert found.record["evaluation"]["encoded"]["texts"] == 60
    assert found.record["evaluation"]["kind"] == "images"
    # The same images as a folder, which mteb splits and samples alike.
    folder = layerscope.evaluate(vision_model("vit"), images=tmp_path, probes="knn", **given)
    probed = [each.scores().iloc[:, 1].tolist() for each in (found, folder)]
    assert probed[0] == probed[1]


def test_tasks_of_images_and_of_texts_do_not_go_together(tmp_path, monkeypatch):
    of_the_hub(tmp_path, monkeypatch)
    given = {"tokenizer": image_processor(), "show_progress": False}
    with pytest.raises(
        InputError, match="CIFAR10 are of images, STS17 are of texts; score them in"
    ):
        layerscope.evaluate(vision_model("vit"), "CIFAR10,STS17", **given)
    (tmp_path / "CIFAR10").mkdir()
    with pytest.raises(
        InputError, match="CIFAR10 is a task of images; give local ones by --images"
    ):
        layerscope.evaluate(vision_model("vit"), "CIFAR10", task_data=tmp_path, **given)
    with pytest.raises(
        InputError, match="what can be scored are texts, of type .*, and images, of"
    ):
        layerscope.evaluate(vision_model("vit"), "CIFAR10ZeroShot", **given)


def test_a_masked_autoencoder_is_not_cut(tmp_path):
    vision_model("vit_mae").save_pretrained(tmp_path / "mae")
    with pytest.raises(
        InputError, match="drops random patches whenever stock transformers runs it"
    ):
        layerscope.cut(tmp_path / "mae", 2, out=tmp_path / "out", format="transformers")


def test_a_readout_of_a_pruned_model_of_images_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="a readout is saved for sentence-transformers, which reads"
    ):
        layerscope.prune.plan("vit", images=pictures(4), out=tmp_path / "out", readout=True)
