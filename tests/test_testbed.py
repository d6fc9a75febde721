"""The miniature suite: its committed checkpoints load and have learned, and how they were trained."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from studies.testbed import models, text, tokens, vision
from studies.testbed.loop import Schedule, drawn, log_steps, train
from studies.testbed.train import HERE, SEED, SUITE, Place, start

from layerscope.data.images import read_images
from layerscope.data.texts import read_texts

PLACE = Place(HERE, all_steps=False)
CHECKPOINTS = [(name, step) for name, model in SUITE.items() for step in model.kept]
LAST = {name: model.last for name, model in SUITE.items()}
LIMIT = 10_000_000  # bytes of the whole folder


@cache
def loaded(name: str, step: int):
    kind = hf.AutoModelForMaskedLM if SUITE[name].masked else hf.AutoModelForCausalLM
    return kind.from_pretrained(PLACE.checkpoint(name, step)).eval()


def rows(name: str) -> torch.Tensor:
    tokenizer = hf.AutoTokenizer.from_pretrained(PLACE.checkpoint(name, LAST[name]))
    lines = (HERE / "held_out.txt").read_text(encoding="utf-8").splitlines()
    return torch.tensor(tokenizer(lines, truncation=True, max_length=64)["input_ids"])


def loss(name: str, step: int) -> float:
    [batch] = SUITE[name].batches([rows(name)], SEED)
    with torch.inference_mode():
        return float(loaded(name, step)(**batch).loss)


def entropy_of_frequencies() -> float:
    found = rows("gpt-neox-32").flatten().tolist()
    return -sum(n / len(found) * math.log(n / len(found)) for n in Counter(found).values())


@pytest.mark.parametrize(("name", "step"), CHECKPOINTS)
def test_every_checkpoint_loads_by_itself(name, step):
    folder = PLACE.checkpoint(name, step)
    model, tokenizer = (
        hf.AutoModel.from_pretrained(folder),
        hf.AutoTokenizer.from_pretrained(folder),
    )
    assert model.dtype == torch.float32
    assert (folder / "model.safetensors").stat().st_size < 2.3 * loaded(name, step).num_parameters()
    batch = tokenizer(
        ["A function that returns a list.", "Ünïcode"], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        states = model(**batch, output_hidden_states=True).hidden_states
    assert len(states) == models.LAYERS + 1
    assert all(state.isfinite().all() for state in states)
    assert len(tokenizer) == models.VOCABULARY
    assert (
        tokenizer.decode(tokenizer("Ünïcode")["input_ids"], skip_special_tokens=True) == "Ünïcode"
    )


def test_the_folder_holds_what_the_script_says_and_no_more():
    found = {
        path.parent.relative_to(HERE / "models") for path in HERE.glob("models/**/*.safetensors")
    }
    seeing = {Path(name) / f"step{vision.STEPS}" for name in vision.OBJECTIVES}
    assert found == seeing | {Path(name) / f"step{step}" for name, step in CHECKPOINTS}
    assert sum(p.stat().st_size for p in HERE.rglob("*") if "__pycache__" not in p.parts) <= LIMIT


def test_training_lowers_the_loss_below_that_of_the_tokens_frequencies():
    for name, model in SUITE.items():
        if not model.tuned:
            assert loss(name, LAST[name]) < entropy_of_frequencies() - 0.5
        if len(model.kept) > 1:
            losses = [loss(name, step) for step in model.kept]
            assert losses == sorted(losses, reverse=True)
        if model.kept[0] == 0:
            assert losses[0] == pytest.approx(math.log(models.VOCABULARY), abs=0.1)


def test_the_twin_continues_its_base_and_answers_questions_better():
    twin, base = "gpt-neox-64-questions", "gpt-neox-64"
    tuned, before = loaded(twin, LAST[twin]), loaded(base, LAST[base])
    assert tuned.config.to_diff_dict() == before.config.to_diff_dict()
    assert {k: v.shape for k, v in tuned.named_parameters()} == {
        k: v.shape for k, v in before.named_parameters()
    }
    tokenizer = hf.AutoTokenizer.from_pretrained(PLACE.checkpoint(base, LAST[base]))
    asked = tokenizer("Question: What is barley?\nAnswer: a grain.", return_tensors="pt")[
        "input_ids"
    ]
    with torch.inference_mode():
        assert tuned(asked, labels=asked).loss < before(asked, labels=asked).loss - 1
    assert loss(twin, LAST[twin]) > loss(base, LAST[base])


def test_the_curves_have_every_model_and_its_steps_in_order():
    table = pd.read_csv(HERE / "loss.csv")
    assert set(table["model"]) == set(SUITE) | set(vision.OBJECTIVES)
    for name, rows in table.groupby("model"):
        if name in vision.OBJECTIVES:  # not all losses are in nats
            assert rows["step"].iloc[-1] == vision.STEPS
            assert rows["validation_loss"].iloc[-1] < rows["validation_loss"].iloc[0] / 1.5
            continue
        steps = rows["step"].tolist()
        assert steps == sorted(set(steps))
        assert set(log_steps(LAST[str(name)])) <= set(steps)
        assert (rows["tokens"] == rows["step"] * 16 * models.CONTEXT).all()
        assert rows["validation_loss"].iloc[-1] < rows["validation_loss"].iloc[0] - 2


def test_no_held_out_paragraph_is_of_the_sample():
    lines = (HERE / "held_out.txt").read_text(encoding="utf-8").splitlines()
    assert not set(lines) & set(read_texts("sample", limit=None).texts)


@pytest.mark.filterwarnings("ignore:.*falling back")
def test_the_fast_scan_has_the_logits_and_gradients_of_the_slow_path():
    ids = torch.randint(5, models.VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(0))
    found = []
    for fast in (False, True):
        torch.manual_seed(0)
        model = models.mamba(16)
        with models.fast_scan() if fast else torch.enable_grad():
            result = model(ids, labels=ids)
        result.loss.backward()
        found.append([result.logits, *(weight.grad for weight in model.parameters())])
    for slow, quick in zip(*found, strict=True):
        torch.testing.assert_close(quick, slow)


@pytest.mark.parametrize("name", ["gpt-neox-64", "modernbert-64"])
def test_a_training_is_repeated_to_the_bit_and_saves_the_steps_that_it_should(name):
    text_rows = torch.randint(
        5, models.VOCABULARY, (40, 16), generator=torch.Generator().manual_seed(0)
    )
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        model, saved = (models.modern_bert if SUITE[name].masked else models.gpt_neox)(16), []
        batches = SUITE[name].batches(drawn(text_rows, 8, 6, seed=1), SEED)
        held_out = list(SUITE[name].batches(text_rows[:8].split(4), SEED))
        records = train(model, batches, Schedule(6, 1e-2, 2), held_out, saved.append, 8 * 16)
        assert saved == [record.step for record in records] == [0, 1, 2, 4, 6]
        assert records[-1].tokens == 6 * 8 * 16
        assert records[-1].validation_loss < records[0].validation_loss
        ends.append([(record.train_loss, record.validation_loss) for record in records[1:]])
    assert ends[0] == ends[1]


def test_steps_rates_and_the_order_of_the_data():
    assert log_steps(12) == [0, 1, 2, 4, 8, 12]
    assert log_steps(8) == [0, 1, 2, 4, 8]
    schedule = Schedule(100, warm_up=10)
    assert [schedule.factor(step) for step in (0, 9, 10)] == [0.1, 1.0, 1.0]
    assert schedule.factor(100) == pytest.approx(0.1)
    batches = [batch[:, 0].tolist() for batch in drawn(torch.arange(10)[:, None], 4, 5, seed=3)]
    order = [row for batch in batches for row in batch]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert batches == [b[:, 0].tolist() for b in drawn(torch.arange(10)[:, None], 4, 5, seed=3)]


def test_masked_tokens_are_those_to_be_predicted():
    given = torch.randint(
        5, models.VOCABULARY, (64, 128), generator=torch.Generator().manual_seed(0)
    )
    [batch] = tokens.masked([given], seed=0)
    wanted, shown = batch["labels"], batch["input_ids"]
    chosen = wanted != -100
    assert (wanted[chosen] == given[chosen]).all()
    assert (shown[~chosen][shown[~chosen] >= 5] == given[:, 1:-1][~chosen[:, 1:-1]]).all()
    assert chosen.float().mean() == pytest.approx(0.15, abs=0.01)
    assert (shown[chosen] == models.MASK).float().mean() == pytest.approx(0.8, abs=0.03)
    assert (shown[chosen] == given[chosen]).float().mean() == pytest.approx(0.1, abs=0.03)
    assert (shown[:, 0] == models.CLS).all()
    assert (shown[:, -1] == models.SEP).all()


def test_prose_is_paragraphs_without_marks():
    paragraph = (
        "The :class:`list` has ``append`` and a\n*method* named `sort <sorting.html>`_ that many of "
        "the readers here should know."
    )
    plain = "The list has append and a method named sort that many of the readers here should know."
    code = "   >>> f(x)[0] == {1: 2}['a']; g(1, 2, 3) != h(4, 5, 6) + i(7, 8, 9) - 10 * 11.\n"
    assert text.prose(f"Title\n=====\n\n{paragraph}\n\n{code}\n\n.. note:: {plain}") == [plain]


# --- models of images ------------------------------------------------------------------------------


def clothes() -> torch.Tensor:
    given = read_images(vision.DATA, limit=8)
    return torch.stack([torch.tensor(np.asarray(each.load()))[..., 0] for each in given.samples])


@pytest.mark.parametrize("name", vision.OBJECTIVES)
def test_every_model_of_images_loads_by_itself(name):
    folder = PLACE.checkpoint(name, vision.STEPS)
    model, processor = load_image_model(folder)
    assert model.dtype == torch.float32
    assert (folder / "model.safetensors").stat().st_size < 2.3 * model.num_parameters()
    made = processor(
        images=[each.load() for each in read_images(vision.DATA, limit=8).samples],
        return_tensors="pt",
    )["pixel_values"]
    assert torch.allclose(made, vision.pixels_of(clothes()), atol=1e-6)
    with torch.no_grad():
        states = model(made, output_hidden_states=True).hidden_states
    assert len(states) == vision.LAYERS + 1
    assert all(state.isfinite().all() for state in states)


def load_image_model(folder):
    processor = hf.ViTImageProcessorPil.from_pretrained(folder)
    return hf.AutoModel.from_pretrained(folder).eval(), processor


@pytest.mark.parametrize("name", vision.OBJECTIVES)
def test_the_autoregressive_model_alone_is_causal(name):
    model, _ = load_image_model(PLACE.checkpoint(name, vision.STEPS))
    pixels = vision.pixels_of(clothes())
    changed = pixels.clone()
    changed[:, :, 4:8, 8:12] = 0.3  # patch 10: row 1, column 2
    with torch.no_grad():
        both = [model(each, output_hidden_states=True) for each in (pixels, changed)]
    for layer in range(1, vision.LAYERS + 1):
        one, other = (each.hidden_states[layer] for each in both)
        differs = (one != other).any(dim=2).any(dim=0)
        causal = name == "vit-autoregressive"
        assert differs[:10].any() == (not causal)  # the class token and the patches before
        assert differs[10:].all()


@pytest.mark.parametrize("name", vision.OBJECTIVES)
def test_a_training_on_images_is_repeated_to_the_bit(name):
    images, labels = clothes(), torch.arange(8)
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        objective, saved = vision.OBJECTIVES[name](), []
        order = drawn(torch.arange(8), 4, 4, seed=1)
        records = train(
            objective,
            vision.batches(objective, images, labels, order, SEED),
            Schedule(4, 1e-2, 1),
            list(vision.batches(objective, images, labels, [torch.arange(8)], SEED)),
            saved.append,
            4,
        )
        assert saved == [0, 1, 2, 4]
        ends.append([(record.train_loss, record.validation_loss) for record in records[1:]])
    assert ends[0] == ends[1]


def test_what_the_objectives_see():
    pixels = vision.pixels_of(clothes())
    views = vision.augmented(pixels, torch.Generator().manual_seed(0))
    assert views.shape == pixels.shape
    assert (views.amin() >= -1) & (views.amax() <= 1)
    assert not torch.allclose(views, pixels, atol=0.1)
    patches = vision.patches_of(pixels)
    assert patches.shape == (8, 49, 16)
    assert torch.allclose(patches.mean(-1), torch.zeros(8, 49), atol=1e-5)
    masked = vision.Masked().batch(clothes(), torch.arange(8), torch.Generator().manual_seed(0))
    assert (masked["masked"].sum(1) == 29).all()


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(SystemExit, match="install it with `apt-get install dataset-fashion-mnist`"):
        vision.read_clothes(tmp_path, "train")
    with pytest.raises(
        SystemExit, match="is missing: install it with `apt-get install jargon-text`"
    ):
        list(text.jargon(tmp_path))
    with pytest.raises(SystemExit, match="is missing: train gpt-neox-64 first"):
        start(SUITE["gpt-neox-64-questions"], Place(tmp_path, all_steps=False))
