"""How large the rooms of the house may get, so that a stranger can live in them."""

import ast
from collections.abc import Iterator
from functools import cache

from tests.support.daemon import ROOT

_FILE_MAX, _EXPLAINED_FROM, _CLASS_MAX, _ATTRIBUTES_MAX, _FUNCTION_MAX, _README_MAX = 575, 450, 50, 30, 60, 12_000
#: A list, each item of which is read for itself, may be longer.
_LISTS_MAX = {"dyrygentd/errors.py": 575}
#: What a constructor is given by position: more of it is mistaken for one another, and no type tells when both are the same.
_POSITIONAL_MAX = 4
#: How the line of a long file's docstring begins that says why it is one.
_REASON = "Long because "
_FILES = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "dyrygentd").rglob("*.py"))}


def test_first_page_is_short() -> None:
    """Ten minutes are enough to read it."""
    assert len((ROOT / "README.md").read_bytes()) <= _README_MAX


def test_files_are_short() -> None:
    """A file fits into a head."""
    lines = {name: len(path.read_text().splitlines()) for name, path in _FILES.items()}
    assert {name for name, count in lines.items() if count > _LISTS_MAX.get(name, _FILE_MAX)} == set()


def test_long_files_say_why() -> None:
    """Whoever opens a long file learns at once why it is not two; one that has become short says so no longer."""
    long = {name for name, path in _FILES.items() if len(path.read_text().splitlines()) > _EXPLAINED_FROM}
    explained = {name for name in _FILES if _says_why(ast.get_docstring(_tree(name)) or "")}
    assert explained == long


def _says_why(docstring: str) -> bool:
    return any(line.startswith(_REASON) for line in docstring.splitlines())


def test_classes_are_small() -> None:
    """A class has one duty, so it has few methods."""
    assert {name for name, methods in _classes() if methods > _CLASS_MAX} == set()


def test_classes_keep_little() -> None:
    """What a class keeps can be held in mind; complexity of functions is for ruff to judge (`max-complexity`)."""
    assert {name for name, attributes in _attributes() if attributes > _ATTRIBUTES_MAX} == set()


def test_functions_are_short() -> None:
    """A function fits on a screen."""
    assert {name for name, lines in _functions() if lines > _FUNCTION_MAX} == set()


def test_constructors_are_called_by_name() -> None:
    """Who reads a call sees what each part is for."""
    assert {name for name, positional in _constructors() if positional > _POSITIONAL_MAX} == set()


def _constructors() -> Iterator[tuple[str, int]]:
    for file, node in _nodes():
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    yield f"{file}: {node.name}", len(part.args.posonlyargs) + len(part.args.args) - 1


def _classes() -> Iterator[tuple[str, int]]:
    for file, node in _nodes():
        if isinstance(node, ast.ClassDef):
            yield f"{file}: {node.name}", sum(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)


def _attributes() -> Iterator[tuple[str, int]]:
    for file, node in _nodes():
        if isinstance(node, ast.ClassDef):
            yield f"{file}: {node.name}", len({*_slots(node), *_assigned(node)})


def _slots(node: ast.ClassDef) -> Iterator[str]:
    for part in node.body:
        if isinstance(part, ast.Assign) and [ast.unparse(target) for target in part.targets] == ["__slots__"]:
            yield from ast.literal_eval(part.value)


def _assigned(node: ast.ClassDef) -> Iterator[str]:
    """Return what its methods assign to ``self``."""
    for method in node.body:
        for part in ast.walk(method):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and _is_self(part.value):
                yield part.attr


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _functions() -> Iterator[tuple[str, int]]:
    for file, node in _nodes():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{file}: {node.name}", node.end_lineno - node.lineno + 1


def _nodes() -> Iterator[tuple[str, ast.AST]]:
    for file in _FILES:
        for node in ast.walk(_tree(file)):
            yield file, node


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse(_FILES[file].read_text())
