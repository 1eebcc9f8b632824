"""Large values in an object store, as a server of its interface answers: what comes back, and what an outage is."""

from collections.abc import Iterator
from typing import Any

import pytest

from dyrygentd.errors import StoreUnavailable
from dyrygentd.store.remote_values import RemoteItemFiles, RemoteValues

_moto = pytest.importorskip("moto.server", reason="NOT RUN: there is no moto; `pip install 'moto[server]' s3fs`")
pytest.importorskip("s3fs", reason="NOT RUN: there is no s3fs; `pip install 'moto[server]' s3fs`")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server with a bucket; who asks is told where by the environment, as on a host."""
    import boto3

    server = _moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert host
    boto3.client("s3").create_bucket(Bucket="flows")
    yield server
    server.stop()


def test_a_bucket(server: Any) -> None:
    """A value of several megabytes is written, found, read and deleted; one that is not there is no outage, and an outage is."""
    values = RemoteValues("s3://flows/values")
    assert repr(values) == "<RemoteValues 's3://flows/values'>"
    assert list(values.find("db")) == []
    values.write("db/w/a", b"x" * 6_000_000)
    assert len(values.read("db/w/a")) == 6_000_000
    assert list(values.find("db")) == [("db/w/a", 6_000_000)]
    with pytest.raises(KeyError):
        values.read("db/w/b")
    for _ in range(2):
        values.delete(["db/w/a"])
    assert list(values.find("db")) == []
    values.write("new/a.jsonl", b"1\n2\n")
    with RemoteItemFiles("s3://flows/values").open("new/a.jsonl") as file:
        assert file.readline(100) == b"1\n"
    server.stop()
    with pytest.raises(StoreUnavailable, match="values cannot be written at 's3://flows/values': Could not connect"):
        values.write("db/w/a", b"1")
