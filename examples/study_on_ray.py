"""Run a study's cells on Ray: on this machine, or on a cluster by its address.

    pip install 'layerscope[ray]'
    python examples/study_on_ray.py studies/small/training.yaml runs/training --workers 2
    python examples/study_on_ray.py study.yaml runs/study --address ray://head:10001 --workers 16

A stopped study goes on where it was: finished cells are kept in the folder.
"""

import argparse
from pathlib import Path

import layerscope


def run(file: Path, out: Path, workers: int, address: str | None = None) -> layerscope.Study:
    """Return the study with all cells that finished."""
    return layerscope.study(file, out=out, engine="ray", workers=workers, address=address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="a YAML file")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--workers", type=int, default=2, help="actors, each with one model at a time"
    )
    parser.add_argument("--address", help="of a cluster; by default Ray starts on this machine")
    asked = parser.parse_args()
    found = run(asked.study, asked.out, asked.workers, asked.address)
    print(found.summary())
    for failure in found.failures:
        print(failure)


if __name__ == "__main__":
    main()
