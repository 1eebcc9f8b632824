"""What a key would do: on how many, what it means, and which command does the same; or why it does nothing."""

from typing import Any

from dyrygentd import wire
from dyrygentd.cli.tui import deeds
from dyrygentd.cli.tui.deeds import Chosen, Deed
from dyrygentd.cli.tui.outline import Branch


def view(**fields: Any) -> wire.WorkflowView:
    given: dict[str, Any] = {"id": "i", "name": "w", "state": "running", "created_at": 1.0, "tasks": 10, "counts": {}}
    return wire.WorkflowView(**given | fields)


def branch(path: str = "a", **fields: Any) -> Branch:
    given: dict[str, Any] = {
        "path": path,
        "title": path,
        "depth": 1,
        "is_open": False,
        "is_node": False,
        "nodes": 9,
        "states": {},
    }
    return Branch(**given | fields)


CAUSE = wire.CauseView(number=2, id="ab12", cause="E", count=30)
NODE = wire.NodeView(name="-n 1", state="held", hold="gate")
SINGLE = branch("a/n", is_node=True, title="n")


def done(found: Deed | str) -> Deed:
    assert isinstance(found, Deed), found
    return found


def test_a_cause_is_meant_by_its_id() -> None:
    """Numbers move up when another cause is retried."""
    retry, skip = done(deeds.retry(Chosen(cause=CAUSE), view())), done(deeds.skip(Chosen(cause=CAUSE)))
    assert (retry.count, retry.question) == (30, "retry all 30 nodes of cause 2?")
    assert retry.command("i") == "dyrygentctl retry i --cause ab12"
    assert skip.command("i", "why not") == "dyrygentctl skip i --cause ab12 --why 'why not'"


def test_a_node_is_meant_by_its_name() -> None:
    """Whatever stands in it."""
    assert done(deeds.retry(Chosen(branch=SINGLE), view())).nodes == ("n",)
    assert done(deeds.skip(Chosen(node=NODE))).command("i") == "dyrygentctl skip i -- '-n 1'"


def test_all_that_failed_is_meant_at_the_top() -> None:
    """How many that are, and how many wait for them, is said before."""
    whole = branch("")
    deed = done(deeds.retry(Chosen(branch=whole), view(counts={"failed": 3, "cancelled": 1, "blocked": 5})))
    assert (deed.count, deed.nodes, deed.cause) == (4, (), "")
    assert deed.means.endswith("Blocked are 5.")
    assert deeds.retry(Chosen(branch=whole), view()) == "nothing has failed or was cancelled"
    assert isinstance(deeds.skip(Chosen(branch=whole)), str)


def test_a_box_stands_for_what_has_failed_in_it() -> None:
    """Verbs take names, so these are asked for first; of very many a cause is the better way to mean them."""
    deed = done(deeds.retry(Chosen(branch=branch("b", states={"failed": 5}, failed="x")), view()))
    assert (deed.count, deed.inside, deed.states, deed.nodes) == (5, "b", ("failed",), ())
    nodes = [wire.NodeView(name=f"n{number}", state="failed") for number in range(5)]
    named = done(deeds.by_name(deed, nodes, view(), most=5))
    assert (named.question, named.states) == ("retry the 5 failures in 'b'?", ())
    assert named.command("i") == "dyrygentctl retry i n0 n1 n2 ... (2 more)"
    assert done(deeds.by_name(deed, nodes[:1], view(), most=5)).question == "retry 'n0', the only failure in 'b'?"
    assert "choose a cause" in str(deeds.by_name(deed, nodes, view(), most=4))
    assert deeds.by_name(deed, [], view(), most=4) == "nothing has failed here"
    assert "nothing has failed here" in str(deeds.retry(Chosen(branch=branch()), view()))
    assert isinstance(deeds.retry(Chosen(), view()), str)


def test_gates_are_opened_and_others_say_why_not() -> None:
    """A pool has no key, and what was lost needs a decision."""
    assert done(deeds.release(Chosen(node=NODE), view())).question == "release the gate '-n 1'?"
    held = branch(states={"held": 3}, held="g", hold="operator")
    assert "the first of 3" in done(deeds.release(Chosen(branch=held), view())).about
    for hold, words in (("pool", "pool"), ("retry", "next attempt"), ("lost", "was lost")):
        assert words in str(deeds.release(Chosen(branch=branch(states={"held": 1}, held="g", hold=hold)), view()))
    assert deeds.release(Chosen(branch=branch()), view()) == "nothing is held here"
    assert isinstance(deeds.release(Chosen(), view()), str)
    behind = done(deeds.release(Chosen(branch=branch("b", states={"held": 2}, held="g", hold="pool")), view()))
    pooled = wire.NodeView(name="p", state="held", hold="pool")
    assert done(deeds.by_name(behind, [pooled, NODE], view(), most=9)).nodes == ("-n 1",)
    assert isinstance(deeds.by_name(behind, [pooled], view(), most=9), str)
    starts = done(deeds.release(Chosen(branch=branch("")), view(state="scheduled")))
    assert (starts.nodes, starts.means) == ((), "It starts now.")


def test_the_workflow_is_paused_resumed_and_cancelled() -> None:
    """Each says how many nodes it touches."""
    counts = {"dispatched": 2, "waiting": 5, "succeeded": 3}
    assert done(deeds.pause_or_resume(view(counts=counts))).verb == "pause"
    assert done(deeds.pause_or_resume(view(counts=counts, state="paused"))).verb == "resume"
    cancel = done(deeds.cancel(view(counts=counts)))
    assert (cancel.count, "2 in flight are revoked" in cancel.means) == (7, True)
    ended = view(state="succeeded", finished_at=2.0)
    assert isinstance(deeds.cancel(ended), str)
    assert isinstance(deeds.pause_or_resume(ended), str)
