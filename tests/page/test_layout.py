"""Where boxes and edges stand, of folds as the daemon makes them."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.page.folds import definitions, fold_of, hairball, showing
from tests.page.support import looking

#: A browser takes long; name this file, or give --long. `test_loopback.py` opens the page among the quick ones.
pytestmark = pytest.mark.long

#: Lays out a fold, and looks along each edge for boxes that it goes through.
_LAY_OUT = """async ({ fold, view, looks }) => {
  const { BOX, layout } = await import("/page/layout.js");
  const began = performance.now();
  const found = layout(fold.boxes.length, fold.edges, view);
  const took = performance.now() - began;
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const through = [];
  for (const edge of looks ? found.edges : []) {
    path.setAttribute("d", edge.d);
    const length = path.getTotalLength();
    for (let at = 0; at < length; at += 20) {
      const { x, y } = path.getPointAtLength(at);
      found.boxes.forEach((box, place) => {
        const isIn = x > box.x + 1 && x < box.x + BOX.width - 1 && y > box.y + 1 && y < box.y + BOX.height - 1;
        if (isIn) through.push([edge.before, edge.after, place]);
      });
    }
  }
  return { ...found, box: BOX, took, through };
}"""


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One of each shape."""
    path = tmp_path_factory.mktemp("d") / "d.sock"
    shapes = definitions()
    with showing(path, *shapes.values()) as (daemon, ids):
        return {name: fold_of(daemon, each) for name, each in zip(shapes, ids, strict=True)} | {"hairball": hairball()}


@pytest.fixture(scope="module")
def lay_out(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return what lays out a fold for a screen of some size."""
    with (
        showing(tmp_path_factory.mktemp("d") / "d.sock") as (daemon, _),
        looking(browser, f"http://127.0.0.1:{daemon.tcp_port}") as look,
    ):
        page = look.at("#/")
        yield lambda fold, width=1200, looks=True: page.evaluate(
            _LAY_OUT, {"fold": fold, "view": {"width": width, "height": 700}, "looks": looks}
        )
        look.assert_clean()


@pytest.mark.long
def test_shapes(folds: dict[str, dict[str, Any]], lay_out: Any) -> None:
    """No box covers another, each edge goes on and through no box, whatever the screen; `-s` tells how long it took."""
    for name, fold in folds.items():
        for width in (1200, 390):
            # Where edges are everywhere, those over many layers are drawn behind the boxes.
            found = lay_out(fold, width, looks=name != "hairball")
            _assert_apart(name, found)
            _assert_onwards(name, found)
            assert len(found["edges"]) == len(fold["edges"]), name
            assert found["crossings"] <= found["naive"], name
            assert not found["through"], (name, width, found["through"][:5])
            size = f"{len(fold['boxes'])} boxes, {found['width']:.0f} x {found['height']:.0f}"
            print(f"{name:>24} {width:>5}: {size}, {found['naive']} -> {found['crossings']} crossings, {found['took']:.0f} ms")


def test_counts_move_nothing(folds: dict[str, dict[str, Any]], lay_out: Any) -> None:
    """What is looked at stays where it is while a workflow runs."""
    fold = folds["layered, 57"]
    other = fold | {"boxes": [box | {"states": {"failed": 1}, "nodes": 1, "title": "other"} for box in fold["boxes"]]}
    first, second = lay_out(fold), lay_out(other)
    assert (first["boxes"], first["edges"]) == (second["boxes"], second["edges"])


def test_circle_is_drawn(lay_out: Any) -> None:
    """What no daemon sends does no harm: circles, edges to nowhere, the same edge twice."""
    edges = [
        {"before": before, "after": after, "weight": 1} for before, after in ((0, 1), (1, 2), (2, 0), (0, 9), (1, 1), (0, 1))
    ]
    found = lay_out({"boxes": [{}] * 3, "edges": edges})
    _assert_apart("circle", found)
    _assert_onwards("circle", found)
    assert [(edge["before"], edge["after"]) for edge in found["edges"]] == [(0, 1), (1, 2)]
    assert lay_out({"boxes": [], "edges": []})["boxes"] == []


def test_single_boxes_fill_the_screen(folds: dict[str, dict[str, Any]], lay_out: Any) -> None:
    """What nothing leads to stands in rows, and not in one column as long as the alphabet."""
    found = lay_out({"boxes": [{}] * 100, "edges": []})
    assert 0.8 < found["width"] / found["height"] < 3
    chain = lay_out(folds["chain, 10,000"])
    assert 0.8 < chain["width"] / chain["height"] < 3


def _assert_apart(name: str, found: dict[str, Any]) -> None:
    width, height = found["box"]["width"], found["box"]["height"]
    boxes = [(box["x"], box["y"]) for box in found["boxes"]]
    for number, (x, y) in enumerate(boxes):
        assert 0 <= x <= found["width"] - width, name
        assert 0 <= y <= found["height"] - height, name
        for other_x, other_y in boxes[:number]:
            assert abs(x - other_x) > width or abs(y - other_y) > height, (name, number)


def _assert_onwards(name: str, found: dict[str, Any]) -> None:
    for edge in found["edges"]:
        before, after = found["boxes"][edge["before"]], found["boxes"][edge["after"]]
        right = after["x"] >= before["x"] + found["box"]["width"]
        assert right or after["y"] >= before["y"] + found["box"]["height"], (name, edge)
