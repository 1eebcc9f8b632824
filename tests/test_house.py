"""How large the rooms of the house may get, so that a stranger can live in them."""

import ast
from collections.abc import Iterator

from tests.support.daemon import ROOT

_FILE_MAX, _CLASS_MAX, _FUNCTION_MAX, _README_MAX = 575, 50, 60, 12_000
_FILES = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "dyrygentd").rglob("*.py"))}


def test_first_page_is_short() -> None:
    """Ten minutes are enough to read it."""
    assert len((ROOT / "README.md").read_bytes()) <= _README_MAX


def test_files_are_short() -> None:
    """A file fits into a head."""
    assert {name for name, path in _FILES.items() if len(path.read_text().splitlines()) > _FILE_MAX} == set()


def test_classes_are_small() -> None:
    """A class has one duty, so it has few methods."""
    assert {name for name, methods in _classes() if methods > _CLASS_MAX} == set()


def test_functions_are_short() -> None:
    """A function fits on a screen."""
    assert {name for name, lines in _functions() if lines > _FUNCTION_MAX} == set()


def _classes() -> Iterator[tuple[str, int]]:
    for file, node in _nodes():
        if isinstance(node, ast.ClassDef):
            yield f"{file}: {node.name}", sum(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)


def _functions() -> Iterator[tuple[str, int]]:
    for file, node in _nodes():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{file}: {node.name}", node.end_lineno - node.lineno + 1


def _nodes() -> Iterator[tuple[str, ast.AST]]:
    for file, path in _FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            yield file, node
