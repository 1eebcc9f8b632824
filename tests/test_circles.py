"""Which modules need each other: none, but for those that are named here. Read from the source; nothing is imported.

Imports of a module's own level and those under ``TYPE_CHECKING`` count: who reads one of two such modules has to read the other.
Imports inside functions do not; which rooms may have them is told in `test_layers.py`.
"""

import ast
from collections.abc import Iterator, Mapping

from tests.support.daemon import ROOT

#: Circles that are there on purpose, and why.
_NAMED = {
    # Both are laid out as celery-dyrygent has them, since whoever moves over compares them. For type checkers alone.
    frozenset({f"dyrygentd.compat.celery_dyrygent.workflows.{name}" for name in ("hooks", "workflow")}),
}


def test_no_two_modules_need_each_other() -> None:
    """A module can be read, tested and moved with what stands below it."""
    assert {*circles(_sources())} == _NAMED


def test_circle_is_found() -> None:
    """Without this a green test would prove nothing; by way of a third module, a package's own file, and for types."""
    found = circles(
        {
            "p": "from p.a import A",
            "p.a": "import p.b\nfrom p import d",
            "p.b": "if TYPE_CHECKING:\n    from .c import C",
            "p.c": "from p.a import A\ndef f():\n    from p.d import D",
            "p.d": "",
        }
    )
    assert [*found] == [{"p.a", "p.b", "p.c"}]
    assert [*circles({"p": "from p.a import A", "p.a": "from p import B"})] == [{"p", "p.a"}]


def circles(sources: Mapping[str, str]) -> Iterator[frozenset[str]]:
    """Return the largest sets of modules of which each needs all others, of ``{module: source}``."""
    needs = {module: {*_imported(module, source, sources)} - {module} for module, source in sources.items()}
    reached = {module: _reached(module, needs) for module in needs}
    yield from {
        frozenset(other for other in reached[module] if module in reached[other]) for module in needs if module in reached[module]
    }


def _reached(module: str, needs: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    pending = [*needs[module]]
    while pending:
        each = pending.pop()
        if each not in found:
            found.add(each)
            pending += needs[each]
    return found


def _imported(module: str, source: str, sources: Mapping[str, str]) -> Iterator[str]:
    is_package = any(name.startswith(f"{module}.") for name in sources)
    for node in _outside_functions(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in sources)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if is_package else module.split(".")[:-1]
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            for name in node.names:
                if name.name == "__version__":
                    continue  # It stands in the package's own file, which tells type checkers of all rooms, and needs none.
                # A module of a package, or a name that the package's own file has.
                below = f"{origin}.{name.name}"
                yield from (each for each in ([below] if below in sources else [origin]) if each in sources)


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _outside_functions(node)


def _sources() -> dict[str, str]:
    package = ROOT / "dyrygentd"
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in sorted(package.rglob("*.py"))
    }
