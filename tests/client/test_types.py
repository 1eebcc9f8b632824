"""Programs are checked by mypy as its users run it: what is right passes, and what is misspelt is found."""

import subprocess
import sys
from pathlib import Path

import pytest

RIGHT = """
from typing import assert_type
from dyrygentd import AsyncClient, AsyncHandle, Client, Handle, NodeView, Outcome, RemoteError, WorkflowView

def nightly(canvas: object) -> str | None:
    with Client() as client:
        handle = client.submit(canvas, key="nightly")
        assert_type(handle, Handle)
        outcome = handle.outcome()
        assert_type(outcome, Outcome)
        if outcome.state == "failed":
            return outcome.error
        view: WorkflowView = client.get("@latest", with_result=True)
        nodes: list[NodeView] = [node for node in handle.nodes() if node.state == "blocked" or node.kind == "gate"]
        print(view.result["total"], nodes[0].to_dict()["name"])
        return None

async def view_of(client: AsyncClient, canvas: object) -> dict[str, object]:
    try:
        handle = await client.submit(canvas)
    except RemoteError as error:
        return {"error": error.code}
    assert_type(handle, AsyncHandle)
    return (await handle.status()).to_dict()
"""
WRONG = """
from dyrygentd import Client
def f(client: Client) -> None:
    client.submit(object(), keey="nightly")
    if client.get("@latest").state == "suceeded":
        print("never")
    if client.handle("@latest").node("a").state == "error":
        print("never")
"""


@pytest.mark.long
def test_programs_under_mypy(tmp_path: Path) -> None:
    """The states are words that a type checker knows, and no method gives a type that it does not."""
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line.split(": error:")[0] for line in found] == ["wrong.py:4", "wrong.py:5", "wrong.py:7"], done.stdout + done.stderr
