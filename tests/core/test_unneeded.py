"""Why a node was not needed, in words: nobody should have to guess which branch was taken."""

from dyrygentd.core.events import TaskIgnored
from dyrygentd.core.unneeded import next_step_of_undecided, words_of_unneeded
from tests.support.conversation import Conversation


def test_of_a_rule_a_task_and_what_is_behind() -> None:
    """The node with which it began is named."""
    conversation = Conversation()
    conversation.submit(
        'a!; cleanup! < a rule=any_failed; after! < cleanup; last! < after; i!; j! < i; p! when={"given":1,"is":2}'
    )
    workflow = conversation.workflow()
    conversation.turn(TaskIgnored("w/i", "nothing to do"))
    conversation.succeed("w/a")
    told = {
        name: words_of_unneeded(workflow, node) for node, name in enumerate(workflow.graph.names) if node in workflow.unneeded
    }
    assert told == {
        "cleanup": ("was not needed: its rule or its task said so", "`rerun --from NODE` decides anew"),
        "after": ("was not needed, since 'cleanup' was not", "`rerun --from cleanup` decides anew"),
        "last": ("was not needed, since 'cleanup' was not", "`rerun --from cleanup` decides anew"),
        "i": ("was not needed: its task said so: nothing to do", "`rerun --from NODE` runs it again"),
        "j": ("was not needed, since 'i' was not: nothing to do", "`rerun --from i` decides anew"),
        "p": ("was not needed: `when`: 1 is 1, not 2", "submit it with other values"),
    }
    assert next_step_of_undecided(workflow, 6) == "submit it with other values, `skip NODE` goes on without it"
