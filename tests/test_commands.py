"""What is told to be pasted means the nodes that it names, whatever they are called."""

import shlex

from dyrygentd.commands import command_on
from dyrygentd.ports.facts import Inspection, TaskFacts
from dyrygentd.scheduler.whereabouts import whereabouts_of


def test_names_are_no_options() -> None:
    """A node may be called like an option, and is meant as a node."""
    assert command_on("retry", "w", ["a", "b c"], force=True) == "dyrygentctl retry w a 'b c' --force"
    assert command_on("release", "w", ["g", "--yes"]) == "dyrygentctl release w -- g --yes"
    assert command_on("retry", "w", ["--all"], force=True) == "dyrygentctl retry w --force -- --all"


def test_skip_names_the_same_node() -> None:
    """The command that goes on without a task is made of the one that starts it again."""
    for name in ("a", "--all", "x --force -- y", "-x --force -- y"):
        facts = TaskFacts("t", worker="w1", worker_state="scheduled", stored_state="RETRY")
        retry = command_on("retry", "w", [name], force=True)
        found = whereabouts_of(Inspection(tasks={"t": facts}), "t", now=0.0, retry_command=retry)
        words = shlex.split(found.next_step.split("`")[1])
        assert "--force" not in words[:3]
        assert (words[:3], words[-1]) == (["dyrygentctl", "skip", "w"], name)
        assert ("--" in words) == name.startswith("-")
