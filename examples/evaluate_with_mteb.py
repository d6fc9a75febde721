"""Score a saved model by mteb itself and keep the files that its leaderboard takes.

    layerscope cut ./my-model --run runs/my-model --out out/ --push org/name
    python examples/evaluate_with_mteb.py org/name --tasks STSBenchmark Banking77Classification
    python examples/evaluate_with_mteb.py org/name --benchmark "MTEB(eng, v2)"

The results go to RESULTS/results/NAME/REVISION/, with a model_meta.json, in the layout of the repository
https://github.com/embeddings-benchmark/results, where a pull request adds them to the leaderboard.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mteb
from sentence_transformers import SentenceTransformer


def score(model: str, tasks: Iterable[Any], results: Path) -> dict[str, float]:
    """Return the main score of each task; mteb writes its own files to `results`.

    Args:
        model: a hub id or a folder, as stock sentence-transformers loads it.
        tasks: mteb's task objects.
        results: a folder.
    """
    found = mteb.evaluate(
        SentenceTransformer(model),
        list(tasks),
        cache=mteb.ResultCache(results),
        co2_tracker=False,
        show_progress_bar=False,
    )
    return {each.task_name: each.get_score() for each in found.task_results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="hub id or folder")
    parser.add_argument("--tasks", nargs="+", default=["STSBenchmark"])
    parser.add_argument("--benchmark", help="instead of tasks, such as 'MTEB(eng, v2)'")
    parser.add_argument("--results", type=Path, default=Path("mteb-results"))
    asked = parser.parse_args()
    chosen = (
        mteb.get_benchmark(asked.benchmark)
        if asked.benchmark
        else mteb.get_tasks(tasks=asked.tasks)
    )
    for name, value in score(asked.model, chosen, asked.results).items():
        print(f"{name}: {100 * value:.2f}")
    print(f"Files for the leaderboard: {asked.results / 'results'}")


if __name__ == "__main__":
    main()
