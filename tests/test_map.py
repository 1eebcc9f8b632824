"""The map of the package is complete, and the guide of the house knows the same rooms."""

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
