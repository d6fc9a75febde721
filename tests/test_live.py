"""Scans of a model while it trains: the training is bit for bit as it would be without them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from threadpoolctl import threadpool_info
from torch import nn

import layerscope
from layerscope.errors import InputError, RunError
from layerscope.integrations import ScanCallback, log_entries, scan_live
from layerscope.settings import LiveScanConfig
from layerscope.studies import live
from tiny import CONFIGS, condition, texts, tiny_tokenizer

pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
STEPS = 20


def model_with_dropout(name: str = "gpt2") -> Any:
    torch.manual_seed(3)
    config = CONFIGS[name]()
    kind = hf.AutoModelForCausalLM if name != "bert" else hf.AutoModelForMaskedLM
    return kind.from_config(config, attn_implementation="eager")


def rows(count: int = 32) -> list[dict[str, torch.Tensor]]:
    made = torch.randint(4, 100, (count, 12), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in made]


class Heard(hf.TrainerCallback):
    """What a tracker receives."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args, state, control, logs=None, **_given):
        self.logs.append((state.global_step, dict(logs)))


def trainer_of(folder: Path, *callbacks: Any, model: Any = None, kind=hf.Trainer, **arguments):
    defaults = {
        "max_steps": STEPS, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": "none",
        "seed": 5, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "learning_rate": 1e-2,
    }  # fmt: skip
    args = hf.TrainingArguments(output_dir=str(folder), **(defaults | arguments))
    return kind(
        model or model_with_dropout(), args, train_dataset=rows(),
        processing_class=tiny_tokenizer(), callbacks=list(callbacks),
    )  # fmt: skip


def losses(trainer: hf.Trainer) -> list[tuple[float, float]]:
    return [
        (entry["loss"], entry["grad_norm"])
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    theirs = other.state_dict()
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, theirs[name]), name


@pytest.fixture(autouse=True)
def _quiet_trainer():
    """The Trainer prints what it logs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        yield


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gpt2", {}),
        ("bert", {"gradient_accumulation_steps": 2}),
        ("gpt2", {"bf16": True, "activation_checkpointing": True}),
    ],
)
def test_losses_and_weights_are_the_same_to_the_bit_with_and_without_scans(
    tmp_path, name, arguments
):
    plain = trainer_of(tmp_path / "plain", model=model_with_dropout(name), **arguments)
    plain.train()
    callback = ScanCallback(texts(6), every=3)
    scanned = trainer_of(
        tmp_path / "scanned", callback, model=model_with_dropout(name), **arguments
    )
    scanned.train()
    assert len(losses(plain)) == STEPS
    assert losses(scanned) == losses(plain)
    assert_same_weights(scanned.model, plain.model)
    assert len(list((tmp_path / "scanned" / "layerscope").iterdir())) == 8  # 0, 3, ... 18, 20


def test_a_scan_that_draws_random_numbers_would_be_seen(tmp_path, monkeypatch):
    """The comparison above can fail."""
    plain = trainer_of(tmp_path / "plain")
    plain.train()
    run = live.LiveScan.run

    def run_and_draw(*given: Any):
        torch.rand(1)
        return run(*given)

    monkeypatch.setattr(live.LiveScan, "run", run_and_draw)
    scanned = trainer_of(tmp_path / "scanned", ScanCallback(texts(6), every=3))
    scanned.train()
    assert losses(scanned) != losses(plain)


def test_scans_are_logged_by_the_trainer_and_plotted_over_steps(tmp_path):
    heard = Heard()
    callback = ScanCallback(texts(6), every=10, steps=[1, 2], metrics=["prompt_entropy", "rankme"])
    trainer = trainer_of(tmp_path, callback, heard)
    trainer.train()
    scans = {
        step: entries
        for step, entries in heard.logs
        if any(name.startswith("layerscope/") for name in entries)
    }
    assert list(scans) == [0, 1, 2, 10, 20]
    names = {name for name in scans[10] if name.startswith("layerscope/")}
    assert names == {
        f"layerscope/{metric}/layer_{layer}"
        for metric in ("prompt_entropy", "rankme")
        for layer in range(5)
    }
    folders = sorted((tmp_path / "layerscope").iterdir())
    assert [path.name for path in folders] == ["step0", "step1", "step10", "step2", "step20"]
    last = layerscope.load(tmp_path / "layerscope" / "step20")
    assert last.record["model"]["revision"] == "step20"
    assert {k: v for k, v in scans[20].items() if k in names} == log_entries(last)
    logged = [entry for entry in trainer.state.log_history if "layerscope/rankme/layer_1" in entry]
    assert [entry["step"] for entry in logged] == [0, 1, 2, 10, 20]
    figure = layerscope.concat(folders).plot(x="step", by="layer", metric="prompt_entropy")
    assert set(figure.data[0].x) == {0, 1, 2, 10, 20}
    final = layerscope.scan(
        trainer.model, texts(6), tokenizer=tiny_tokenizer(), metrics="prompt_entropy", views=0
    )
    value = final.table().query("metric == 'prompt_entropy'")["value"].tolist()
    assert last.table().query("metric == 'prompt_entropy'")["value"].tolist() == value


class Averaging(hf.Trainer):
    """As in TRL: averages since the last log are added to each log, and started anew."""

    seen = 0

    def training_step(self, *given: Any, **named: Any):
        self.seen += 1
        return super().training_step(*given, **named)

    def log(self, logs, *given: Any):
        super().log(logs | {"batches": self.seen}, *given)
        self.seen = 0


def test_averages_that_a_trainer_logs_are_left_alone(tmp_path):
    trainer = trainer_of(tmp_path, ScanCallback(texts(6), every=3), kind=Averaging)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["batches"] for entry in entries] == [1] * STEPS


# --- when something is wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"texts": ["one"]}, "expected at least 2 distinct texts to measure layers on, got 1"),
        ({"texts": 5}, "expected texts to be "),
        ({"every": 0}, "expected every of at least 1, got 0."),
        ({"every": "x"}, "expected every to be a whole number"),
        ({"steps": ["x"]}, "expected steps to be "),
        ({"out": 5}, "expected out to be a path or None, got 5."),
        ({"overwrite": "no"}, "expected overwrite to be True or False"),
        ({"tokenizer": "bert"}, "expected tokenizer to be a loaded transformers tokenizer"),
        ({"config": {}}, "expected config to be "),
        ({"metrics": ["prompt_entropi"]}, "unknown measure 'prompt_entropi'; did you mean"),
        ({"metric": ["prompt_entropy"]}, "unknown setting 'metric'; did you mean 'metrics'?"),
        ({"metrics": ["lidar"]}, "augmented views are needed for lidar"),
        ({"stages": ["attention"]}, "unknown stage 'attention'"),
    ],
)  # fmt: skip
def test_mistakes_in_settings_are_refused_when_the_callback_is_made(given, message):
    with pytest.raises(InputError) as raised:
        ScanCallback(**{"texts": texts(6)} | given)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [9]}, "from 0 .* to 4 .*, got 9"),
        ({"layers": [1], "metrics": ["nrs_k10"]}, "need the output of every block"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused_before_the_first_step(
    tmp_path, settings, message
):
    trainer = trainer_of(tmp_path, ScanCallback(texts(6), every=3, **settings))
    with pytest.raises(InputError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_trainer_without_a_tokenizer_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, ScanCallback(texts(6)))
    trainer.callback_handler.processing_class = None
    with pytest.raises(InputError, match="there is no tokenizer; pass tokenizer= with a loaded"):
        trainer.train()
    callback = ScanCallback(texts(6), tokenizer=tiny_tokenizer())
    trainer = trainer_of(tmp_path, callback, max_steps=1)
    trainer.callback_handler.processing_class = None
    trainer.train()
    assert (tmp_path / "layerscope" / "step1" / "run.json").exists()


def test_a_sharded_model_is_refused(tmp_path):
    model = model_with_dropout()
    next(model.parameters()).ds_id = 0  # DeepSpeed ZeRO-3 marks its weights so
    trainer = trainer_of(tmp_path, ScanCallback(texts(6)), model=model)
    with pytest.raises(InputError, match="expected a model that is whole in each process"):
        trainer.train()


def test_a_scan_that_fails_is_a_warning_and_training_continues(tmp_path, monkeypatch):
    plain = trainer_of(tmp_path / "plain")
    plain.train()
    run = live.LiveScan.run

    def fail_at_6(self: Any, model: nn.Module, tokenizer: Any, step: int):
        hook = model.transformer.h[2].register_forward_pre_hook(fail) if step == 6 else None
        try:
            return run(self, model, tokenizer, step)
        finally:
            if hook:
                hook.remove()

    def fail(*_given: Any) -> None:
        torch.rand(1)
        raise RunError("out of luck")

    monkeypatch.setattr(live.LiveScan, "run", fail_at_6)
    scanned = trainer_of(tmp_path / "scanned", ScanCallback(texts(6), every=6))
    said = "layerscope could not scan step 6, training continues: out of luck"
    with pytest.warns(UserWarning, match=said):
        scanned.train()
    assert losses(scanned) == losses(plain)
    done = sorted(path.name for path in (tmp_path / "scanned" / "layerscope").iterdir())
    assert done == ["step0", "step12", "step18", "step20"]


def test_a_full_disk_loses_no_logged_number(tmp_path, monkeypatch):
    def fail(*_given: Any) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr("layerscope.studies.trainer.saved", fail)
    trainer = trainer_of(tmp_path, ScanCallback(texts(6), every=1), max_steps=1)
    with pytest.warns(UserWarning, match="could not scan step .*: the disk is full") as warned:
        trainer.train()
    assert len(warned) == 2
    assert sum("layerscope/curvature/layer_1" in e for e in trainer.state.log_history) == 2


def test_runs_of_an_earlier_training_are_refused_or_deleted(tmp_path):
    trainer_of(tmp_path, ScanCallback(texts(6), every=2), max_steps=4).train()
    trainer = trainer_of(tmp_path, ScanCallback(texts(6)), max_steps=2)
    with pytest.raises(
        InputError, match="holds 3 scans of an earlier training; choose another out"
    ):
        trainer.train()
    callback = ScanCallback(texts(6), every=1, overwrite=True)
    trainer_of(tmp_path, callback, max_steps=1).train()
    found = sorted(path.name for path in (tmp_path / "layerscope").iterdir())
    assert found == ["step0", "step1"]


def test_a_resumed_training_keeps_its_earlier_scans(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 2}
    trainer_of(tmp_path, ScanCallback(texts(6), every=3), max_steps=4, **arguments).train()
    callback, heard = ScanCallback(texts(6), every=3), Heard()
    resumed = trainer_of(tmp_path, callback, heard, max_steps=6, **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    found = sorted(path.name for path in (tmp_path / "layerscope").iterdir())
    assert found == ["step0", "step3", "step4", "step6"]
    assert [step for step, entries in heard.logs if "layerscope/curvature/layer_1" in entries] == [
        3,
        6,
    ]


def test_only_the_main_process_scans(tmp_path, monkeypatch):
    monkeypatch.setattr(hf.Trainer, "is_world_process_zero", lambda _self: False)
    heard = Heard()
    trainer = trainer_of(tmp_path, ScanCallback(texts(6), every=1), heard, max_steps=2)
    trainer.train()
    assert not (tmp_path / "layerscope").exists()
    assert not any(name.startswith("layerscope/") for _, logs in heard.logs for name in logs)


# --- loops of one's own ----------------------------------------------------------------------------


def everything(model: nn.Module) -> dict[str, Any]:
    gradients = {
        name: None if weight.grad is None else weight.grad.tolist()
        for name, weight in model.named_parameters()
    }
    threads = [(each["prefix"], each["num_threads"]) for each in threadpool_info()]
    autocast = (
        torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
    )  # fmt: skip
    return condition(model) | {
        "gradients": gradients, "threads": (torch.get_num_threads(), threads), "autocast": autocast,
    }  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("grad", [True, False])
def test_scan_live_leaves_everything_as_it_was(tmp_path, threads, grad):
    model = model_with_dropout().train()
    model.transformer.h[1].eval()
    model.transformer.h[2].requires_grad_(False)
    model.transformer.h[0].register_forward_hook(lambda *_: None)
    model(**{name: row[None] for name, row in rows(1)[0].items()}).loss.backward()
    before_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
            before = everything(model)
            scan = scan_live(model, tiny_tokenizer(), texts(6), step=7, out=tmp_path / "run")
            assert everything(model) == before
        outside = scan_live(model, tiny_tokenizer(), texts(6), LiveScanConfig())
    finally:
        torch.set_num_threads(before_threads)
    assert scan.folder == tmp_path / "run"
    assert set(scan.table()["revision"]) == {"step7"}
    assert not (tmp_path / "run" / "page.html").exists()
    assert log_entries(scan) == log_entries(outside)  # of the weights as they are, without autocast


def train_by_hand(scans: bool) -> tuple[list[float], nn.Module]:
    model = model_with_dropout().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(0)
    found = []
    for step, row in enumerate(rows()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if scans and step % 5 == 3:  # before the pass that fills the cache of autocast
                scan_live(model, tiny_tokenizer(), texts(6), step=step)
            first = model(input_ids=row["input_ids"][None], labels=row["labels"][None]).loss
            if scans and step % 5 == 1:  # between two passes, with gradients in wait
                scan_live(model, tiny_tokenizer(), texts(6), step=step)
            loss = first + model(input_ids=row["input_ids"][None], labels=row["labels"][None]).loss
        loss.backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
        found.append(loss.item())
    return found, model


def test_scan_live_in_the_middle_of_a_step_changes_no_bit():
    plain, one = train_by_hand(scans=False)
    scanned, other = train_by_hand(scans=True)
    assert scanned == plain
    assert_same_weights(one, other)


def test_scan_live_reads_the_model_inside_of_wrappers():
    model = model_with_dropout().eval()
    inside = scan_live(model, tiny_tokenizer(), texts(6))
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert log_entries(scan_live(wrapped, tiny_tokenizer(), texts(6))) == log_entries(inside)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "gpt2"}, "expected model to be a loaded transformers model, got 'gpt2'."),
        ({"tokenizer": None}, "reads texts, but there is no tokenizer"),
        ({"texts": ["one"]}, "expected at least 2 distinct texts"),
        ({"step": -1}, "expected step of at least 0, got -1."),
        ({"out": 5}, "expected out to be a path or None, got 5."),
        ({"overwrite": 1}, "expected overwrite to be True or False, got 1."),
        ({"config": 5}, "expected config to be a ScanConfig or None, got 5."),
        ({"view": 2}, "unknown setting 'view'; did you mean 'views' or"),
    ],
)
def test_wrong_arguments_of_scan_live(given, message):
    right = {"model": model_with_dropout(), "tokenizer": tiny_tokenizer(), "texts": texts(6)}
    with pytest.raises(InputError) as raised:
        scan_live(**right | given)
    assert message in str(raised.value)


def test_names_for_a_logger():
    found = scan_live(
        model_with_dropout(), tiny_tokenizer(), texts(8, longest=60),
        metrics=["infonce", "cka_unbiased", "cka_matrix", "frenet_speed_k32"], views=2, span_words=5,
        augmentation=["default", "crops"],
    )  # fmt: skip
    names = list(log_entries(found))
    kinds = ["characters p_0.3_ first 40 words", "crops of 5 words"]
    steps = ["cka_unbiased", "frenet_speed_k16", "frenet_speed_k32", "frenet_speed_k64"]
    assert sorted(names) == sorted(
        [f"layerscope/infonce/{kind}/layer_{layer}" for kind in kinds for layer in range(5)]
        + [f"layerscope/{name}/layer_{layer}" for name in steps for layer in range(1, 5)]
    )
    with pytest.raises(InputError, match="expected scan to be a scan, got 5"):
        log_entries(5)
