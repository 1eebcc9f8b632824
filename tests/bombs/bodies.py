"""Small generators of large bodies. Each is about as long as it is told to be."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

#: In a daemon with the bounds of its defaults.
NODES_MAX: Final = 200_000


class Bomb(NamedTuple):
    """A body, and the statuses that answer it well.

    Attributes:
        make: Takes the number of bytes.
        words: What the answer names.
    """

    name: str
    make: Callable[[int], bytes]
    words: str = ""
    statuses: tuple[int, ...] = (400, 413, 422)


def _filled(head: bytes, piece: bytes, tail: bytes) -> Callable[[int], bytes]:
    return lambda size: head + piece * max(1, (size - len(head) - len(tail)) // len(piece)) + tail


def _numbered(head: bytes, piece: bytes, tail: bytes) -> Callable[[int], bytes]:
    """Fill with pieces in which ``%d`` is another number each time, with commas between them."""

    def pieces(size: int) -> Iterator[bytes]:
        left = size - len(head) - len(tail)
        number = 0
        while left > 0:
            made = piece % number
            left -= len(made) + 1
            number += 1
            yield made

    return lambda size: head + b",".join(pieces(size)) + tail


_NODE: Final = b'{"nodes":[{"name":"a","task":"add"'


_MAP: Final = b'{"nodes":[{"name":"l","task":"add"},{"name":"m","map":{"over":"l","do":'
_LIST: Final = b'{"nodes":[{"name":"m","map":{"do":'
_CHILD: Final = b'{"nodes":[{"name":"c","workflow":{"definition":{"nodes":[{"task":"add"}]},"values":{'


def _parameters(length: int, uses: int) -> Callable[[int], bytes]:
    value, named = b"\\u0000" * length, b",".join([b'"${p}"'] * uses)
    return lambda size: b'{"parameters":{"p":"' + value + b'"},' + _NODE[1:] + b',"args":[' + named + b"]}]}"


def _long_path(size: int) -> bytes:
    """A key of half the length, and elements below it: the key was copied for each of them."""
    key, numbers = b"$" + b"k" * (size // 4), b"0," * (size // 8)
    return b'{"parameters":{"p":1},"payload":{"' + key + b'":[' + numbers + b"0]}," + _NODE[1:] + b"}]}"


def _many_afters(size: int) -> bytes:
    names = b'"a",' * 190_000 + b'"a"'
    nodes = [b'{"name":"n%d","task":"add","after":[%b]}' % (number, names) for number in range(max(1, size // len(names)))]
    return _NODE + b"}," + b",".join(nodes) + b"]}"


BOMBS: Final = (
    Bomb("empty nodes", _filled(b'{"nodes":[', b"{},", b"{}]}"), "more than"),
    Bomb("joins", _filled(b'{"nodes":[', b'{"join":true},', b'{"join":true}]}'), "nodes"),
    Bomb("nulls for nodes", _filled(b'{"nodes":[', b"null,", b"null]}"), "nodes"),
    Bomb("name of output", _filled(_NODE + b'}],"output":"', b"x", b'"}'), "output"),
    Bomb("name in after", _filled(_NODE + b',"after":["', b"x", b'"]}]}'), "after"),
    Bomb("unknown field", _filled(_NODE + b',"', b"x", b'":1}]}'), "node"),
    Bomb("unknown wide field", _filled(_NODE + b',"\xf0\x9f\x98\x80', b"x", b'":1}]}'), "node"),
    Bomb("unknown field of the whole", _filled(_NODE + b'}],"', b"x", b'":1}'), "unknown field"),
    Bomb("names in after", _filled(_NODE + b',"after":[', b'"a",', b'"a"]}]}'), "after"),
    Bomb("names in many afters", _many_afters, "", (201, 400, 413, 422)),
    Bomb("options", _numbered(_NODE + b',"options":{', b'"o%d":1', b"}}]}"), "options"),
    Bomb("labels", _numbered(_NODE + b'}],"labels":{', b'"l%d":""', b"}}"), "labels"),
    Bomb("parameters", _numbered(_NODE + b'}],"parameters":{', b'"p%d":1', b"}}"), "parameters"),
    Bomb("words of a retry", _filled(_NODE + b',"retry":{"on":[', b'"a",', b'"a"]}}]}'), "node"),
    Bomb("argument of numbers", _filled(_NODE + b',"args":[', b"0,", b"0]}]}"), "args"),
    Bomb("argument of lists", _filled(_NODE + b',"args":[', b"[[[]]],", b"0]}]}"), ""),
    Bomb("argument of escapes", _filled(_NODE + b',"args":["', b"\\n", b'"]}]}'), "args"),
    Bomb("payload", _filled(_NODE + b'}],"payload":[', b"0,", b"0]}"), "payload"),
    Bomb("no object", _filled(b"[", b"{},", b"{}]"), ""),
    Bomb("one field again and again", _filled(b'{"nodes":[],', b'"name":"a",', b'"name":"a"}'), "fields"),
    Bomb("open ends", _filled(b'{"nodes":[', b'[{"a":', b""), ""),
    Bomb("text without an end", _filled(_NODE + b',"args":["', b"\\\\", b""), ""),
    Bomb("long value named often", _parameters(600_000, 62), "parameters"),
    Bomb("too long a value named often", _parameters(1_000_000, 62), "parameters"),
    Bomb("nodes of a map", _filled(_MAP + b'{"nodes":[', b'{"join":true},', b'{"task":"add"}]}}}]}'), "map.do.nodes"),
    Bomb("items of a map", _filled(_LIST + b'{"task":"add"},"over":[', b"0,", b"0]}}]}"), "max_items"),
    Bomb("values of a child", _numbered(_CHILD, b'"p%d":1', b"}}}]}"), "workflow"),
    Bomb("long key above many elements", _long_path, "", (201, 400)),
)
