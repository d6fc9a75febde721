"""What a cut and a pruned model cost and give, beside the full one: loading, size, throughput, scores.

Run: `python -m benchmarks shipping` (an hour on one core, most of it the scores of the decoders), or
`python -m benchmarks.shipping --model MiniLM`. The folders are made by the commands themselves (first
lines of each section), each one is then loaded by sentence-transformers in new processes, in turns.
One thread unless --threads says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.materials import MODELS, SHARED, wikitext
from benchmarks.tables import markdown

TASKS = ("STS17-en-en", "WordNetGlossLexname")
PARAGRAPHS = 200
ROUNDS = 3
WORK = Path("runs/shipping")


def commands(model: Path, texts: Path, folder: Path) -> dict[str, list[str]]:
    """The command lines that make the folders; the full model is cut behind its last block."""
    data = ["--data", str(texts), "--limit", str(PARAGRAPHS)]
    pruned = str(folder / "pruned-checkpoint")
    whole = ["--layer", "last", "--final-norm", "keep"]
    return {
        "full": ["cut", str(model), *whole, "--out", str(folder / "full")],
        "cut": ["cut", str(model), *data, "--out", str(folder / "cut")],
        "prune": ["prune", str(model), "--budget", "0.1", *data, "--out", pruned],
        "pruned": ["cut", pruned, *whole, "--out", str(folder / "pruned")],
    }


def layerscope(arguments: list[str], threads: int) -> float:
    """Run a command of ours; its seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "layerscope", *arguments, "--threads", str(threads), "--quiet"],
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"layerscope {' '.join(arguments)}: {done.stderr}")
    return time.perf_counter() - started


def child(arguments: list[str], threads: int) -> dict[str, Any]:
    """Measure a folder in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.shipping", *arguments, "--threads", str(threads)],
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def loading(folder: str, threads: int) -> dict[str, Any]:
    """Seconds to load, tokens a second, largest memory."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    started = time.process_time()
    model = SentenceTransformer(folder, device="cpu")
    loaded = time.process_time() - started
    texts = [text[:400] for text in wikitext()[:64]]
    tokens = sum(len(ids) for ids in model.tokenizer(texts)["input_ids"])
    started = time.process_time()
    model.encode(texts, batch_size=16, show_progress_bar=False)
    spent = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"load": loaded, "tokens": tokens / spent, "peak": peak / 1e3}


def scores(folder: str, threads: int) -> dict[str, Any]:
    """The main score of each task, by mteb, times 100."""
    import mteb
    import torch
    from sentence_transformers import SentenceTransformer

    from layerscope.evaluation.run import quiet
    from layerscope.evaluation.tasks import resolve

    torch.set_num_threads(threads)
    found = {}
    with quiet():
        model = SentenceTransformer(folder, device="cpu")
        for plan in resolve(TASKS, task_data=SHARED / "data"):
            result = mteb.evaluate(model, plan.build(), cache=None, show_progress_bar=False)
            found[plan.name] = 100 * result.task_results[0].scores[plan.split][0]["main_score"]
    return found


def row(name: str, folder: Path, threads: int, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One folder's line of the table."""
    record = json.loads((folder / "layerscope.json").read_text())
    best = {key: sorted(each[key] for each in rounds)[len(rounds) // 2] for key in rounds[0]}
    weights = (folder / "model.safetensors").stat().st_size
    found = scores_of(folder, threads)
    return {
        "folder": name,
        "blocks": record["blocks"],
        "MB": round(weights / 1e6),
        "load CPU s": round(best["load"], 2),
        "tokens a CPU s": round(best["tokens"]),
        "peak MB": round(best["peak"]),
        **{task: f"{value:.2f}" for task, value in found.items()},
        "mean": f"{sum(found.values()) / len(found):.2f}",
    }


def scores_of(folder: Path, threads: int) -> dict[str, Any]:
    """Scores, kept beside the folder so that a stopped benchmark goes on."""
    kept = folder.with_suffix(".scores.json")
    if not kept.exists():
        kept.write_text(json.dumps(child(["--scores", str(folder)], threads)))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def section(name: str, threads: int) -> str:
    """One model: the commands, then the table."""
    path = MODELS[name]()
    if path is None:
        return f"### {name}\n\nnot installed here"
    folder = WORK / name.split()[0]
    folder.mkdir(parents=True, exist_ok=True)
    texts = folder / "wikitext.txt"
    texts.write_text("\n".join(text.replace("\n", " ") for text in wikitext()[:PARAGRAPHS]))
    depth = _depth(path)
    said = []
    for made, arguments in commands(path, texts, folder).items():
        line = [str(depth[made]) if part == "last" else part for part in arguments if depth]
        target = Path(line[line.index("--out") + 1])
        taken = target.with_suffix(".seconds.json")
        if not target.exists():
            taken.write_text(json.dumps(layerscope(line, threads)))
        words = " ".join(line).replace(str(path), f'"{name}"')
        said.append(f"    layerscope {words}    # {json.loads(taken.read_text()):.0f} s")
        if made == "prune":
            depth["pruned"] = json.loads((target / "config.json").read_text())["num_hidden_layers"]
    made = ("full", "cut", "pruned")
    rounds: dict[str, list[dict[str, Any]]] = {each: [] for each in made}
    for _ in range(ROUNDS):
        for each in made:
            rounds[each].append(child(["--loading", str(folder / each)], threads))
    rows = [row(each, folder / each, threads, rounds[each]) for each in made]
    return "\n\n".join([f"### {name}", "\n".join(said), markdown(rows)])


def _depth(path: Path) -> dict[str, int]:
    from layerscope.models import loading as loading_module

    depth = loading_module.load(path).depth
    return {"full": depth, "cut": depth, "prune": depth}


def main(names: list[str] | None = None, threads: int = 1) -> str:
    """All models' tables."""
    return "\n\n".join(section(name, threads) for name in names or MODELS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loading")
    parser.add_argument("--scores")
    given = parser.parse_args()
    if given.loading:
        print(json.dumps(loading(given.loading, given.threads)))
    elif given.scores:
        print(json.dumps(scores(given.scores, given.threads)))
    else:
        print(main([given.model] if given.model else None, given.threads))
