"""Secrets that tasks put into their errors, or people into arguments, are shown to nobody."""

import json
from pathlib import Path

import pytest

from dyrygentd.core.events import Event, MessagePublished, TaskFailed, TaskSucceeded
from dyrygentd.core.graph import Definition, Graph, NodeSpec, Signature
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import limits, scheduler

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach redis://user:hunter2@host:6379/0", "cannot reach redis://user:****@host:6379/0"),
        ("amqp://:p%40ss@host and amqp://a:b@c", "amqp://:****@host and amqp://a:****@c"),
        ("GET /?token=abc&x=1 failed", "GET /?token=****&x=1 failed"),
        ("bad {'password': 'hunter2', 'user': 'anna'}", "bad {'password': '****', 'user': 'anna'}"),
        ('{"API_KEY":"k-1"}', '{"API_KEY":"****"}'),
        ("mysql --passwd=secret1 x", "mysql --passwd=**** x"),
        ("amqp://:p@ss@host", "amqp://:****@host"),
        ("redis://user:p/ss@host", "redis://user:****@host"),
        ("password: hunter2", "password: ****"),
        ("password = abc", "password = ****"),
        ("--password abc and --user-token abc", "--password **** and --user-token ****"),
        ("{'password': 'two words, and more'}", "{'password': '****'}"),
        ("Authorization: Bearer abcdef123", "Authorization: Bearer ****"),
        (
            "access_token=a csrftoken=b SECRET_KEY=c private-key=d pwd=e",
            "access_token=**** csrftoken=**** SECRET_KEY=**** private-key=**** pwd=****",
        ),
        ('{"message": "{\\"password\\": \\"abc\\"}"}', '{"message": "{\\"password\\": \\"****\\"}"}'),
        # What only speaks about secrets is what somebody has to read at night.
        ("token: signature has expired", "token: signature has expired"),
        ("the password is wrong", "the password is wrong"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("secretary=anna", "secretary=anna"),
    ],
)
def test_usual_secrets(text: str, shown: str) -> None:
    """Passwords in URLs, and values that are called what secrets are called."""
    assert Redaction().text(text) == shown


def test_patterns_of_the_user() -> None:
    """The whole of what is found, or the group; a group that took no part hides the whole."""
    redaction = Redaction([r"SN-\d+", r"(?:pin (\d+)|otp \w+)"])
    assert redaction.text("SN-42 pin 1234 otp abc") == "**** pin **** ****"


def test_long_hostile_texts_take_no_time() -> None:
    """The patterns that are always there look at each letter a few times, whatever is written."""
    words = ("password", "'", "://", "://a:", "--", "--a ", "token='", "\\", "bearer ", "password =", ' "')
    for text in [word * 20_000 for word in words] + ["token='" + "\\" * 100_000, "password" + " " * 100_000]:
        assert len(Redaction().text(text)) > 0


def test_events_without_secrets_are_not_touched() -> None:
    """Thousands of results a second pass here."""
    events: list[Event] = [TaskSucceeded("a", b'"token=abc"'), MessagePublished("b")]
    assert Redaction().events(events) is events
    failed = TaskFailed("c", "token=abc", "E", cause="E password=x")
    assert Redaction().events([*events, failed]) == [*events, TaskFailed("c", "token=****", "E", cause="E password=****")]


def test_arguments_as_monitors_show_them() -> None:
    """Short, without secrets, and as whoever submitted it wants them shown."""
    redaction = Redaction([r"SN-\d+"])

    def shown(args: object, kwargs: object, **options: object) -> str:
        positional, named, given = (json.dumps(part).encode() for part in (args, kwargs, options))
        return redaction.arguments(Signature("t", positional, named, given))

    assert shown([1, "SN-5"], {"password": "x", "n": [1]}) == "(1, '****') {'n': [1], 'password': '****'}"
    assert shown([], {}) == ""
    assert shown([{"token": ["a", "b"]}], {"password": {"value": "x"}}) == "({'token': '****'},) {'password': '****'}"
    assert shown([1], {"a": 1}, argsrepr="(one)", kwargsrepr="") == "(one) "
    assert len(shown(["x" * 5000] * 100, {})) <= 1024
    assert shown([[[[[[[1]]]]]]], {}).startswith("([[")


async def test_an_error_with_a_secret_reaches_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the database nor the log, an answer or the summary for a hook holds it."""

    def connect(_: str) -> None:
        raise ConnectionError("cannot reach redis://:hunter2@host, card SN-99")

    path = tmp_path / "state.db"
    broker = FakeBroker({"tasks.connect": connect})
    graph = Graph.build([NodeSpec("n", Signature("tasks.connect", b'["SN-7"]'), "id-1")])
    caplog.set_level("DEBUG")
    async with scheduler(broker, SqliteStore(path), limits=limits(redact=(r"SN-\d+",))) as running:
        handle = await running.submit(Definition(graph, "n"))
        await handle.wait()
        node = await running.node(handle.id, "n")
        assert node.error == "ConnectionError: cannot reach redis://:****@host, card ****"
        assert node.arguments == "('****',)"
        assert (await running.node(handle.id, "n", with_arguments=False)).arguments is None
        assert "hunter2" not in repr(await running.causes(handle.id))
    stored = b"".join(file.read_bytes() for file in sorted(tmp_path.iterdir()))  # noqa: ASYNC240 - nothing else runs
    assert b"cannot reach redis" in stored
    assert b"hunter2" not in stored
    assert b"SN-99" not in stored
    assert "hunter2" not in caplog.text
    assert "SN-7" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("dyrygentd"))
