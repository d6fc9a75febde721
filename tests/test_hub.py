"""A verified model is uploaded to a hub: files, metadata, what is refused, and when."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pandas as pd
import pytest
import transformers as hf
from huggingface_hub import constants

import hub as stand_in
import layerscope
from commands import run
from layerscope.errors import InputError, RunError
from layerscope.export import reload, verify
from layerscope.export.card import usage_of
from layerscope.export.hub import loading_from_hub
from layerscope.export.shorten import LAST
from layerscope.models import loading
from tiny import CONFIGS, save_tiny, texts, tiny_model, tiny_tokenizer

# What huggingface_hub's own upload by LFS says of its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TEXTS = texts(4)
NAME = "org/smaller"


@pytest.fixture
def hub(monkeypatch):
    with stand_in.serving(monkeypatch) as found:
        yield found


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Read back in this process: the same program, without seconds of imports for each model."""
    monkeypatch.setattr(
        verify, "_run", lambda request, answer: reload.main(str(request), str(answer))
    )


@pytest.fixture
def nothing_loads(monkeypatch):
    """No model is loaded: what is refused is refused before."""

    def refuse(*_given, **_named):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load", refuse)


def cut(out: Path, **options):
    model = options.pop("model", None) or copy.deepcopy(tiny_model("llama"))
    return layerscope.cut(model, 2, out=out, data=TEXTS, tokenizer=tiny_tokenizer(), **options)


def files_of(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}


# --- what is uploaded ------------------------------------------------------------------------------


def test_a_cut_is_uploaded_whole_and_private(hub, tmp_path):
    found = cut(tmp_path / "out", push=NAME)
    repository = hub.repositories[NAME]
    assert repository.private
    assert found.pushed == f"{hub.address}/{NAME}"
    assert files_of(found.folder) == set(repository.files) - {".gitattributes"}
    for name, content in repository.files.items():
        if name != ".gitattributes":
            assert (found.folder / name).read_bytes() == content, name
    assert hub.tokens == {"Bearer hf_test"}


def test_the_card_has_the_metadata_of_the_hub_and_loads_from_there(hub, tmp_path):
    cut(tmp_path / "out", push=NAME)
    card = hub.repositories[NAME].card
    assert card.data.library_name == "sentence-transformers"
    assert card.data.pipeline_tag == "sentence-similarity"
    assert "layerscope" in card.data.tags
    assert card.data.base_model is None  # a loaded model has no name on the hub
    assert card.data.eval_results is None
    assert f'SentenceTransformer("{NAME}")' in card.text
    assert '"out"' not in card.text


def test_a_source_of_the_hub_is_the_base_model_with_its_license(hub, tmp_path, monkeypatch):
    folder = save_tiny(copy.deepcopy(tiny_model("llama")), tmp_path / "cache")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: own-1.0\n---\n# Own\n")
    model = loading.load(folder)
    info = model.info.__class__(**vars(model.info) | {"name": "org/source", "revision": "a" * 40})
    monkeypatch.setattr(
        loading, "load", lambda *_given, **_named: model.__class__(**vars(model) | {"info": info})
    )
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download",
        lambda place, name, revision: str(Path(place) / name) if revision == "a" * 40 else "",
    )
    options = {"data": TEXTS, "format": "transformers", "push": NAME}
    layerscope.cut("org/source", 2, out=tmp_path / "out", **options)
    data = hub.repositories[NAME].card.data
    assert (data.base_model, data.base_model_relation) == ("org/source", "finetune")
    assert (data.license, data.license_name) == ("other", "own-1.0")


def test_the_license_of_a_local_source_is_taken_and_one_without_a_card_has_none(tmp_path):
    source = save_tiny(copy.deepcopy(tiny_model("llama")), tmp_path / "source")
    options = {"data": TEXTS, "format": "transformers"}
    bare = layerscope.cut(source, 2, out=tmp_path / "bare", **options)
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    known = layerscope.cut(source, 2, out=tmp_path / "known", **options)
    assert stand_in.ModelCard((bare.folder / "README.md").read_text()).data.license is None
    card = stand_in.ModelCard((known.folder / "README.md").read_text())
    assert card.data.license == "mit"
    assert "The license is the source's, source (mit)." in card.text


@pytest.mark.parametrize(
    ("options", "library", "tag"),
    [
        ({"format": "transformers"}, "transformers", "feature-extraction"),
        ({"format": "transformers", "final_norm": "keep", "head": True}, "transformers",
         "text-generation"),
    ],
)  # fmt: skip
def test_the_pipeline_is_that_of_what_was_saved(options, library, tag, tmp_path):
    source = save_tiny(hf.AutoModelForCausalLM.from_config(CONFIGS["llama"]()), tmp_path / "source")
    found = layerscope.cut(source, 2, out=tmp_path / "out", data=TEXTS, **options)
    data = stand_in.ModelCard((found.folder / "README.md").read_text()).data
    assert (data.library_name, data.pipeline_tag) == (library, tag)


def test_an_onnx_file_is_loaded_from_the_hub_by_name():
    usage = usage_of(Path("out"), "onnx", LAST, "", pictures=False)
    card = f"## Use\n\n```python\n{usage}\n```\n"
    said = loading_from_hub(card, "out", NAME)
    assert "```python\nfrom huggingface_hub import hf_hub_download\n" in said
    assert f'InferenceSession(hf_hub_download("{NAME}", "model.onnx"))' in said
    assert f'AutoTokenizer.from_pretrained("{NAME}")' in said


# --- scores ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A tiny sentence-transformers source with task scores in its run."""
    pytest.importorskip("mteb", reason="needs the extra evaluate")
    from served import served

    folder = tmp_path_factory.mktemp("evaluated")
    source = folder / "source"
    served("mean", source)
    pairs = pd.DataFrame({"sentence1": texts(12), "sentence2": texts(13)[1:], "score": range(12)})
    pairs.to_csv(folder / "likeness.csv", index=False)
    layerscope.scan(source, texts(12), out=folder / "run", metrics="rankme", views=0)
    layerscope.evaluate(source, tables=folder / "likeness.csv", out=folder / "run")
    return source, folder / "run"


def test_scores_of_the_layer_are_in_the_card(evaluated, tmp_path):
    source, folder = evaluated
    found = layerscope.cut(source, 2, out=tmp_path / "out", run=folder, data=TEXTS)
    [result] = stand_in.ModelCard((found.folder / "README.md").read_text()).data.eval_results
    table = layerscope.load(folder).table()
    [score] = table[(table["level"] == "task") & (table["layer"] == 2)]["value"]
    assert result.metric_value == pytest.approx(score, abs=1e-6)
    assert (result.task_type, result.dataset_name) == ("STS", "likeness")
    assert result.metric_type == "cosine_spearman"


def test_scores_of_other_vectors_are_not_in_the_card(evaluated, tmp_path):
    source, folder = evaluated
    options = {"pooling": "last", "special_tokens": True, "first_token": "keep"}
    found = layerscope.cut(source, 2, out=tmp_path / "out", run=folder, data=TEXTS, **options)
    assert stand_in.ModelCard((found.folder / "README.md").read_text()).data.eval_results is None


# --- prune -----------------------------------------------------------------------------------------


def test_a_pruned_model_is_uploaded_too(hub, tmp_path):
    source = save_tiny(hf.AutoModelForCausalLM.from_config(CONFIGS["llama"]()), tmp_path / "source")
    options = {"data": texts(8), "rule": "deepest-first", "budget": 1, "heal": "off"}
    found = layerscope.prune(
        source, **options, out=tmp_path / "out", perplexity=texts(4), push=NAME, private=False
    )
    repository = hub.repositories[NAME]
    assert not repository.private
    assert found.pushed == f"{hub.address}/{NAME}"
    data = repository.card.data
    assert data.pipeline_tag == "text-generation"
    [result] = data.eval_results
    assert result.metric_type == "perplexity"
    assert result.metric_value == pytest.approx(found.outcomes[0].trial.perplexity, abs=1e-6)


def test_only_a_saved_pruning_can_be_uploaded(hub, tmp_path):
    source = save_tiny(hf.AutoModelForCausalLM.from_config(CONFIGS["llama"]()), tmp_path / "source")
    options = {"data": texts(8), "rule": "deepest-first", "budget": 1, "heal": "off"}
    with pytest.raises(InputError, match="expected a folder for the model that is to be uploaded"):
        layerscope.prune(source, **options, push=NAME)
    found = layerscope.prune(source, **options)
    with pytest.raises(InputError, match="expected a saved model to upload, but nothing was saved"):
        found.push_to_hub(NAME)
    assert hub.calls == []


# --- later, and again ------------------------------------------------------------------------------


def test_a_result_is_uploaded_later(hub, tmp_path):
    found = cut(tmp_path / "out")
    assert found.pushed == ""
    assert hub.calls == []
    assert found.push_to_hub(NAME, private=False) == f"{hub.address}/{NAME}"
    assert not hub.repositories[NAME].private


def test_what_was_not_verified_is_not_uploaded(hub, tmp_path):
    found = cut(tmp_path / "out")
    record = json.loads((found.folder / "layerscope.json").read_text())
    del record["verified"]
    (found.folder / "layerscope.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="expected a model that layerscope saved and verified in"):
        found.push_to_hub(NAME)
    assert hub.repositories == {}


def test_a_repository_with_a_model_is_replaced_only_on_request(hub, tmp_path):
    found = cut(tmp_path / "out", push=NAME)
    with pytest.raises(
        InputError, match="'org/smaller' already holds a model that layerscope saved"
    ):
        found.push_to_hub(NAME)
    hub.repositories[NAME].files["left.safetensors"] = b"old"
    found.push_to_hub(NAME, overwrite=True)
    assert set(hub.repositories[NAME].files) == {".gitattributes", *files_of(found.folder)}


def test_files_of_others_are_never_replaced(hub, tmp_path, nothing_loads):
    hub.repositories[NAME] = stand_in.Repository(files={"model.safetensors": b"theirs"})
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds other files; choose a new or empty one"):
            layerscope.cut("org/none", 2, out=tmp_path / "out", push=NAME, overwrite=overwrite)
    assert hub.repositories[NAME].files == {"model.safetensors": b"theirs"}


@pytest.mark.parametrize(("private", "word"), [(True, "private"), (False, "public")])
def test_a_repository_keeps_its_visibility(hub, tmp_path, nothing_loads, private, word):
    hub.repositories[NAME] = stand_in.Repository(private)
    said = f"the repository 'org/smaller' is {word} already; pass --{word}, change that on the hub"
    with pytest.raises(InputError, match=said):
        layerscope.cut("org/none", 2, out=tmp_path / "out", push=NAME, private=not private)


# --- refused before the work -----------------------------------------------------------------------


def refused(tmp_path, message, kind=InputError, name=NAME):
    with pytest.raises(kind, match=message) as raised:
        layerscope.cut("org/none", 2, out=tmp_path / "out", push=name)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["smaller", "a/b/c", "org/a b", "org/a..b", "org/.git", ""])
def test_a_name_that_no_hub_takes(tmp_path, nothing_loads, name):
    refused(tmp_path, "expected push to be a repository of the hub like org/name", name=name)


def test_offline(tmp_path, nothing_loads):
    refused(tmp_path, "an upload needs the hub, but HF_HUB_OFFLINE is set; unset it")


def test_no_token(hub, tmp_path, nothing_loads, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none" / "token"))
    refused(tmp_path, "no token for the hub was found; log in by `hf auth login`")
    assert hub.calls == []


def test_a_token_that_is_not_known(hub, tmp_path, nothing_loads):
    hub.refused["whoami"] = 401
    refused(tmp_path, "the hub does not accept the token; log in again by `hf auth login`")


def test_a_token_that_only_reads(hub, tmp_path, nothing_loads):
    hub.role = "read"
    refused(tmp_path, "the token of 'me' may only read; set HF_TOKEN to one that may write to")


def test_a_repository_of_somebody_else(hub, tmp_path, nothing_loads):
    said = "'me' may not write to 'other/model'; name a repository of me or org."
    refused(tmp_path, said, name="other/model")


def test_a_hub_that_does_not_answer(hub, tmp_path, nothing_loads, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(tmp_path, "nothing was uploaded to 'org/smaller': the hub does not answer", RunError)


def test_a_hub_that_is_broken(hub, tmp_path, nothing_loads):
    hub.refused["whoami"] = 500
    refused(tmp_path, "the hub refused the upload to 'org/smaller' .*500.*; try again", RunError)


# --- refused after it ------------------------------------------------------------------------------


def test_what_fails_after_the_work_leaves_the_model(hub, tmp_path):
    hub.role = "fineGrained"
    hub.refused["/api/repos/create"] = 403
    said = (
        "the token may not write to 'org/smaller'; .* The model is complete in .*/out'; upload it"
    )
    with pytest.raises(InputError, match=said):
        cut(tmp_path / "out", push=NAME)
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'SentenceTransformer("out")' in card
    assert hub.repositories == {}


def test_an_upload_that_breaks_off_says_how_to_go_on(hub, tmp_path):
    found = cut(tmp_path / "out")
    hub.refused["/commit/"] = 500
    said = f"the hub refused the upload .*500.* by: hf upload {NAME} {found.folder} --private$"
    with pytest.raises(RunError, match=said):
        found.push_to_hub(NAME)
    assert 'SentenceTransformer("out")' in (found.folder / "README.md").read_text()
    hub.refused.clear()
    found.push_to_hub(NAME)
    assert hub.repositories[NAME].private


def test_the_client_uploads_in_its_own_way_too(hub, tmp_path, monkeypatch):
    """By the pipeline that it takes where xet is installed; the stand-in has no xet storage."""
    pytest.importorskip("hf_xet", reason="needs hf-xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.large = ()
    found = cut(tmp_path / "out", push=NAME)
    assert files_of(found.folder) == set(hub.repositories[NAME].files) - {".gitattributes"}
    hub.repositories[NAME].files["left.txt"] = b"old"
    found.push_to_hub(NAME, overwrite=True)
    assert files_of(found.folder) == set(hub.repositories[NAME].files) - {".gitattributes"}


# --- the command -----------------------------------------------------------------------------------


def test_the_command_uploads_and_says_where(hub, tmp_path, monkeypatch, capsys, text_file):
    source = save_tiny(copy.deepcopy(tiny_model("llama")), tmp_path / "source")
    common = ("cut", source, "--layer", 2, "--data", text_file, "--push", NAME)
    said = run(monkeypatch, capsys, *common, "--out", tmp_path / "out", "--public")
    assert said.code == 0, said.err
    assert f"Uploaded: {hub.address}/{NAME}" in said.out
    assert not hub.repositories[NAME].private
    again = run(monkeypatch, capsys, *common, "--out", tmp_path / "two", "--public")
    assert again.code == 2
    assert "pass --overwrite to replace it" in again.err
    dry = run(monkeypatch, capsys, *common, "--out", tmp_path / "two", "--public", "--dry-run")
    assert (dry.code, dry.err) == (2, again.err)
    options = ("--out", tmp_path / "two", "--public", "--overwrite", "--json")
    told = run(monkeypatch, capsys, *common, *options)
    assert json.loads(told.out)["pushed"] == f"{hub.address}/{NAME}"
