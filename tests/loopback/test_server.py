"""A real browser's requests, without the browser: who is let in, what is passed on to a real daemon, and how it ends."""

import json
import os
import pwd
import socket
from pathlib import Path
from typing import Any

import anyio.from_thread
import pytest

from dyrygentd.errors import ConfigurationError
from dyrygentd.http.access import Access
from dyrygentd.http.limits import HttpLimits
from dyrygentd.loopback.passing import BODY_BYTES_MAX
from dyrygentd.loopback.server import serving_page
from tests.http.support import Answer, Daemon
from tests.loopback.support import OF_PAGE, Served
from tests.support.servers import wait_until

_USER = pwd.getpwuid(os.geteuid()).pw_name


def code_of(answer: Answer) -> tuple[int, str]:
    """Return status and code of a problem document, which no browser takes for a page."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.json["next_step"]
    return answer.status, answer.json["code"]


def test_address_opens_the_page_once(served: Served) -> None:
    """The browser gets a cookie that no script reads and that no other page sends; the address opens for nobody else."""
    entered = served.ask("GET", served.start)
    assert (entered.status, entered.headers["Location"]) == (303, "/")
    cookie, *attributes = entered.headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"HttpOnly", "Path=/", "SameSite=Strict"}
    again = served.ask("GET", served.start)
    assert (again.status, b"has been used" in again.body, "Set-Cookie" in again.headers) == (401, True, False)
    served.cookie = cookie
    assert served.ask("GET", served.start).status == 303
    page = served.ask("GET", "/")
    assert page.status == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert served.ask("GET", "/", headers={"If-None-Match": page.headers["ETag"]}).status == 304
    assert served.ask("GET", "/page/mode.json").json["acts"] is True
    assert served.ask("GET", "/page/mode.json").json["user"] == _USER
    assert b"/page/app.js" in page.body
    assert served.ask("GET", "/page/app.js").headers["Content-Type"] == "text/javascript; charset=utf-8"
    # By way of ssh from far away, a third of the bytes are a third of the wait.
    assert served.ask("GET", "/page/app.js", headers={"Accept-Encoding": "gzip"}).headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize(
    "target", ["/page/app.js", "/page/mode.json", "/v1/stats", "/v1/workflows", "/x.ico", "/healthz", "/metrics"]
)
@pytest.mark.parametrize("cookie", [None, "dyrygentd-{port}=x", "dyrygentd={token}", "dyrygentd-{port}={token}"])
def test_nothing_is_shown_without_the_cookie(served: Served, target: str, cookie: str | None) -> None:
    """The token is no cookie, and a cookie of somebody else is none."""
    served.cookie = cookie and cookie.format(port=served.port, token=served.start.rpartition("=")[2])
    assert code_of(served.ask("GET", target)) == (401, "not-let-in")
    assert served.act("/v1/workflows/w/pause").status == 401


def test_who_comes_without_the_token_is_told_what_to_do(served: Served) -> None:
    """A person sees words, not a problem document; what was typed is not shown back."""
    for target in ("/", "/?token=", "/?token=%3Cscript%3Ealert(1)%3C/script%3E", "/?other=1"):
        answer = served.ask("GET", target)
        assert (answer.status, answer.headers["Content-Type"]) == (401, "text/html; charset=utf-8")
        assert b"start `dyrygentctl ui` anew" in answer.body
        assert b"script" not in answer.body


def test_a_link_on_another_page_leads_in(served: Served) -> None:
    """The browser sends no cookie along, so it is sent to the same place once more by us; that ends."""
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = served.ask("GET", "/", headers=link)
    assert (answer.status, b'src="/onward.js"' in answer.body) == (200, True)
    assert b"location.replace" in served.ask("GET", "/onward.js").body
    assert served.ask("GET", "/", headers={**link, "Sec-Fetch-Site": "same-origin"}).status == 401
    entered = served.ask("GET", served.start, headers=link)
    assert (entered.status, b'src="/onward.js"' in entered.body, "Set-Cookie" in entered.headers) == (200, True, True)


def test_what_is_done_has_the_name_of_the_user(served: Served) -> None:
    """The daemon sees who runs the command, and says so in the journal; the browser's headers stay here."""
    served.enter()
    workflow_id = served.daemon.submit({"name": "a/b <i>", "gate": True}, {"name": "two\nlines", "task": "add"})
    done = served.act(f"/v1/workflows/{workflow_id}/release", {"nodes": ["a/b <i>"], "why": "checked"})
    assert (done.status, done.json["node_count"]) == (200, 1), done
    assert served.daemon.finish(workflow_id) == "succeeded"
    entry = served.ask("GET", f"/v1/workflows/{workflow_id}/journal").json["entries"][-1]
    assert entry["by"].startswith(f"{_USER} (uid {os.geteuid()}, pid ")
    assert entry["why"] == "checked"
    node = served.ask("GET", f"/v1/workflows/{workflow_id}/nodes/a%2Fb%20%3Ci%3E")
    assert (node.json["name"], node.headers["Cache-Control"]) == ("a/b <i>", "no-store")
    assert served.ask("GET", f"/v1/workflows/{workflow_id}/nodes/two%0Alines").json["name"] == "two\nlines"
    assert code_of(served.ask("CONNECT", "evil.example:80")) == (404, "not-passed-on")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example:1"}, (421, "strangers-host")),
        ({"Host": "127.0.0.1"}, (421, "strangers-host")),
        ({"Origin": "http://evil.example"}, (403, "strangers-page")),
        ({"Origin": "null"}, (403, "strangers-page")),
        ({"Sec-Fetch-Site": "cross-site"}, (403, "strangers-page")),
        ({"Sec-Fetch-Site": "same-site"}, (403, "strangers-page")),
        ({"Sec-Fetch-Site": ""}, (403, "strangers-page")),
        ({"X-Dyrygentd-Page": ""}, (403, "strangers-page")),
        ({"Content-Type": "text/plain"}, (403, "strangers-page")),
        ({"Content-Type": "application/x-www-form-urlencoded"}, (403, "strangers-page")),
    ],
)
def test_other_pages_change_nothing(served: Served, headers: dict[str, str], code: tuple[int, str]) -> None:
    """Even with the cookie, which a browser may send for them."""
    served.enter()
    workflow_id = served.daemon.submit({"name": "gate", "gate": True})
    assert code_of(served.act(f"/v1/workflows/{workflow_id}/cancel", headers=headers)) == code
    assert served.ask("GET", f"/v1/workflows/{workflow_id}").json["state"] == "running"


def test_rights_are_those_of_the_user(short_tmp: Path) -> None:
    """Who may only read sees no buttons, and is told by the daemon if they press one that they had."""

    class Strangers(Access):
        """Takes everybody for a user who is neither root nor the daemon's."""

        async def role_of(self, peer: Any) -> Any:
            return self._role_of_names({"*"})

    with Daemon(short_tmp / "d.sock", access=Strangers(submitters=())) as daemon, Served(daemon) as served:
        served.enter()
        assert served.ask("GET", "/page/mode.json").json["acts"] is False
        assert served.ask("GET", "/v1/stats").status == 200
        refused = served.act("/v1/workflows/w/cancel")
        assert code_of(refused) == (403, "forbidden")
        assert "`submitters`" in refused.json["next_step"]


def test_daemon_that_goes_away_comes_back(served: Served) -> None:
    """The page stays, and tells what the browser cannot see; nothing has to be started anew."""
    served.enter()
    served.daemon.stop()
    away = served.ask("GET", "/v1/stats")
    assert code_of(away) == (503, "daemon-unreachable")
    assert code_of(served.ask("GET", "/healthz")) == (503, "daemon-unreachable")
    assert str(served.daemon.path) in away.json["detail"]
    assert served.ask("GET", "/").status == 200
    assert served.ask("GET", "/page/mode.json").json["acts"] is True
    served.daemon.start()
    assert served.ask("GET", "/v1/stats").status == 200


def test_stream_is_passed_on_as_it_comes(short_tmp: Path) -> None:
    """Each change at once; it ends with the daemon's word, breaks off with the daemon, and a browser that leaves is let go."""
    # That somebody left is seen when something is sent.
    limits = HttpLimits(heartbeat_s=0.2)
    with Daemon(short_tmp / "holding.sock", holds=True, limits=limits) as holding, Served(holding) as other:
        other.enter()
        workflow_id = holding.submit(name="w")
        connection = other.connection()
        connection.request("GET", f"/v1/workflows/{workflow_id}/events", headers={"Cookie": other.cookie or "", **OF_PAGE})
        stream = connection.getresponse()
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.readline() == b"event: workflow\n"
        assert json.loads(stream.readline().removeprefix(b"data: "))["state"] == "running"
        left = other.connection()
        left.request("GET", f"/v1/workflows/{workflow_id}/events", headers={"Cookie": other.cookie or ""})
        left.getresponse().readline()
        assert holding.http_statistics().streams == 2
        left.close()
        wait_until(lambda: holding.http_statistics().streams == 1)
        holding.let_go()
        assert b"event: end\n" in iter(stream.readline, b"")
        connection.close()


def test_much_at_one_time(served: Served) -> None:
    """Fifty browsers' connections are served; longer bodies than a verb has are refused, and headers end here."""
    served.enter()
    connections = [served.connection() for _ in range(50)]
    for connection in connections:
        connection.request("GET", "/v1/workflows", headers={"Cookie": served.cookie or ""})
    assert {connection.getresponse().status for connection in connections} == {200}
    for connection in connections:
        connection.close()
    workflow_id = served.daemon.submit({"name": "gate", "gate": True})
    wrong = {"why": "x" * BODY_BYTES_MAX}
    assert code_of(served.act(f"/v1/workflows/{workflow_id}/cancel", wrong)) == (413, "body-too-large")
    assert served.ask("GET", f"/v1/workflows/{workflow_id}").json["state"] == "running"


def test_cookies_of_others_do_not_shut_out(served: Served) -> None:
    """A server on another port of this host may set cookies of the same name, before and after ours."""
    served.enter()
    name = f"dyrygentd-{served.port}"
    served.cookie = f"{name}=evil; {served.cookie}; {name}=; other={name}"
    assert served.ask("GET", "/v1/stats").status == 200
    assert served.ask("GET", "/").status == 200


def test_more_connections_than_there_is_room_for(daemon: Daemon) -> None:
    """One too many is answered, and the others are served on."""
    with Served(daemon, connections_max=2) as served:
        served.enter()
        kept = [served.connection() for _ in range(2)]
        for connection in kept:
            connection.request("GET", "/v1/stats", headers={"Cookie": served.cookie or ""})
            connection.getresponse().read()
        refused = served.ask("GET", "/v1/stats")
        assert (refused.status, refused.json["code"]) == (503, "no-room")
        for connection in kept:
            connection.request("GET", "/v1/stats", headers={"Cookie": served.cookie or ""})
            assert connection.getresponse().status == 200
            connection.close()


def test_connections_of_other_users_are_closed(daemon: Daemon) -> None:
    """The token, which they may have seen in a list of processes, does not help them."""
    with Served(daemon, users=[os.geteuid() + 1]) as served:
        answer = served.ask("GET", served.start)
        assert (answer.status, answer.json["code"]) == (403, "strangers-connection")
        assert f"uid {os.geteuid()}" in answer.json["detail"]


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can become another user")
def test_another_user_has_no_use_for_the_token(served: Served) -> None:
    """A real other user, with the address: the kernel tells who they are, and they read nothing."""
    reading, writing = os.pipe()
    stranger = os.fork()
    if stranger == 0:
        os.setuid(65534)
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(f"GET {served.start} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
            # The server may be root's, who trusts root and itself only.
            os.write(writing, connection.recv(4096)[:12])
        os._exit(0)
    os.waitpid(stranger, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        assert answer.read() == b"HTTP/1.1 403"
    served.enter()


@pytest.mark.parametrize(
    "name",
    ["../__init__.py", "%2e%2e/__init__.py", "..%2f__init__.py", "/etc/passwd", "vendor/../../README.md", "%00", "mode.json/x"],
)
def test_files_are_the_pages_only(served: Served, name: str) -> None:
    """No path leads out of what the page consists of."""
    served.enter()
    assert code_of(served.ask("GET", f"/page/{name}")) == (404, "not-passed-on")


def test_taken_port_is_told(served: Served) -> None:
    """With what to do."""
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        pytest.raises(ConfigurationError, match="Address already in use") as told,
        portal.wrap_async_context_manager(serving_page(served.daemon.path, port=served.port)),
    ):
        pass
    assert "--port" in told.value.next_step


def test_long_answers_wait_for_the_browser(short_tmp: Path) -> None:
    """An answer that nobody reads piles up nowhere, and others are served meanwhile."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(nodes_max=20_000)) as daemon, Served(daemon) as served:
        served.enter()
        nodes: list[Any] = [{"name": f"{number}-{'x' * 180}", "gate": True} for number in range(8_000)]
        workflow_id = daemon.submit(*nodes)
        target = f"/v1/workflows/{workflow_id}/nodes?limit=1000"
        slow = served.connection()
        slow.request("GET", target, headers={"Cookie": served.cookie or ""})
        assert len(served.ask("GET", target).json["nodes"]) == 1000
        assert len(json.loads(slow.getresponse().read())["nodes"]) == 1000
        slow.close()
