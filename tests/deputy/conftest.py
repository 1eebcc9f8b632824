"""The loop that deputies run on."""

import pytest


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The standard library's loop."""
    return "asyncio", {"use_uvloop": False}
