"""Scan every checkpoint of a suite, and write one table of the measures of its layers.

python -m studies.testbed.measure [--suite FOLDER] [--data TEXTS] [--images IMAGES] [--out TABLE]

Rows of models that the suite lacks stay in the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

import layerscope
from studies.testbed.train import HERE
from studies.testbed.vision import DATA, OBJECTIVES

METRICS = ("prompt_entropy", "dataset_entropy", "curvature")
COLUMNS = ["layer", "stage", "metric", "convention", "value", "low", "high"]


def checkpoints(suite: Path) -> list[Path]:
    """Return the folders of all checkpoints, in the order of their steps."""
    found = (suite / "models").glob("*/step*")
    return sorted(found, key=lambda path: (path.parent.name, int(path.name.removeprefix("step"))))


def measured(folder: Path, data: str, images: str) -> pd.DataFrame:
    """Return the rows of one checkpoint, on texts or on images."""
    given = {"images": images} if folder.parent.name in OBJECTIVES else {"data": data}
    table = layerscope.scan(
        str(folder), **given, metrics=METRICS, views=0, limit=100, show_progress=False
    ).table()
    table = table[COLUMNS]
    table.insert(0, "model", folder.parent.name)
    table.insert(1, "step", int(folder.name.removeprefix("step")))
    return table


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suite", type=Path, default=HERE, help="what train wrote with --out")
    parser.add_argument("--data", default="sample", help="texts, as for layerscope scan")
    parser.add_argument("--images", default=str(DATA), help="as for layerscope scan")
    parser.add_argument("--out", type=Path, default=HERE / "measures.csv")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for folder in checkpoints(given.suite):
        print(folder, flush=True)
        found.append(measured(folder, given.data, given.images))
    table = pd.concat(found).round(4)
    if given.out.is_file():
        before = pd.read_csv(given.out)
        table = pd.concat([before[~before["model"].isin(table["model"])], table])
    table.to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
