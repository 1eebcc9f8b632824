"""Which server is chosen for a directory: never one that cannot read what is in it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.daemon import servers
from dyrygentd.daemon.embedded import EmbeddedServer, ServerNotStarted
from dyrygentd.daemon.servers import Files, FilesOfAnotherServer, Server, can_read, choose, files_in, find_server
from tests.support.servers import wait_until
from tests.support.tasks import records

_REDIS = shutil.which("redis-server")


def _server(kind: str, *version: int) -> Server:
    return Server(Path(f"/usr/bin/{kind}-server"), kind, version)


# --- the choice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "magic", "number", "is_able"),
    [
        (_server("redis", 6, 0, 16), "REDIS", 9, False),  # It knows no directory of files, and would start empty.
        (_server("redis", 7, 0, 15), "REDIS", 10, True),
        (_server("redis", 7, 0, 15), "REDIS", 11, False),
        (_server("redis", 7, 0, 15), "VALKEY", 80, False),
        (_server("redis", 7, 2, 4), "REDIS", 11, True),
        (_server("redis", 8, 0, 1), "REDIS", 12, True),
        (_server("redis", 8, 0, 1), "VALKEY", 80, False),
        (_server("valkey", 8, 1, 0), "REDIS", 11, True),
        (_server("valkey", 8, 1, 0), "REDIS", 12, False),
        (_server("valkey", 8, 1, 0), "VALKEY", 80, False),
        (_server("valkey", 9, 1, 2), "VALKEY", 80, True),
        (_server("valkey", 9, 1, 2), "VALKEY", 81, False),
        (_server("valkey", 9, 1, 2), "REDIS", 10, True),
        (_server("valkey", 9, 1, 2), "REDIS", 12, False),
        (_server("redis", 7, 0, 15), "", 0, True),
        (_server("valkey", 9, 1, 2), "", 0, True),
        (_server("", 0), "", 0, False),
    ],
)
def test_formats_that_a_server_reads(server: Server, magic: str, number: int, is_able: bool) -> None:
    """Snapshots up to a server's own version, commands alone by all; one that does not say what it is gets no data."""
    assert can_read(server, Files(True, True, magic, number)) is is_able


def test_server_that_wrote_is_chosen_again() -> None:
    """The kind that wrote last comes before others, and reads what the table does not know yet; order decides the rest."""
    redis_server, valkey = _server("redis", 7, 0, 15), _server("valkey", 10, 0, 0)
    files = Files(True, True, "", 0, "valkey", (9, 1, 2))
    assert choose([redis_server, valkey], files) is valkey
    assert choose([redis_server], files) is redis_server
    assert choose([redis_server, valkey], Files(True, True)) is redis_server
    assert choose([redis_server, valkey], files._replace(magic="VALKEY", number=90)) is valkey
    assert choose([redis_server], files._replace(magic="VALKEY", number=90)) is None
    assert choose([redis_server, valkey], Files()) is redis_server


@pytest.mark.parametrize(
    ("first", "magic", "number"),
    [(b"VALKEY080\xfa\x0a", "VALKEY", 80), (b"REDIS0010\xfa", "REDIS", 10), (b"*2\r\n$6\r\n", "", 0)],
)
@pytest.mark.parametrize("is_multipart", [True, False])
def test_files_say_whose_they_are(first: bytes, magic: str, number: int, is_multipart: bool, tmp_path: Path) -> None:
    """The first bytes are read of the file that the manifest names, not of one that was left over."""
    assert files_in(tmp_path) == Files()
    if is_multipart:
        several = tmp_path / "appendonlydir"
        several.mkdir()
        (several / "appendonly.aof.1.base.rdb").write_bytes(b"REDIS0099")
        (several / "appendonly.aof.2.base.rdb").write_bytes(first)
        (several / "appendonly.aof.manifest").write_text(
            "file appendonly.aof.1.base.rdb seq 1 type h\nfile appendonly.aof.2.base.rdb seq 2 type b\n"
            "file appendonly.aof.2.incr.aof seq 2 type i\n"
        )
    else:
        (tmp_path / "appendonly.aof").write_bytes(first)
    assert files_in(tmp_path) == Files(True, is_multipart, magic, number)
    (tmp_path / "broker.server").write_text("not what we wrote")
    assert files_in(tmp_path).kind == ""
    servers.note(tmp_path, {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"})
    assert json.loads((tmp_path / "broker.server").read_text()) == {"server": "valkey", "version": "9.1.2"}
    assert files_in(tmp_path)[4:] == ("valkey", (9, 1, 2))


# --- real servers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have these servers on the host and no others."""
    found = servers._programs
    binary = next((path for path in found() if "_binaries" in path.parts), None)

    def have(*kinds: str) -> None:
        programs = []
        for kind in kinds:
            program = _REDIS if kind == "redis" else binary
            if program is None:
                pytest.skip(f"there is no {kind}-server on this host")
            if kind == "redis" and servers._asked(Path(program)).version < (7,):
                pytest.skip("its redis-server is older than 7, whose files are of another kind")
            programs.append(Path(program))
        monkeypatch.setattr(servers, "_programs", lambda: iter(programs))

    return have


def _fill(client: Any, prefix: str) -> None:
    """Put in what kombu, Celery and we use, and a library of functions, whose form differs from that of data."""
    client.rpush(f"{prefix}list", *range(100))
    client.hset(f"{prefix}hash", mapping={str(number): number for number in range(600)})
    client.sadd(f"{prefix}set", "a", "b")
    client.zadd(f"{prefix}zset", {"a": 1.5, "b": 2.0})
    client.set(f"{prefix}text", "v\x00\r\n", ex=1000)
    client.xadd(f"{prefix}stream", {"a": 1})
    client.xadd(f"{prefix}stream", {"a": 2})
    client.xtrim(f"{prefix}stream", maxlen=1)
    client.eval("redis.call('SET', KEYS[1], '1') return redis.call('LPUSH', KEYS[2], 'm')", 2, f"{prefix}e", f"{prefix}el")
    code = f"redis.register_function('{prefix}f', function(keys, args) return redis.call('GET', keys[1]) end)"
    client.function_load(f"#!lua name={prefix}lib\n{code}")


def _content(client: Any) -> object:
    def value(key: str) -> object:
        match client.type(key):
            case "list":
                return client.lrange(key, 0, -1)
            case "hash":
                return client.hgetall(key)
            case "set":
                return sorted(client.smembers(key))
            case "zset":
                return client.zrange(key, 0, -1, withscores=True)
            case "stream":
                return client.xrange(key), client.xinfo_stream(key)["last-generated-id"]
            case _:
                return client.get(key), client.ttl(key) > 0

    names = sorted(library[1] for library in client.function_list())
    return {key: value(key) for key in sorted(client.keys())}, names


@pytest.mark.parametrize("is_rewritten", [False, True], ids=["as written", "rewritten"])
@pytest.mark.parametrize(("first", "second"), [("redis", "valkey"), ("valkey", "redis")])
def test_each_reads_the_others_files(
    first: str, second: str, is_rewritten: bool, short_tmp: Path, have: Callable[..., None]
) -> None:
    """Whatever server is there today, it finds what the one of yesterday has kept, and the one of tomorrow finds both."""
    server = EmbeddedServer(short_tmp / "state")
    have(first)
    with server, records(server.url) as client:
        _fill(client, "one")
        if is_rewritten:
            client.bgrewriteaof()
            wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
            wait_until(lambda: "seq 2 type b" in (server.directory / "appendonlydir/appendonly.aof.manifest").read_text())
            _fill(client, "two")
        content = _content(client)
    assert files_in(server.directory).magic == ""
    have(second)
    with server, records(server.url) as client:
        assert server.program.startswith(f"{second}-server ")
        assert _content(client) == content
        client.set("later", "1")
        content = _content(client)
    have(first)
    with server, records(server.url) as client:
        assert _content(client) == content


def test_snapshot_of_an_earlier_version_is_written_anew(short_tmp: Path, have: Callable[..., None]) -> None:
    """Data with Valkey's own snapshot is given to Valkey, whatever stands first on PATH, and can be read by Redis afterwards."""
    earlier = EmbeddedServer(short_tmp / "state", settings={"aof-use-rdb-preamble": "yes"})
    have("valkey")
    with earlier, records(earlier.url) as client:
        _fill(client, "one")
        content = _content(client)
    (earlier.directory / "broker.server").unlink()
    assert files_in(earlier.directory).magic == "VALKEY"
    have("redis")
    server = EmbeddedServer(short_tmp / "state")
    before = {path: path.read_bytes() for path in (server.directory / "appendonlydir").iterdir()}
    with pytest.raises(
        FilesOfAnotherServer, match=r"valkey-server from version 9 on \(format VALKEY080\).*redis-server 7"
    ) as caught:
        server.start()
    assert "pip install 'dyrygentd[embedded]'" in caught.value.next_step
    assert "check-aof" not in f"{caught.value} {caught.value.next_step}"
    assert {path: path.read_bytes() for path in (server.directory / "appendonlydir").iterdir()} == before
    have("redis", "valkey")
    with server, records(server.url) as client:
        assert server.program.startswith("valkey-server ")
        assert _content(client) == content
        wait_until(lambda: files_in(server.directory).magic == "")
    have("redis")
    with server, records(server.url) as client:
        assert server.program.startswith("redis-server ")
        assert _content(client) == content


def test_server_stays_while_it_is_there(short_tmp: Path, have: Callable[..., None]) -> None:
    """A second server that is installed later does not take over by itself."""
    have("valkey")
    with EmbeddedServer(short_tmp / "state") as server:
        pass
    have("redis", "valkey")
    assert find_server(server.directory).name == "valkey-server"
    assert find_server().name == "redis-server"


def test_damaged_file_is_copied_first(short_tmp: Path) -> None:
    """A server's advice to cut its file is never the only one: the copy comes first."""
    with EmbeddedServer(short_tmp / "state") as server, records(server.url) as client:
        client.rpush("list", *range(100))
    log = next((server.directory / "appendonlydir").glob("*.incr.aof"))
    log.write_bytes(re.sub(rb"RPUSH", b"\xff\xff\xff\xff\xff", log.read_bytes(), flags=re.IGNORECASE))
    with pytest.raises(ServerNotStarted, match="its log ends with") as caught:
        server.start()
    assert caught.value.next_step.startswith(f"copy '{server.directory}' before anything else")
    assert "move 'appendonlydir' away" in caught.value.next_step


def test_long_log_is_put_aside(short_tmp: Path) -> None:
    """A server that is started again and again does not fill the disk with what it says."""
    log = short_tmp / "broker.log"
    log.write_text("x" * 1_000_001)
    with EmbeddedServer(short_tmp):
        pass
    assert log.stat().st_size < 100_000
    assert (short_tmp / "broker.log.1").stat().st_size == 1_000_001
