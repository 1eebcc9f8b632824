"""The map of the package is complete, and the guide of the house knows the same rooms."""

import ast
import re

import dyrygentd
from tests.support.daemon import ROOT

_PACKAGE = ROOT / "dyrygentd"
_ROOMS = {path.name for path in _PACKAGE.iterdir() if (path / "__init__.py").exists()} | {
    path.stem for path in _PACKAGE.glob("*.py") if not path.stem.startswith("__")
}


def test_every_room_is_on_the_map_once() -> None:
    """Who opens the package sees what there is, and a room that went leaves no trace."""
    lines = re.findall(r"^    (\w+)(/?) +\S", dyrygentd.__doc__ or "", re.MULTILINE)
    assert sorted(name for name, _ in lines) == sorted(_ROOMS)
    assert {name for name, slash in lines if slash} == {name for name in _ROOMS if (_PACKAGE / name).is_dir()}


def test_guide_tells_of_every_room() -> None:
    """The floors and the words below them say where each room stands."""
    text = (_PACKAGE / "README.md").read_text()
    told = text[text.index("## Floors") : text.index("## One turn")]
    assert set(re.findall(r"\w+", told)) >= _ROOMS


def test_rooms_import_what_stands_below_them() -> None:
    """Who reads the map downwards meets nothing that needs a room above it; imports inside functions count, too."""
    order = re.findall(r"^    (\w+)/? +\S", dyrygentd.__doc__ or "", re.MULTILINE)
    upwards = [
        f"{path.relative_to(ROOT)} imports {needed}"
        for path in sorted(_PACKAGE.rglob("*.py"))
        if (room := path.relative_to(_PACKAGE).parts[0].removesuffix(".py")) in order
        for node in ast.walk(ast.parse(path.read_text()))
        for needed in _rooms_of(node)
        if order.index(needed) < order.index(room)
    ]
    assert upwards == []


def _rooms_of(node: ast.AST) -> list[str]:
    """Return the rooms that an import names."""
    if isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        return []
    parts = [name.split(".") for name in names]
    return sorted({part[1] for part in parts if part[0] == "dyrygentd" and len(part) > 1 and part[1] in _ROOMS})
