"""Every kind of source, the gate that all texts pass, and each refusal by its text."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerscope.data.texts import Texts, as_texts, read_texts
from layerscope.errors import InputError

PARQUET = Path(__file__).parents[2] / "shared" / "data" / "WikiText-2"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_parquet(folder: Path, columns: dict[str, object], name: str = "texts.parquet") -> Path:
    pq.write_table(pa.table(columns), folder / name)
    return folder / name


# Sources


def test_a_text_file_without_blank_lines_holds_one_text_a_line(tmp_path):
    kept = read_texts(write(tmp_path, "a.txt", "first\r\nsecond one\n"))
    assert kept.texts == ("first", "second one")
    assert (kept.name, kept.column, kept.total_read) == ("a.txt", None, 2)


def test_a_text_file_with_blank_lines_holds_paragraphs(tmp_path):
    kept = read_texts(write(tmp_path, "a.txt", "\n\none\nstill one\n\n \ntwo\n"))
    assert kept.texts == ("one\nstill one", "two")


@pytest.mark.parametrize("content", ["one\ntwo\n\n", "\n\none\ntwo", "\ufeffone\ntwo\n"])
def test_blank_lines_at_the_ends_and_a_byte_order_mark_make_no_paragraphs(tmp_path, content):
    kept = read_texts(write(tmp_path, "a.txt", content))
    assert kept.texts == ("one", "two")
    assert kept.dropped_empty == 0


def test_unusual_line_separators_inside_a_text_are_kept(tmp_path):
    assert read_texts(write(tmp_path, "a.txt", "a\u2028b\x0bc\n")).texts == ("a\u2028b\x0bc",)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "JSONL"])
def test_json_lines(tmp_path, suffix):
    rows = '{"n": 1, "body": "one"}\n\n{"n": 2, "body": null}\n{"body": "two\\nlines"}\n{"n": 3}\n'
    kept = read_texts(write(tmp_path, f"a.{suffix}", rows))
    assert (kept.texts, kept.column) == (("one", "two\nlines"), "body")
    assert (kept.dropped_empty, kept.total_read) == (2, 4)


def test_a_column_that_starts_with_null_can_be_asked_for(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"a": null}\n{"a": "x"}\n')
    assert read_texts(path, column="a").texts == ("x",)


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_separated_values(tmp_path, suffix, separator):
    rows = [["label", "words"], ["1", f'"a{separator} ""b""\nc"'], ["2", "NA"], ["3", ""]]
    content = "".join(separator.join(row) + "\n" for row in rows)
    kept = read_texts(write(tmp_path, f"a.{suffix}", content))
    assert kept.texts == (f'a{separator} "b"\nc', "NA")
    assert (kept.column, kept.dropped_empty) == ("words", 1)


def test_numbers_in_a_column_of_strings_keep_their_zeros(tmp_path):
    assert read_texts(write(tmp_path, "a.csv", "words\n007\nBond\n")).texts == ("007", "Bond")


def test_separated_values_are_read_beyond_the_first_chunk(tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame({"n": range(9000), "words": [f"é {i}" for i in range(9000)]}).to_csv(path)
    kept = read_texts(path, limit=None)
    assert kept.texts == tuple(f"é {i}" for i in range(9000))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_parquet(tmp_path, kind):
    words = pa.array(["one", None, "two"], type=kind)
    kept = read_texts(write_parquet(tmp_path, {"n": [1, 2, 3], "words": words}))
    assert (kept.texts, kept.column, kept.dropped_empty) == (("one", "two"), "words", 1)


def test_parquet_with_a_dictionary_column(tmp_path):
    words = pa.array(["one", "two"]).dictionary_encode()
    assert read_texts(write_parquet(tmp_path, {"words": words})).texts == ("one", "two")


def test_the_same_texts_from_every_format_give_the_same_record(tmp_path):
    texts = [f"text {i}" for i in range(50)]
    frame = pd.DataFrame({"text": texts})
    write(tmp_path, "a.txt", "\n".join(texts))
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    write_parquet(tmp_path, {"text": texts}, "a.parquet")
    kept = [read_texts(path, limit=10, seed=4) for path in sorted(tmp_path.iterdir())]
    assert len(kept) == 4
    assert len({one.fingerprint for one in kept}) == 1


def test_the_column_named_text_comes_first(tmp_path):
    path = write_parquet(tmp_path, {"title": ["t"], "text": ["x"]})
    assert read_texts(path).texts == ("x",)
    assert read_texts(path, column="title").texts == ("t",)


def test_standard_input(monkeypatch):
    stream = SimpleNamespace(buffer=io.BytesIO(b"one\n\ntwo\nlines\n"))
    monkeypatch.setattr("sys.stdin", stream)
    kept = read_texts("-")
    assert (kept.texts, kept.name) == (("one", "two\nlines"), "standard input")


def test_the_sample_is_prose_of_the_promised_size():
    kept = read_texts("sample")
    words = [len(text.split()) for text in kept.texts]
    assert len(kept) == 235
    assert (kept.dropped_duplicates, kept.dropped_empty, kept.sampled) == (0, 0, False)
    assert min(words) >= 20
    assert max(words) <= 150
    assert not any("\n" in text for text in kept.texts)


def test_a_path_is_a_file_even_if_it_is_called_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"there is no file 'sample'"):
        read_texts(Path("sample"))


@pytest.mark.skipif(not PARQUET.is_dir(), reason="needs the texts of ../shared/data")
def test_real_paragraphs():
    kept = read_texts(next(iter(sorted(PARQUET.rglob("*.parquet")))))
    assert len(kept) == 1000
    assert kept.sampled


# The gate


def test_empty_and_repeated_texts_are_dropped_and_counted():
    kept = as_texts(["a", " ", "b", "a", "", "b", "a "])
    assert kept.texts == ("a", "b", "a ")
    assert (kept.dropped_duplicates, kept.dropped_empty, kept.total_read) == (2, 2, 7)
    assert (kept.distinct, kept.sampled, len(kept)) == (3, False, 3)


def test_a_limit_keeps_a_seeded_subset_in_the_order_of_the_source():
    texts = [str(i) for i in range(200)]
    kept = as_texts(texts, limit=50, seed=1)
    assert list(kept.texts) == sorted(kept.texts, key=int)
    assert len(set(kept.texts)) == 50
    assert kept.sampled
    assert kept.distinct == 200
    assert kept == as_texts(texts, limit=50, seed=1)
    assert kept.texts != as_texts(texts, limit=50, seed=2).texts


def test_the_subset_does_not_depend_on_the_order_and_is_nested():
    texts = [str(i) for i in range(200)]
    shuffled = random.Random(0).sample(texts, 200)
    kept = as_texts(texts, limit=50)
    assert set(as_texts(shuffled, limit=50).texts) == set(kept.texts)
    assert set(as_texts(texts, limit=20).texts) < set(kept.texts)


def test_the_subset_is_uniform():
    counts = [0] * 10
    for seed in range(2000):
        for text in as_texts(map(str, range(10)), limit=3, seed=seed).texts:
            counts[int(text)] += 1
    # Binomial(2000, .3): mean 600, standard deviation 20.5.
    assert all(abs(count - 600) < 5 * 20.5 for count in counts)


def test_the_fingerprint_tells_texts_apart_by_content_order_and_borders():
    prints = [as_texts(texts).fingerprint for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"])]
    assert len(set(prints)) == 3
    assert prints[0] == as_texts(["ab", "c", "c", " "], name="other", seed=5).fingerprint


@given(st.lists(st.text(alphabet="ab \n", max_size=3)), st.integers(1, 5), st.integers(0, 3))
def test_the_counts_add_up(texts, limit, seed):
    if not any(text.strip() for text in texts):
        with pytest.raises(InputError, match="expected texts in 'texts'"):
            as_texts(texts)
        return
    kept = as_texts(texts, limit=limit, seed=seed)
    distinct = [text for text in dict.fromkeys(texts) if text.strip()]
    assert kept.distinct == len(distinct)
    assert len(kept) == min(limit, len(distinct))
    assert [text for text in distinct if text in kept.texts] == list(kept.texts)


def test_one_text_may_be_read():
    assert len(as_texts(["only"])) == 1


def test_the_record_is_frozen():
    kept = as_texts(["a"])
    assert isinstance(kept, Texts)
    with pytest.raises(AttributeError):
        kept.texts = ()


# Datasets


@pytest.fixture
def hub(monkeypatch):
    """A hub of two datasets that remembers what it was asked for."""
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a", None, "b"], "label": [0, 1, 0]})
    asked = []

    def load(name, config):
        asked.append((name, config))
        if name == "nobody/nothing":
            raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub (offline)")
        if name == "halves":
            return datasets.DatasetDict(left=rows, right=rows)
        return datasets.DatasetDict(train=rows, test=rows.select([0]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_dataset_is_read_from_its_training_split(hub):
    kept = read_texts("owner/name:config")
    assert hub == [("owner/name", "config")]
    assert (kept.texts, kept.dropped_empty, kept.column) == (("a", "b"), 1, "text")
    assert kept.name == "owner/name:config"


def test_a_split_can_be_chosen(hub):
    assert read_texts("owner/name", split="test").texts == ("a",)
    assert hub == [("owner/name", None)]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nobody/nothing", {}, r"is neither a file here nor a dataset .*Couldn't reach.*cached"),
        ("owner/name", {"split": "tests"}, r"unknown split of 'owner/name': 'tests'; did you mean"),
        ("halves", {}, r"expected one split, 'halves' has left, right; choose one"),
        ("owner/name", {"column": "label"}, r"expected strings in column 'label'.*: text\."),
        ("owner/name", {"column": "txt"}, r"unknown column .*'txt'; did you mean 'text'"),
    ],
)
def test_datasets_that_cannot_be_read(hub, source, options, message):
    with pytest.raises(InputError, match=message):
        read_texts(source, **options)


# Objects in Python


LINES = ["one", "two", "three words here"]


def datasets_of(columns=None):
    import datasets

    return datasets.Dataset.from_dict(columns or {"n": [1, 2, 3], "body": LINES})


def as_stream(rows):
    import datasets

    return datasets.IterableDataset.from_generator(lambda: iter(rows))


def polars():
    return pytest.importorskip("polars")


FRAME = {"n": [1, 2, 3], "body": LINES}
OBJECTS = {
    "list": lambda: LINES,
    "tuple": lambda: tuple(LINES),
    "generator": lambda: (line for line in LINES),
    "dict view": lambda: dict.fromkeys(LINES).keys(),
    "array": lambda: np.array(LINES),
    "array of objects": lambda: np.array(LINES, dtype=object),
    "Series": lambda: pd.Series(LINES, index=[7, 7, 9]),
    "Series of categories": lambda: pd.Series(LINES, dtype="category"),
    "Arrow column": lambda: pa.chunked_array([LINES]),
    "polars column": lambda: polars().Series(LINES),
    "column of a Dataset": lambda: datasets_of()["body"],
    "DataFrame": lambda: pd.DataFrame(FRAME),
    "DataFrame of objects": lambda: pd.DataFrame(FRAME, dtype=object),
    "Arrow table": lambda: pa.table(FRAME),
    "polars frame": lambda: polars().DataFrame(FRAME),
    "Dataset": datasets_of,
    "Dataset of tensors": lambda: datasets_of().with_format("torch"),
    "IterableDataset": lambda: datasets_of().to_iterable_dataset(),
    "IterableDataset without types": lambda: as_stream(
        [{"n": n, "body": body} for n, body in zip(FRAME["n"], LINES, strict=True)]
    ),
    "dict of columns": lambda: FRAME,
    "dict of arrays": lambda: {name: np.array(values) for name, values in FRAME.items()},
    "list of rows": lambda: pd.DataFrame(FRAME).to_dict("records"),
    "DatasetDict": lambda: __import__("datasets").DatasetDict(train=datasets_of()),
    "dict of frames": lambda: {"train": pd.DataFrame(FRAME), "test": pd.DataFrame({"a": ["x"]})},
    "dict of dicts": lambda: {"train": FRAME},
}
WITH_COLUMNS = list(OBJECTS)[list(OBJECTS).index("DataFrame") :]


@pytest.mark.parametrize("kind", OBJECTS)
def test_the_same_texts_from_every_kind_of_object(kind):
    kept = as_texts(OBJECTS[kind]())
    assert kept.texts == tuple(LINES)
    assert all(type(text) is str for text in kept.texts)
    assert kept.fingerprint == as_texts(LINES).fingerprint
    assert kept.column == ("body" if kind in WITH_COLUMNS else None)


@pytest.mark.parametrize("kind", WITH_COLUMNS)
def test_a_column_of_an_object_is_chosen_as_that_of_a_file(kind):
    assert as_texts(OBJECTS[kind](), column="body").texts == tuple(LINES)
    with pytest.raises(InputError, match=r"unknown column of '.*': 'bodi'; did you mean 'body'\?"):
        as_texts(OBJECTS[kind](), column="bodi")
    with pytest.raises(InputError, match=r"expected strings in column 'n'.*with strings: body\."):
        as_texts(OBJECTS[kind](), column="n")


@pytest.mark.parametrize("kind", [k for k in OBJECTS if k not in WITH_COLUMNS])
def test_an_object_without_columns_has_none_to_choose(kind):
    with pytest.raises(InputError, match=r"has no columns; leave out column='body'"):
        as_texts(OBJECTS[kind](), column="body")
    with pytest.raises(InputError, match=r"has no splits; leave out split='test'"):
        as_texts(OBJECTS[kind](), split="test")


@pytest.mark.parametrize(
    "make", [pd.DataFrame, pa.table, datasets_of, dict, lambda columns: polars().DataFrame(columns)]
)
def test_guesses_of_a_column_are_those_for_files(make):
    assert as_texts(make({"title": ["t"], "text": ["x"]})).texts == ("x",)
    assert as_texts(make({"title": ["t"], "text": ["x"]}), column="title").texts == ("t",)
    with pytest.raises(InputError, match=r"expected one column of strings, '.*' has 2 \(a, b\)"):
        as_texts(make({"a": ["t"], "b": ["x"]}))
    with pytest.raises(InputError, match=r"expected a column of strings, '.*' has only: a, b\."):
        as_texts(make({"a": [1], "b": [2.5]}))


@pytest.mark.parametrize(
    "make",
    [
        pd.DataFrame,
        lambda columns: pd.Series(columns["text"]),
        lambda columns: pd.Series(columns["text"], dtype=object),
        lambda columns: pd.Series(columns["text"], dtype="category"),
        lambda columns: pa.chunked_array([columns["text"]]),
        pa.table,
        lambda columns: polars().Series(columns["text"]),
        lambda columns: polars().DataFrame(columns),
        datasets_of,
        lambda columns: datasets_of(columns)["text"],
        lambda columns: datasets_of(columns).to_iterable_dataset(),
        dict,
        lambda columns: [{"text": text} for text in columns["text"]],
    ],
)
def test_a_missing_value_in_a_column_is_an_empty_text_as_in_a_file(make):
    kept = as_texts(make({"text": ["a", None, "b"]}))
    assert (kept.texts, kept.dropped_empty, kept.total_read) == (("a", "b"), 1, 3)


def test_a_set_has_no_order_and_is_sorted():
    assert as_texts({"c", "a", "b"}).texts == ("a", "b", "c")
    assert as_texts(frozenset("ba")).texts == ("a", "b")
    with pytest.raises(InputError, match=r"expected every text to be a str, text \d is int"):
        as_texts({"a", 3})


def test_a_stream_is_read_no_further_than_the_limit():
    read = []

    def rows():
        for number in range(10**9):
            read.append(number)
            yield {"text": f"text {number // 2}"}

    import datasets

    kept = as_texts(datasets.IterableDataset.from_generator(rows), limit=5)
    assert kept.texts == tuple(f"text {number}" for number in range(5))
    assert (kept.total_read, kept.dropped_duplicates, kept.sampled) == (9, 4, False)
    assert max(read) < 20
    typed = datasets.Features({"text": datasets.Value("string")})
    again = as_texts(datasets.IterableDataset.from_generator(rows, features=typed), limit=5)
    assert again == kept


def test_a_split_is_chosen_as_that_of_a_dataset_on_the_hub():
    import datasets

    parts = {"left": datasets_of({"text": ["l"]}), "right": datasets_of({"text": ["r"]})}
    for splits in (parts, datasets.DatasetDict(parts)):
        assert as_texts(splits, split="right").texts == ("r",)
        with pytest.raises(InputError, match=r"expected one split, '.*' has left, right; choose"):
            as_texts(splits)
        with pytest.raises(InputError, match=r"unknown split of '.*': 'rigt'; did you mean 'rig"):
            as_texts(splits, split="rigt")
    assert as_texts({"left": ["l"], "right": ["r"]}, split="left").texts == ("l",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"bytes", r"expected a list of texts, one bytes came"),
        (bytearray(b"bytes"), r"expected a list of texts, one bytearray came"),
        (3, r"expected texts \(a list, a table, .*\), got int"),
        (["a", None], r"every text to be a str, text 1 is None"),
        ([None, "a"], r"every text to be a str, text 0 is None"),
        (["a", float("nan")], r"text 1 is NaN"),
        (["a", 2.5], r"text 1 is float"),
        (["a", ["b"]], r"text 1 is list"),
        ([["a", "b"]], r"text 0 is list"),
        (["a", b"b"], r"text 1 is bytes"),
        (["a", {"text": "b"}], r"text 1 is dict"),
        ([{"text": "a"}, "b"], r"expected a dict of columns in every row, row 1 is str"),
        ([{"text": "a"}, {"text": 3}], r"a string in column 'text', row 1 of 'list' holds int"),
        (np.array([["a"], ["b"]]), r"array of texts along one axis, got the shape \(2, 1\)"),
        (np.array("a"), r"array of texts along one axis, got the shape \(\)"),
        (np.arange(3), r"text 0 is int"),
        (pd.Series(["a", 3]), r"text 1 is int"),
        (pd.DataFrame({"text": ["a", 3]}), r"column 'text', row 1 of 'DataFrame' holds int"),
        (pd.DataFrame({"text": []}), r"but it is empty"),
        (pd.DataFrame(), r"but it is empty"),
        (pd.DataFrame([["a", "b"]], columns=["t", "t"]), r"one column of each name.* has t, t;"),
        ({"text": "one text"}, r"expected a list of texts in column 'text', got str"),
        ({"text": 3}, r"expected a list of texts in column 'text', got int"),
        ({}, r"but it is empty"),
        ({"a": ["x"], "b": [1, 2]}, r"expected columns of one length in 'dict', got 1, 2"),
        ([], r"but it is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_objects_that_are_refused_with_the_position(given, message):
    with pytest.raises(InputError, match=message) as caught:
        as_texts(given)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    "source", ["The river runs down to the sea.", "two\nlines", "x" * 5000, "/" + "x" * 300]
)
def test_a_text_in_place_of_a_name_is_said_to_be_one(source):
    with pytest.raises(InputError, match=r"got a text of \d+ characters \('.*put texts into a l"):
        read_texts(source)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_says_how_to_take_all(limit):
    expected = rf"at least 1 text, got {limit}; all are taken without .*=None, .*--limit 0"
    with pytest.raises(InputError, match=expected):
        as_texts(["a"], limit=limit)


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"expected texts in .*a\.txt', but it is empty; give it at least one"),
        ("a.jsonl", "\n", r"but it is empty"),
        ("a.csv", "", r"but it is empty"),
        ("a.csv", "text\n", r"but it is empty"),
        ("a.csv", 'text,n\n"",1\n" ",2\n', r"its 2 texts are all white space"),
        (
            "a.txt",
            b"caf\xe9\n",
            r"expected UTF-8, 'a\.txt' is not from byte 3 on; .*iconv -f LATIN1",
        ),
        ("a.txt", b"caf\xc3", r"is not from byte 3 on"),
        ("a.csv", b"text\ncaf\xe9\n", r"is not from byte 8 on"),
        ("a.txt", "text".encode("utf-16"), r"from byte 0 on; .*iconv -f UTF-16 -t UTF-8"),
        ("a.txt", b"ab\0c", r"expected text, 'a\.txt' is binary \(a zero byte at offset 2\)"),
        (
            "a.jsonl",
            '{"a": "x"}\n{"a": \n',
            r"expected one JSON object a line, line 2 of 'a\.jsonl'",
        ),
        (
            "a.json",
            '[{"a": "x"}]',
            r"line 1 of 'a\.json' is .*; write one object a line, as jq -c does",
        ),
        ("a.jsonl", '{"a": "x"}\n{"a": 3}', r"a string in column 'a', line 2 of .* holds int"),
        ("a.jsonl", '{"a": "\\ud800"}', r"text 1 holds a lone surrogate at character 0"),
        ("a.jsonl", '{"a": "x", "b": "y"}', r"expected one column of strings, .* has 2 \(a, b\)"),
        ("a.jsonl", '{"a": 1}', r"expected a column of strings, 'a\.jsonl' has only: a\."),
        ("a.csv", 'text\n"open\n', r"expected the same number of fields in every row, 'a\.csv'"),
        ("a.csv", "text,b\nx,1\n\n1,2,3,4\n", r"expected the same number of fields"),
        ("a.parquet", "PAR", r"expected a parquet file, 'a\.parquet' is none or was cut off"),
        ("a.docx", "x", r"expected a file that ends in \.txt, .*\.parquet, 'a\.docx' came"),
    ],
)
def test_content_that_is_refused(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read_texts(write(tmp_path, name, content))
    assert str(caught.value).count("\n") == 0


def test_a_file_that_is_damaged_past_its_start_is_refused(tmp_path):
    path = write_parquet(tmp_path, {"text": [f"text {n}" for n in range(999)]})
    content = bytearray(path.read_bytes())
    content[20:200] = b"\xff" * 180
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^the table '.*texts\.parquet' cannot be read \(.*\)\.$"):
        read_texts(path)


def test_the_byte_of_an_encoding_error_is_right_across_blocks(tmp_path):
    content = b"a" * ((1 << 20) - 1) + "é".encode() + b"\xff"
    with pytest.raises(InputError, match=rf"from byte {(1 << 20) + 1} on"):
        read_texts(write(tmp_path, "a.txt", content))
    cut = b"a" * ((1 << 20) - 1) + b"\xc3("
    with pytest.raises(InputError, match=rf"from byte {(1 << 20) - 1} on"):
        read_texts(write(tmp_path, "a.txt", cut))


def test_a_missing_file_offers_the_closest_names(tmp_path):
    write(tmp_path, "reviews.csv", "x")
    with pytest.raises(InputError, match=r"there is no file .*did you mean 'reviews\.csv'\?"):
        read_texts(tmp_path / "review.csv")
    with pytest.raises(InputError, match=r"nothing in .* has a similar name"):
        read_texts(tmp_path / "zzz.parquet")
    with pytest.raises(InputError, match=r"there is no folder .*nowhere' either"):
        read_texts(tmp_path / "nowhere" / "a.txt")


@pytest.mark.parametrize("source", ["./data", "missing.txt", "a/b/c", "two words", "~/nothing"])
def test_what_looks_like_a_file_is_not_asked_of_the_hub(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is no file"):
        read_texts(source)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a file, .* is a folder; name one"):
        read_texts(tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_missing_column_offers_the_closest(tmp_path, suffix):
    frame = pd.DataFrame({"text": ["x"], "label": [1]})
    write(tmp_path, "a.jsonl", json.dumps({"text": "x", "label": 1}))
    frame.to_csv(tmp_path / "a.csv", index=False)
    write_parquet(tmp_path, {"text": ["x"], "label": [1]}, "a.parquet")
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(InputError, match=r"'txt'; did you mean 'text'\? Known: text, label"):
        read_texts(path, column="txt")
    with pytest.raises(InputError, match=r"expected strings in column 'label'.*strings: text\."):
        read_texts(path, column="label")


@pytest.mark.parametrize("source", ["sample", "a.txt"])
def test_options_without_a_use_are_refused(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.txt", "x\n")
    with pytest.raises(InputError, match=rf"{source} has no columns; leave out column='text'"):
        read_texts(source, column="text")
    with pytest.raises(InputError, match=rf"{source} has no splits; leave out split='test'"):
        read_texts(source, split="test")


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, "a.txt", "x\n")

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"expected a readable file, .*a\.txt' may not be read"):
        read_texts(path)


def test_python_objects_that_are_no_texts_are_refused():
    with pytest.raises(InputError, match=r"expected a list of texts, one str came"):
        as_texts("one text")
    with pytest.raises(InputError, match=r"every text to be a str, text 1 is int"):
        as_texts(["a", 3])
    with pytest.raises(InputError, match=r"a limit of at least 1 text, got 0"):
        as_texts(["a"], limit=0)
    with pytest.raises(InputError, match=r"its 2 texts are all white space"):
        as_texts([" ", "\n"])
