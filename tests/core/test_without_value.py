"""By which words it is known that a task has done its work, and its value was not taken."""

import pytest

from dyrygentd.core.without_value import WITHOUT_VALUE, is_without_value
from tests.support.conversation import Conversation


@pytest.mark.parametrize(
    "error",
    [
        f"{WITHOUT_VALUE}: it is Money",
        f"{WITHOUT_VALUE}: its stored result has 40000000 bytes, too many to be read, the limit of a value is 16777216",
        "the stored result cannot be decoded: no pickle",
        "EncodeError: TypeError('Object of type set is not JSON serializable')",
    ],
)
def test_work_is_done(error: str) -> None:
    """Another attempt would do it once more, for nothing."""
    assert is_without_value(error)


def test_too_large_a_value() -> None:
    """The words are those of the workflow itself."""
    conversation = Conversation()
    conversation.submit("a; b < a")
    workflow = conversation.workflow()
    assert is_without_value(workflow.values.too_much(b"1" * 17_000_000))


@pytest.mark.parametrize("error", ["", "boom", "ValueError: the value has no bytes", "ValueError: EncodeError: x"])
def test_work_is_not_done(error: str) -> None:
    """An ordinary failure is tried again."""
    assert not is_without_value(error)
