"""A task that has done its work, and whose value nobody can be given: what is advised is not to run it again."""

from dyrygentd.cli.explain import _steps
from dyrygentd.core.events import TaskSucceeded
from dyrygentd.core.standing import standing_of_node
from tests.support.conversation import Conversation


def test_skip_with_a_value_comes_before_retry() -> None:
    """A new attempt would do the work twice and end in the same way; the value itself can be handed on by hand."""
    conversation = Conversation()
    conversation.submit("price; pay < price; other")
    conversation.turn(TaskSucceeded("w/price", None, "it is Money"))
    workflow = conversation.workflow()
    standing = standing_of_node(conversation.engine, workflow, 0, conversation.now)
    assert standing.next_step.startswith("`skip price --value null` goes on without it")
    assert list(_steps("w", "price", standing.next_step, ["price"])) == [
        "dyrygentctl skip w --value null price",
        "dyrygentctl retry w price",
    ]
