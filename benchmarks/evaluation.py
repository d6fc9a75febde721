"""Every layer on mteb's tasks from one pass, against mteb's plain runs of the same model.

Run: `python -m benchmarks evaluation` (hours on two cores, nearly all of them the plain runs), or
`python -m benchmarks.evaluation --model MiniLM --task STS17-en-en --rows 50` for a taste. One thread
unless --threads says otherwise, and seconds of the CPU, not of the clock: neighbors do not count in them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from benchmarks import corpora
from benchmarks.materials import MODELS, READOUT_MODELS, SHARED
from benchmarks.memory import texts
from benchmarks.tables import markdown
from layerscope.config import FirstToken, Pooling
from layerscope.evaluation.run import quiet, score_tasks
from layerscope.evaluation.tasks import TaskPlan, resolve
from layerscope.models import loading
from layerscope.models.architectures import ARCHITECTURES
from layerscope.models.backbone import Backbone
from layerscope.models.serving import as_served
from layerscope.settings import EvaluateConfig
from layerscope.states.bank import hash_of
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.states.extract import Site, sites_of

GLOSSES = "WordNetGlosses"  # a retrieval made here: which gloss explains a word
TASKS = {
    "MiniLM": ("STSBenchmark", "Banking77Classification", GLOSSES),
    "Gemma 3 270M": ("STSBenchmark",),
}
LIMITS = {"MiniLM": (3.0, 1.5), "Gemma 3 270M": (8.0, 1.5)}
DATA = SHARED / "data"
TEXTS = 10_000
# What sentence-transformers does by default: every token of a text counts in the mean.
PLAIN = EvaluateConfig(special_tokens=True, first_token=FirstToken.KEEP)


def plan_of(task: str, rows: int | None) -> TaskPlan:
    """A task of ../shared/data or a folder of glosses, cut to its first rows for a taste."""
    folder = DATA
    if task == GLOSSES:
        task = str(_glosses(rows))
    elif rows is not None:
        folder = Path(tempfile.mkdtemp(prefix="layerscope-bench-"))
        for file in (DATA / task).glob("*.parquet"):
            (folder / task).mkdir(exist_ok=True)
            pd.read_parquet(file).head(rows).to_parquet(folder / task / file.name)
    with quiet():
        [plan] = resolve([task], task_data=folder)
        plan.build()  # the data are loaded before any clock runs
    return plan


def _glosses(rows: int | None) -> Path:
    """Write a folder in the BEIR layout: words are queries, glosses the corpus, lexnames its titles."""
    folder = Path(tempfile.mkdtemp(prefix="layerscope-bench-")) / GLOSSES
    (folder / "qrels").mkdir(parents=True)
    test, train = (
        pd.read_parquet(DATA / "WordNetGlossLexname" / f"{split}.parquet").head(rows or 1 << 30)
        for split in ("test", "train")
    )
    glosses = pd.concat([test, train], ignore_index=True)
    glosses["_id"] = "d" + glosses.index.astype(str)
    words = pd.DataFrame({"text": test["lemma"].unique()})
    words["_id"] = "q" + words.index.astype(str)
    corpus = glosses.rename(columns={"label_text": "title"})[["_id", "title", "text"]]
    corpus.to_json(folder / "corpus.jsonl", orient="records", lines=True)
    words.to_json(folder / "queries.jsonl", orient="records", lines=True)
    judged = words.merge(glosses, left_on="text", right_on="lemma").assign(score=1)
    judged = judged.rename(columns={"_id_x": "query-id", "_id_y": "corpus-id"})
    judged = judged[["query-id", "corpus-id", "score"]]
    judged.to_csv(folder / "qrels" / "test.tsv", sep="\t", index=False)
    return folder


# --- mteb's plain runs -------------------------------------------------------------------------


class PlainModel:
    """A sentence-transformers model of the same weights that can be cut at any site."""

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling as Pool
        from sentence_transformers.sentence_transformer.modules import Transformer

        _save(backbone, folder)
        transformer = Transformer(str(folder), max_seq_length=512)
        pool = Pool(backbone.info.dim, pooling_mode="mean")
        self.encoder = SentenceTransformer(modules=[transformer, pool], device="cpu")
        self.core: Any = transformer.auto_model
        self.architecture = ARCHITECTURES[backbone.info.architecture]

    @contextmanager
    def cut_at(self, site: Site) -> Any:
        """Stop after a block; its raw output is what is pooled, unless the final norm is asked for."""
        path = self.architecture.blocks
        blocks = self.core.get_submodule(path)
        norm = self.architecture.final_norm
        kept = self.core.get_submodule(norm) if norm else None
        self.core.set_submodule(path, nn.ModuleList(blocks[: site.layer]))
        if norm and site.stage == "block":
            self.core.set_submodule(norm, nn.Identity())
        try:
            yield self.encoder
        finally:
            self.core.set_submodule(path, blocks)
            if norm:
                self.core.set_submodule(norm, kept)


def _save(backbone: Backbone, folder: Path) -> None:
    """Write the weights and the tokenizer; a model read from GGUF does not save itself."""
    config = backbone.model.config.__class__.from_dict(
        {k: v for k, v in backbone.model.config.to_dict().items() if k != "quantization_config"}
    )
    fresh = type(backbone.model)(config)
    fresh.load_state_dict(backbone.model.state_dict())
    fresh.to(next(backbone.model.parameters()).dtype).save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)


def plain_run(model: PlainModel, plan: TaskPlan, site: Site) -> tuple[float, float]:
    """Seconds and main score of one plain run of mteb."""
    import mteb

    with quiet(), model.cut_at(site) as encoder:
        task = plan.build()
        started = time.process_time()
        result = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False)
        seconds = time.process_time() - started
    return seconds, float(result.task_results[0].scores[plan.split][0]["main_score"])


# --- ours --------------------------------------------------------------------------------------


def all_layers(
    backbone: Backbone, plan: TaskPlan, settings: EvaluateConfig, bank: Path
) -> tuple[float, dict[Site, float], BankEncoder]:
    """Seconds, scores and encoder of one evaluation of every site, loading the model left out."""
    started = time.process_time()
    opened = open_bank(bank, backbone, TokenPolicy.of_config(settings))
    source = BankEncoder(backbone, opened, settings.pools)
    outcome = score_tasks(source, [plan], source.sites, settings)
    if outcome.failed:
        raise SystemExit(f"{plan.name} failed: {outcome.failed[plan.name]}")
    scores = {site: score.value for site, score in outcome.scores[plan.name].items()}
    return time.process_time() - started, scores, source


def one_pass(name: str, task: str) -> str:
    """Say what all layers cost beside one plain run of the last, both in CPU seconds."""
    path = MODELS[name]()
    if path is None:
        return "model not installed"
    backbone = loading.load(path)
    plan = plan_of(task, None)
    with tempfile.TemporaryDirectory() as folder:
        model = PlainModel(backbone, Path(folder) / "plain")
        plain_run(model, plan_of("STS17-en-en", 8), Site(backbone.depth))  # warms up
        ours, _, source = all_layers(backbone, plan, PLAIN, Path(folder) / "bank")
        plain, _ = plain_run(model, plan, source.sites[-1])
    return f"{ours / plain:.2f} x ({ours:.1f} s / {plain:.1f} s)"


def compare(name: str, task: str, rows: int | None, layers: Sequence[int] | None) -> dict[str, Any]:
    """One row: all layers from one pass against a plain run for each of them."""
    path = MODELS[name]()
    if path is None:
        return {"model": name, "task": task, "texts": "model not installed"}
    backbone = loading.load(path)
    plan = plan_of(task, rows)
    with tempfile.TemporaryDirectory() as folder:
        model = PlainModel(backbone, Path(folder) / "plain")
        plain_run(model, plan_of("STS17-en-en", 8), Site(backbone.depth))  # warms up
        bank = Path(folder) / "bank"
        ours, scores, source = all_layers(backbone, plan, PLAIN, bank)
        other = PLAIN.changed(pooling=Pooling.MAX)
        again, _, second = all_layers(backbone, plan, other, bank)
        sites = source.sites
        chosen = [site for site in sites if layers is None or site.layer in layers]
        runs = {site: plain_run(model, plan, site) for site in chosen}
    last = sites[-1]
    differences = {site: abs(score - scores[site]) for site, (_, score) in runs.items()}
    many, one = LIMITS.get(name, ("", ""))
    total = sum(seconds for seconds, _ in runs.values())
    return {
        "model": name,
        "task": task,
        "texts": source.encoded.texts,
        "sites": len(sites),
        "all layers s": f"{ours:.1f}",
        "plain, a run a layer s": f"{total:.1f}" if len(runs) == len(sites) else "not all run",
        "times faster": f"{total / ours:.2f}" if len(runs) == len(sites) else "",
        "at least": many,
        "plain last layer s": f"{runs[last][0]:.1f}" if last in runs else "",
        "ratio": f"{ours / runs[last][0]:.2f}" if last in runs else "",
        "at most": one,
        "another pooling s": f"{again:.1f}",
        "texts it ran": second.encoded.texts,
        "largest difference of scores": f"{max(differences.values()):.1e}",
        "bank MB": f"{source.bank.size / 1e6:.0f}",
    }


# --- as it is served -------------------------------------------------------------------------------

SERVED = (
    "STS17", "Banking77Pairs", "Banking77Classification", "ArxivClusteringS2S-mini", "CLINC150Reranking",
)  # fmt: skip


def as_it_is_served(name: str, folder: Path) -> list[dict[str, Any]]:
    """A row a task: the last row of an evaluation against mteb on the source's own model."""
    import mteb
    from sentence_transformers import SentenceTransformer

    path = READOUT_MODELS[name]()
    if path is None:
        return [{"model": name, "task": "model not installed"}]
    backbone = loading.load(path)
    settings, _ = as_served(EvaluateConfig(), backbone.serving)
    model = SentenceTransformer(str(path), device="cpu")
    plans = [corpora.plans(folder / "tasks")[task] for task in SERVED] + [plan_of(GLOSSES, 300)]
    opened = open_bank(folder / "bank", backbone, TokenPolicy.of_config(settings))
    last = sites_of(backbone)[-1]
    source = BankEncoder(
        backbone, opened, settings.pools, poolings=(settings.pools,), sites=(last,)
    )
    decided = settings.changed(max_length=opened.policy.max_length)
    ours = score_tasks(source, plans, [last], decided)
    rows = []
    for plan in plans:
        with quiet():
            result = mteb.evaluate(model, plan.build(), cache=None, show_progress_bar=False)
        plain = float(result.task_results[0].scores[plan.split][0]["main_score"])
        score = ours.scores[plan.name][last].value
        rows.append(
            {"model": name, "task": plan.name, "kind": plan.kind, "last row": f"{100 * score:.3f}",
             "mteb, SentenceTransformer": f"{100 * plain:.3f}", "difference": f"{abs(score - plain):.0e}"}
        )  # fmt: skip
    return rows


def served_table(names: Sequence[str] = ("MiniLM", "MPNet base")) -> str:
    """Return the rows of all models."""
    rows: list[dict[str, Any]] = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            rows += as_it_is_served(name, Path(folder))
    return markdown(rows)


# --- memory ------------------------------------------------------------------------------------


def child(name: str, count: int) -> None:
    """Encode so many texts in this process, read one layer back, and print what that took."""
    torch.set_num_threads(1)
    backbone = loading.load(MODELS[name]())
    given = texts(count)
    with tempfile.TemporaryDirectory() as folder:
        opened = open_bank(Path(folder), backbone, TokenPolicy())
        source = BankEncoder(backbone, opened, Pooling.MEAN)
        source.fill(given[:64], [hash_of(text) for text in given[:64]])
        before = _peak()
        started = time.process_time()
        source.fill(given, [hash_of(text) for text in given])
        seconds = time.process_time() - started
        filled = _peak()
        started = time.process_time()
        layer = source.vectors(source.sites[-1], given)
        read = time.process_time() - started
        found = {
            "model": name,
            "texts": len(given),
            "sites": len(source.sites),
            "poolings": len(Pooling),
            "bank MB": f"{opened.bank.size / 1e6:.0f}",
            "encoding s": f"{seconds:.0f}",
            "memory before MB": f"{before / 1e6:.0f}",
            "peak while encoding MB": f"{filled / 1e6:.0f}",
            "peak after one layer was read MB": f"{_peak() / 1e6:.0f}",
            "one layer MB": f"{layer.nbytes / 1e6:.0f}",
            "reading one layer s": f"{read:.2f}",
        }
    print(json.dumps(found))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(name: str, count: int) -> dict[str, Any]:
    """The row of one model, measured in a process of its own."""
    if MODELS[name]() is None:
        return {"model": name, "texts": "model not installed"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.evaluation", "--child"]
    output = subprocess.run(
        [*command, "--model", name, "--texts", str(count)],
        check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    ).stdout  # fmt: skip
    row: dict[str, Any] = json.loads(output.splitlines()[-1])
    return row


def main(
    names: Sequence[str] = tuple(TASKS),
    tasks: Sequence[str] = (),
    rows: int | None = None,
    count: int = TEXTS,
    layers: Sequence[int] | None = None,
    threads: int = 1,
) -> str:
    """Return the tables of time, equality and memory."""
    if not DATA.is_dir():
        return "../shared/data is missing."
    os.environ.setdefault("TQDM_DISABLE", "1")
    torch.set_num_threads(threads)
    compared = []
    for name in names:
        for task in tasks or TASKS[name]:
            compared.append(compare(name, task, rows, layers))
            print(markdown(compared[-1:]), file=sys.stderr, flush=True)
    remembered = [memory(name, count) for name in names if count]
    return markdown(compared) + ("\n\n" + markdown(remembered) if remembered else "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument(
        "--task", action="append", default=[], help=f"a folder of ../shared/data, or {GLOSSES}"
    )
    parser.add_argument("--rows", type=int, help="only the first rows of each task")
    parser.add_argument("--texts", type=int, default=TEXTS, help="for the bank; 0 leaves it out")
    parser.add_argument("--layers", type=int, nargs="*", help="plain runs of these layers only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--served", action="store_true", help="the last row against mteb, alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.model[0], given.texts)
    elif given.served:
        torch.set_num_threads(given.threads)
        print(served_table())
    else:
        chosen = given.model or list(TASKS)
        print(main(chosen, given.task, given.rows, given.texts, given.layers, given.threads))
