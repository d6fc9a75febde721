"""Every sentence that an error of ours can say stands in a test that matches it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import layerscope

SOURCE = Path(layerscope.__file__).parent
TESTS = Path(__file__).parent
ERRORS = {
    "InputError", "LayerscopeError", "MismatchError", "NonFiniteError", "RunError", "UndefinedError",
}  # fmt: skip
SHORTEST = 12  # characters that a test must have in common with a sentence
# Place and reason of what no test of this machine can meet.
EXCEPTIONS: dict[str, str] = {}


def sentences() -> dict[str, list[str]]:
    """For each place where an error is made, the literal parts of what it says."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                parts = [part for argument in call.args for part in literals(argument)]
                if call.func.id in ERRORS and any(len(part) >= SHORTEST for part in parts):
                    found[f"{path.relative_to(SOURCE)}:{call.lineno}"] = parts
    return found


def literals(node: ast.AST) -> Iterator[str]:
    """The plain strings in an expression; what stands in braces of an f-string ends a part."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif not isinstance(node, ast.FormattedValue):
        for child in ast.iter_child_nodes(node):
            yield from literals(child)


def grams(text: str) -> set[str]:
    return {text[start : start + SHORTEST] for start in range(len(text) - SHORTEST + 1)}


def matched() -> set[str]:
    """What stands in the strings of the tests, without the backslashes of regular expressions."""
    found: set[str] = set()
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= grams(node.value.replace("\\", ""))
    return found


def untested() -> dict[str, list[str]]:
    said = {place: set().union(*map(grams, parts)) for place, parts in sentences().items()}
    places = Counter(gram for found in said.values() for gram in found)
    known = matched()
    lacking = {}
    for place, found in said.items():
        # What other sentences say as well proves nothing of this one, unless it says nothing else.
        own = {gram for gram in found if places[gram] == 1} or found
        if not own & known:
            lacking[place] = sentences()[place]
    return lacking


def test_every_sentence_of_an_error_is_matched_by_a_test():
    assert len(sentences()) > 250
    assert untested().keys() <= EXCEPTIONS.keys(), untested()


def test_the_exceptions_are_few_and_none_is_left_over():
    assert len(EXCEPTIONS) <= 5
    assert untested().keys() >= EXCEPTIONS.keys()
    assert all(EXCEPTIONS.values())
