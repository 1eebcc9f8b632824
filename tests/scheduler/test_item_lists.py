"""A map goes over a file of JSON lines as over a list, and what is wrong with it is told by its line."""

from pathlib import Path

import pytest

from dyrygentd.errors import BadRequest
from dyrygentd.scheduler.item_lists import ItemLists, name_in
from dyrygentd.store.item_files import DirectoryItemFiles

pytestmark = pytest.mark.anyio


async def _read(tmp_path: Path, content: bytes, *, bytes_max: int = 1000) -> bytes:
    (tmp_path / "a.jsonl").write_bytes(content)
    return await ItemLists(DirectoryItemFiles(tmp_path)).list_of(b'{"json_lines": "a.jsonl"}', bytes_max=bytes_max)


async def test_an_item_a_line(tmp_path: Path) -> None:
    """Empty lines are none, nor does the last one need an end; an empty file is an empty list."""
    assert await _read(tmp_path, b'{"osd": 1}\r\n\n"text"\n 3') == b'[{"osd": 1},"text",3]'
    assert await _read(tmp_path, b"") == b"[]"


@pytest.mark.parametrize("value", [b"[1]", b"{}", b"null", b'"a.jsonl"', b'{"json_lines": 1}', b'{"json_lines": "a", "b": 1}'])
async def test_any_other_value_is_itself(value: bytes) -> None:
    """Only what can mean nothing else names a file."""
    assert await ItemLists(None).list_of(value, bytes_max=10) is value
    assert name_in(value) is None


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
        await ItemLists(DirectoryItemFiles(tmp_path)).list_of(b'{"json_lines": "a.jsonl"}', bytes_max=1000)


async def test_there_is_none(tmp_path: Path) -> None:
    """A name that means nothing, and a daemon that has no place for files, say what to do."""
    with pytest.raises(BadRequest, match="there is no file 'b' in the directory") as told:
        await ItemLists(DirectoryItemFiles(tmp_path)).list_of(b'{"json_lines": "b"}', bytes_max=10)
    assert "`map_files`" in told.value.next_step
    with pytest.raises(BadRequest, match="`map_files` names no place for such"):
        await ItemLists(None).list_of(b'{"json_lines": "b"}', bytes_max=10)
