"""A server whose certificate is looked at: the right one, and each wrong one with what to do about it."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from dyrygentd.errors import StoreUnavailable
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.store.records import node, workflow
from tests.support.postgres import PostgresServer
from tests.support.servers import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.long]

#: ``{name: (who signs it, whose name it has, for how many days)}``
_CERTIFICATES: Final = {
    "good": ("ours", "localhost", "2"),
    "elsewhere": ("ours", "db.example", "2"),
    "over": ("ours", "localhost", "0"),
    "foreign": ("theirs", "localhost", "2"),
}


@dataclass(frozen=True)
class _Tls:
    server: PostgresServer
    directory: Path

    def url(self, *, trusted: str = "ours", mode: str = "verify-full") -> PostgresUrl:
        """Return the URL of who trusts the authority of this name alone."""
        options = f"sslmode={mode}&sslrootcert={self.directory}/{trusted}.crt"
        return PostgresUrl.read(f"postgresql://postgres@localhost:{self.server.port}/postgres?{options}")

    def show(self, name: str) -> None:
        """Have the server show this certificate from now on."""
        for setting, kind in (("ssl_cert_file", "crt"), ("ssl_key_file", "key")):
            self.set(setting, f"{self.directory}/{name}.{kind}")

    def set(self, setting: str, value: str) -> None:
        """Have the server have this setting from now on."""
        self.server.execute(f"ALTER SYSTEM SET {setting} = '{value}'")
        self.server.execute("SELECT pg_reload_conf()")
        wait_until(lambda: self.server.execute(f"SHOW {setting}") == [(value,)])

    def let_in(self, *rules: str) -> None:
        """Have these rules instead of what the server has in its pg_hba.conf."""
        ((path,),) = self.server.execute("SHOW hba_file")
        Path(path).write_text("\n".join(["local all all trust", *rules, ""]))
        self.server.execute("SELECT pg_reload_conf()")
        wait_until(lambda: len(self.server.execute("SELECT 1 FROM pg_hba_file_rules")) == len(rules) + 1)


@pytest.fixture
def tls(postgres_server: PostgresServer, short_tmp: Path) -> _Tls:
    """A server, and certificates of two authorities."""
    if shutil.which("openssl") is None:
        pytest.skip("NOT RUN: no openssl on PATH to make certificates with")
    directory = short_tmp / "tls"
    directory.mkdir()
    for name in ("ours", "theirs"):
        _run("req", "-x509", *_NEW, "-days", "2", "-subj", f"/CN={name}", *_out(directory, name))
    for name, (authority, host, days) in _CERTIFICATES.items():
        _run("req", *_NEW, "-subj", f"/CN={host}", "-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.csr")
        (directory / "names").write_text(f"subjectAltName=DNS:{host}")
        signed_by = ["-CA", f"{directory}/{authority}.crt", "-CAkey", f"{directory}/{authority}.key", "-CAcreateserial"]
        asked = ["-in", f"{directory}/{name}.csr", "-extfile", f"{directory}/names", "-days", days]
        _run("x509", "-req", *asked, *signed_by, "-out", f"{directory}/{name}.crt")
        if os.geteuid() == 0:
            # The server runs as somebody else, and takes no key that others may read.
            shutil.chown(directory / f"{name}.key", "nobody")
    tls = _Tls(postgres_server, directory)
    tls.show("good")
    tls.set("ssl", "on")
    return tls


_NEW: Final = ("-newkey", "rsa:2048", "-nodes")


def _out(directory: Path, name: str) -> list[str]:
    return ["-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.crt"]


def _run(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


async def _refused(url: PostgresUrl) -> StoreUnavailable:
    """Return why a store cannot be opened."""
    store = PostgresStore(url)
    with pytest.raises(StoreUnavailable) as refused:
        await store.open()
    return refused.value


async def test_certificates(tls: _Tls) -> None:
    """The right server is let in by its certificate; each other one is refused in words, with the step, and gets no row."""
    store = PostgresStore(tls.url())
    await store.open()
    await store.save([workflow("w")], [])
    assert tls.server.execute("SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_port > 0") == [
        (True,)
    ]
    await store.close()
    for name, words, step in (
        ("elsewhere", 'does not match host name "localhost"', "name the server in the URL as its certificate does"),
        ("over", "certificate verify failed", "the certificate must not be over: `openssl s_client -starttls postgres"),
        ("foreign", "certificate verify failed", "`sslrootcert=`"),
    ):
        tls.show(name)
        refused = await _refused(tls.url())
        assert words in refused.message
        assert step in refused.next_step
    tls.show("good")
    assert "certificate verify failed" in (await _refused(tls.url(trusted="theirs"))).message
    missing = await _refused(tls.url(trusted="none"))
    assert "none.crt" in missing.message
    assert "whoever signed the server's certificate" in missing.next_step


async def test_certificate_that_ends_meanwhile(tls: _Tls) -> None:
    """What is connected goes on; a connection that has to be made anew is weather until somebody has renewed the certificate."""
    store = PostgresStore(tls.url())
    await store.open()
    await store.save([workflow("w")], [])
    tls.show("over")
    await store.save([], [node("w", 0)])
    tls.server.cut("postgres")
    for words in ("has been closed unexpectedly", "certificate verify failed", "certificate verify failed"):
        with pytest.raises(StoreUnavailable, match=words):
            await store.save([], [node("w", 1)])
    tls.show("good")
    await store.save([], [node("w", 1)])
    loaded = await store.load("w")
    assert loaded is not None
    assert sorted(row.node for row in loaded.nodes) == [0, 1]
    await store.close()


async def test_who_wants_tls_and_who_does_not(tls: _Tls) -> None:
    """A server without TLS and a client without it are told apart, each with its step."""
    tls.let_in("hostssl all all 127.0.0.1/32 trust", "hostssl all all ::1/128 trust")
    refused = await _refused(tls.url(mode="disable"))
    # Before version 14 it says "SSL off".
    assert re.search("no encryption|SSL off", refused.message)
    assert "sslmode=verify-full" in refused.next_step
    tls.set("ssl", "off")
    refused = await _refused(tls.url())
    assert "does not support SSL" in refused.message
    assert "`ssl = on` at the server" in refused.next_step
