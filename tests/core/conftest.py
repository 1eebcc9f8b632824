"""The conversation fixture, and the option that rewrites the expected part of scenario files."""

from collections.abc import Iterator

import pytest

from tests.support.conversation import Conversation


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-scenarios", action="store_true", help="write what happened into tests/scenarios/*.txt")


@pytest.fixture
def conversation() -> Iterator[Conversation]:
    """A conversation with an engine; all invariants are checked once more at its end."""
    conversation = Conversation()
    yield conversation
    conversation.check()
