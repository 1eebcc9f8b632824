"""A map goes over a file of JSON lines as over a list, and what is wrong with it is told by its line."""

from pathlib import Path

import pytest

from dyrygentd import wire
from dyrygentd.core.policy import Child
from dyrygentd.errors import BadRequest
from dyrygentd.scheduler.item_lists import ItemLists
from dyrygentd.store.item_files import DirectoryItemFiles
from dyrygentd.testing import FakeBroker
from dyrygentd.wire.over import document_of_map, file_of
from tests.scheduler.support import scheduler

pytestmark = pytest.mark.anyio


def _map(over: str = "null") -> Child:
    return Child("map", b'{"over": %b, "do": {"task": "resize"}}' % over.encode(), takes_input=over == "null")


async def _list_of(lists: ItemLists, value: bytes, *, bytes_max: int = 1000) -> bytes:
    child, given = await lists.written_out(_map(), value, ["before"], bytes_max=bytes_max)
    return bytes(document_of_map(child).over) if given is None else given


async def _read(tmp_path: Path, content: bytes, *, bytes_max: int = 1000) -> bytes:
    (tmp_path / "a.jsonl").write_bytes(content)
    return await _list_of(ItemLists(DirectoryItemFiles(tmp_path)), b'{"json_lines": "a.jsonl"}', bytes_max=bytes_max)


async def test_an_item_a_line(tmp_path: Path) -> None:
    """Empty lines are none, nor does the last one need an end; an empty file is an empty list."""
    assert await _read(tmp_path, b'{"osd": 1}\r\n\n"text"\n 3') == b'[{"osd": 1},"text",3]'
    assert await _read(tmp_path, b"") == b"[]"


@pytest.mark.parametrize("value", [b"[1]", b"{}", b"null", b'"a.jsonl"', b'{"json_lines": 1}', b'{"json_lines": "a", "b": 1}'])
async def test_any_other_value_is_itself(value: bytes) -> None:
    """Only what can mean nothing else names a file."""
    assert await _list_of(ItemLists(None), value) is value
    assert file_of(value) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"1\n{a}\n", r"line 2 of 'a.jsonl' is no JSON: "),
        (b"1\n[1\n", r"line 2 of 'a.jsonl' is no JSON: "),
        (b"1\n" * 600, r"line 501 of 'a.jsonl' ends beyond the 1000 bytes that a value has at most"),
        (b"\xff\n", r"line 1 of 'a.jsonl' is no JSON: "),
    ],
)
async def test_what_is_wrong_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    """With the line, so that whoever wrote the file finds it."""
    with pytest.raises(BadRequest, match=words):
        await _read(tmp_path, content)


async def test_a_line_without_an_end_is_not_read(tmp_path: Path) -> None:
    """A file of any size costs no more memory than a value may."""
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(BadRequest, match="line 1 of"):
        await _list_of(ItemLists(DirectoryItemFiles(tmp_path)), b'{"json_lines": "a.jsonl"}')


async def test_there_is_none(tmp_path: Path) -> None:
    """A name that means nothing, and a daemon that has no place for files, say what to do."""
    with pytest.raises(BadRequest, match="there is no file 'b' in the directory") as told:
        await _list_of(ItemLists(DirectoryItemFiles(tmp_path)), b'{"json_lines": "b"}')
    assert "`map_files`" in told.value.next_step
    with pytest.raises(BadRequest, match="`map_files` names no place for such"):
        await _list_of(ItemLists(None), b'{"json_lines": "b"}')


async def test_named_in_the_definition_or_by_one_of_several(tmp_path: Path) -> None:
    """The map may name the file itself; of several that precede it the one that it is over does."""
    (tmp_path / "a.jsonl").write_bytes(b"1\n2\n")
    lists = ItemLists(DirectoryItemFiles(tmp_path))
    child, given = await lists.written_out(_map('{"json_lines": "a.jsonl"}'), None, [], bytes_max=100)
    assert (bytes(document_of_map(child).over), given) == (b"[1,2]", None)
    values = b'[7, {"json_lines": "a.jsonl"}]'
    child, given = await lists.written_out(_map('"second"'), values, ["first", "second"], bytes_max=100)
    assert (bytes(document_of_map(child).over), given) == (b"[1,2]", None)


async def test_a_map_runs_over_it(tmp_path: Path) -> None:
    """A member an item; the list that it hands on is in the order of the lines. What is wrong fails the map by name."""
    (tmp_path / "a.jsonl").write_bytes(b"1\n2\n3\n")
    broker = FakeBroker({"double": lambda item: 2 * item, "list": lambda: {"json_lines": "a.jsonl"}})
    body = b"""{"output": "each", "nodes": [{"name": "list", "task": "list"},
        {"name": "each", "map": {"over": "list", "do": {"task": "double"}}}]}"""
    async with scheduler(broker, files=DirectoryItemFiles(tmp_path)) as running:
        handle = await running.submit_definition(wire.decode_definition(body, nodes_max=10))
        assert (await running.outcome(handle.id)).result == [2, 4, 6]
    async with scheduler(broker) as running:
        handle = await running.submit_definition(wire.decode_definition(body, nodes_max=10))
        outcome = await running.outcome(handle.id)
        assert outcome.state == "failed"
        assert "'a.jsonl', and `map_files` names no place for such (next: set `map_files`" in outcome.error
