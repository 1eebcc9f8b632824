"""Errors on their way to a client."""

import pytest

from dyrygentd import wire
from dyrygentd.errors import (
    BadNode,
)


def test_problem_is_read_back_as_a_remote_error() -> None:
    """A client raises what the daemon said, in its words."""
    problem = wire.problem_of(BadNode("a", "is odd", next_step="mend it"))
    assert (problem["type"], problem["title"]) == ("https://dyrygentd.invalid/problems/bad-node", "bad node")
    assert problem["facts"] == {"node": "a", "reason": "is odd"}
    remote = wire.error_of_problem(wire.encode(problem), 422)
    assert (remote.message, remote.status, remote.code, remote.next_step) == ("node 'a': is odd", 422, "bad-node", "mend it")
    assert remote.document == problem


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "HTTP status 502"),
        (b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (b"\xff" * 3, "\ufffd" * 3),
        (b'{"detail": "\xff"}', '{"detail": "\ufffd"}'),
        (b"[" * 100_000, "[" * 200),
        (b"{}", "HTTP status 502"),
    ],
)
def test_any_answer_becomes_an_error(body: bytes, message: str) -> None:
    """A proxy, another program or rubbish on the socket gives an error that quotes it."""
    remote = wire.error_of_problem(body, 502)
    assert (str(remote), remote.status, remote.code) == (message, 502, "unknown")
