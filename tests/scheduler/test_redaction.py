"""Secrets that tasks put into their errors, or people into arguments, are shown to nobody."""

import json
import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from dyrygentd.core.events import Event, MessagePublished, TaskFailed, TaskSucceeded
from dyrygentd.core.graph import Definition, Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.scheduler.pattern_process import PatternProcess
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import definition, limits, scheduler
from tests.support.servers import wait_until

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
        # What has no end may have been cut there.
        ("{'token': '" + "x" * 2000, "{'token': '****"),
        ("password=('a', 'b", "password=****"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\nE", "-----BEGIN RSA PRIVATE KEY-----****"),
        ("{'token': '" + "x" * 2000 + "'} y", "{'token': '****'} y"),
        # As programs call other programs, and as they show what they hold.
        ("Command '['mysql', '--password', 'x']' returned", "Command '['mysql', '--password', '****']' returned"),
        ("('password', 'x'), ('api-key', b'y')", "('password', '****'), ('api-key', b'****')"),
        ("password=SecretStr('x') a", "password=**** a"),
        ("password=['x', 'y'] a", "password=**** a"),
        ("secrets={'a': 'x', 'b': [\"}\"]} a", "secrets=**** a"),
        ('{"password": {"value": "x"}, "a": 1}', '{"password": ****, "a": 1}'),
        ("password => 'x' a", "password => '****' a"),
        ("environ['API_TOKEN'] = 'x' a", "environ['API_TOKEN'] = '****' a"),
        ("password: str = 'x'", "password: str = '****'"),
        ("{'name': 'DB_PASSWORD', 'value': 'x'}", "{'name': 'DB_PASSWORD', 'value': '****'}"),
        ("password2=x PASSWORD_1=y", "password2=**** PASSWORD_1=****"),
        ("'it\\'s', password='it\\'s' a", "'it\\'s', password='****' a"),
        ("password=a,b;c user=d, x", "password=**** user=d, x"),
        # Headers, and what stands behind a colon.
        ("X-Api-Key: x", "X-Api-Key: ****"),
        ("Authorization: Basic eA==", "Authorization: Basic ****"),
        ("Authorization: Digest username='a'\nHost: b", "Authorization: Digest ****'a'\nHost: b"),
        ("{'Authorization': 'Basic x'}", "{'Authorization': '****'}"),
        ("Cookie: s=x; t=y\nHost: b", "Cookie: s=****\nHost: b"),
        ("token: x", "token: ****"),
        ("secret: x, api_key: y", "secret: ****, api_key: ****"),
        # URLs.
        ("https://x@host/ and git+https://y@host", "https://****@host/ and git+https://****@host"),
        ("ssh://git@host/a", "ssh://git@host/a"),
        ("http://h/?u=redis://a:x@b c", "http://h/?u=redis://a:****@b c"),
        ("redis://u:" + "x" * 1000 + "@host", "redis://u:****@host"),
        ("cannot reach redis://u:12x", "cannot reach redis://u:****"),
        ("cannot reach redis://host:6379", "cannot reach redis://host:6379"),
        ("cannot reach http://host:80/a:b", "cannot reach http://host:80/a:b"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIi.c2ln", "got ****"),
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
    with closing(Redaction([r"SN-\d+", r"(?:pin (\d+)|otp \w+)"])) as redaction:
        assert redaction.text("SN-42 pin 1234 otp abc") == "**** pin **** ****"
        assert redaction.text("pin ä\ud800 1 pin 2\n") == "pin ä\ud800 1 pin ****\n"
        # Twice as much as one request takes.
        long = ["SN-1 " * 20_000] * 8
        assert redaction._texts(long) == ["**** " * 20_000] * 8
        assert redaction.problem == ""


_CARELESS = r"serial (\w+-?)+;"


def test_a_careless_pattern_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its search is given up, everything is hidden for some time, with the reason, and then it is tried again."""
    # A machine that has other work takes long for little processor time.
    monkeypatch.setattr("dyrygentd.scheduler.pattern_process._WAIT_S", 30.0)
    process = PatternProcess([r"SN-\d+", _CARELESS], hidden="****", cpu_s=0.05, pause_s=0.2)
    with closing(process):
        begun = time.monotonic()
        assert process.clean(["SN-1", "serial " + "a" * 40, "SN-2"]) == ["****", "****", "****"]
        assert time.monotonic() - begun < 30
        assert process.clean(["harmless"]) == ["****"]
        assert "texts of tasks are hidden whole: the pattern 'serial (\\\\w+-?)+;' of `redact` takes too long" in process.problem
        wait_until(lambda: not process.problem)
        assert process.clean(["harmless SN-1"]) == ["harmless ****"]


def test_patterns_that_cannot_be_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the process that searches, nothing is shown; a process that was killed is started again."""
    wait = "dyrygentd.scheduler.pattern_process._WAIT_S"
    monkeypatch.setattr(wait, 30.0)
    process = PatternProcess([r"SN-\d+"], hidden="****", pause_s=0.0)
    with closing(process):
        assert process.clean(["SN-1 a"]) == ["**** a"]
        child = process._child
        assert child is not None
        # Whoever ends all processes of a service does not end it; who kills it, has a new one made.
        child.send_signal(signal.SIGTERM)
        assert process.clean(["SN-1 a"]) == ["**** a"]
        assert process._child is child
        os.kill(child.pid, signal.SIGKILL)
        assert process.clean(["SN-1 a"] * 3) == ["**** a"] * 3
        assert process._child is not child
        monkeypatch.setattr(wait, 0.2)
        assert process._child is not None
        process._child.send_signal(signal.SIGSTOP)
        assert process.clean(["a"]) == ["****"]
        monkeypatch.setattr(wait, 30.0)
        assert process.clean(["a"]) == ["a"]
        process.close()
        monkeypatch.setattr("sys.executable", "/nowhere/python")
        assert process.clean(["a"]) == ["****"]
        assert "No such file" in process._reason


async def test_a_careless_pattern_and_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler goes on, the error is hidden, and whoever asks for its health is told why."""
    monkeypatch.setattr("dyrygentd.scheduler.pattern_process._WAIT_S", 30.0)

    def fail(*_: object) -> None:
        raise ValueError("serial " + "a" * 40)

    broker = FakeBroker({"tasks.fail": fail})
    async with scheduler(broker, limits=limits(redact=(_CARELESS,))) as running:
        for name in ("first", "second"):
            handle = await running.submit(definition("fail", name=name))
            assert (await handle.wait(timeout_s=10)).state == "failed"
            assert (await running.node(handle.id, "fail")).error == "****"
        health = running.health()
        assert any("takes too long for a text that came" in notice for notice in health.notices)
        assert (health.status, health.problems) == ("ok", [])


def _line(redaction: Redaction, text: str) -> str:
    """Return what is kept of a text that came with a failure."""
    [event] = redaction.events([TaskFailed("t", text)])
    return event.error


def test_cut_after_cleaning() -> None:
    """Half a secret does not look like one, so that nothing is cut before; and what has no end is hidden to it."""
    redaction = Redaction()
    text = "x " * 240 + "private_key='" + "s3cret " * 3000 + "' end"
    line = _line(redaction, text)
    assert len(line) <= 500
    assert "s3" not in line
    assert line.endswith("private_key='****")
    assert _line(redaction, "a\n  b " + "c" * 9000) == "a b " + "c" * 495 + "…"
    event = TaskFailed("t", text, fingerprint="E password='" + "x" * 300)
    cleaned = Redaction().events([event])[0]
    assert cleaned == TaskFailed("t", line, fingerprint="E password='****")


def test_long_hostile_texts_take_no_time() -> None:
    """The patterns that are always there look at each letter a few times, whatever is written."""
    words: tuple[str, ...] = (
        "password",
        "'",
        "://",
        "://a:",
        "--",
        "--a ",
        "token='",
        "\\",
        "bearer ",
        "password =",
        ' "',
        "password=(",
        "://@",
    )
    words += (
        'password=["',
        "://a:b@",
        "eyJaaaaaaaa.",
        "-----BEGIN PRIVATE KEY-----",
        "authorization: ",
        "cookie: a ",
        "token: a ",
    )
    words += ("'password', ", "--token ", "a=,token", "token=a,", "{'password': {", "x@", 'password=\\\\"')
    texts = [(word * 200_000)[:200_000] for word in words]
    texts += [
        begin + more * (200_000 // len(more))
        for begin in ("token='", "password=(", "password", "x://")
        for more in ("\\", " ", ",a", "a@")
    ]
    for text in texts:
        begun = time.process_time()
        assert len(Redaction().text(text)) > 0
        # Measured: 0.4 s for the worst; the square of the length would be minutes.
        assert time.process_time() - begun < 3, text[:20]


def test_events_without_secrets_are_not_touched() -> None:
    """Thousands of results a second pass here."""
    events: list[Event] = [TaskSucceeded("a", b'"token=abc"'), MessagePublished("b")]
    assert Redaction().events(events) is events
    failed = TaskFailed("c", "token=abc", "E", fingerprint="E password=x")
    assert Redaction().events([*events, failed]) == [*events, TaskFailed("c", "token=****", "E", fingerprint="E password=****")]


def test_arguments_as_monitors_show_them() -> None:
    """Short, without secrets, and as whoever submitted it wants them shown."""
    redaction = Redaction()

    def shown(args: object, kwargs: object, **options: object) -> str:
        positional, named, given = (json.dumps(part).encode() for part in (args, kwargs, options))
        return redaction.arguments(Signature("t", positional, named, given))

    assert shown([1, "token=5"], {"password": "x", "n": [1]}) == "(1, 'token=****') {'n': [1], 'password': '****'}"
    assert shown([], {}) == ""
    assert shown([{"token": ["a", "b"]}], {"password": {"value": "x"}}) == "({'token': '****'},) {'password': '****'}"
    assert shown([1], {"a": 1}, argsrepr="(one)", kwargsrepr="") == "(one) "
    assert len(shown(["x" * 5000] * 100, {})) <= 1024
    assert shown([[[[[[[1]]]]]]], {}).startswith("([[")
    # Cleaned before it is cut, in whatever form.
    assert shown(["x" * 150 + " password=" + "y" * 200], {}) == "('" + "x" * 150 + " password=****',)"
    assert shown([["mysql", "--password", "x"]], {"env": [["DB_PASSWORD", "y"]]}) == (
        "(['mysql', '--password', '****'],) {'env': [['DB_PASSWORD', '****']]}"
    )
    assert shown([], {"Authorization": "Basic x", "password2": 5}) == "{'Authorization': '****', 'password2': '****'}"
    assert shown([], {"a": {"b": {"c": {"tokens": {"d": "x"}}}}}) == "{'a': {'b': {'c': {'tokens': '****'}}}}"
    assert "s3cret" not in shown([1], {}, argsrepr="x" * 990 + " password='" + "s3cret " * 9)
    # What nobody can show is no error.
    assert redaction.arguments(Signature("t", b"[" * 100_000 + b"]" * 100_000, b"{}", b"{}")) == "(…)"
    assert redaction.arguments(Signature("t", b"[" + b"9" * 10_000 + b"]", b"{}", b"{}")).endswith("9…',)")


def test_data_is_shown_as_data() -> None:
    """A payload stays JSON; what is long is cut, and what is secret hidden."""
    redaction = Redaction([r"SN-\d+"])
    try:
        shown = redaction.data(b'{"osd": [42, null, 1.5], "disk": "SN-99", "api_key": "x", "at": {"__type__": "date"}}')
        assert shown == {"osd": [42, None, 1.5], "disk": "****", "api_key": "****", "at": {"__type__": "date"}}
        assert redaction.data(b"null") is None
        assert redaction.data(b"false") is False
        assert len(redaction.data(b'"%b"' % (b"x" * 5000))) < 300
        assert redaction.data(b"[" + b",".join([b"1"] * 5000) + b"]")[:2] == [1, 1]
        assert json.dumps(redaction.data(b"[" * 500 + b"]" * 500))
    finally:
        redaction.close()


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
