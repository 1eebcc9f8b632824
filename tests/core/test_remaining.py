"""What is left of a workflow is copied in one go, so that it does not change under whoever reads it."""

from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.remaining import Plan, Remaining, remaining_of
from dyrygentd.core.states import NodeState
from tests.support.conversation import parse_graph
from tests.support.simulated_run import SimulatedRun


def taken(run: SimulatedRun) -> Remaining:
    workflow = run.workflow
    assert workflow is not None
    engine = run.engine
    return remaining_of(
        workflow,
        counting=engine.counting,
        pools=engine.pools,
        in_flight=engine.flights.in_flight_count,
        in_flight_max=engine.limits.in_flight_max,
        now=run.now,
    )


def test_what_depends_on_the_graph_alone() -> None:
    """It is read once: policies, times, gates, and the pools that have a size."""
    graph = parse_graph(
        "a countdown=5; b eta=2000; s < a sleep=7; g < s gate=1; p pool=x; q pool=none; r retry=3; l poll=9; h hook=failure"
    )
    plan = Plan(graph, {"x": 2}.get)
    number = {name: node for node, name in enumerate(graph.names)}
    assert plan.sleeps == {number["a"]: 5.0, number["s"]: 7.0}
    assert plan.named_times == {number["b"]: 2000.0}
    assert (plan.gates, plan.unlikely) == ({number["g"]}, {number["h"]})
    assert (plan.pools, plan.places) == ({number["p"]: "x"}, {"x": 2})
    assert (plan.polls, [*plan.retries]) == ({number["l"]: 9.0}, [number["r"]])
    assert [plan.task_of[number[name]] for name in "sg"] == [-1, -1]


def test_what_is_taken_does_not_change() -> None:
    """A thread goes over it while turns go on."""
    run = SimulatedRun(lambda _: 10.0, workers=1)
    workflow = run.run_until(parse_graph("a; b; c < a"), 1)
    before = taken(run)
    workflow.nodes.place(1, NodeState.FAILED)
    assert before.open_nodes() == [1, 2]
    assert before.states[1] == NodeState.DISPATCHED
    assert taken(run).open_nodes() == [2]


def test_who_runs_and_who_is_in_the_queue() -> None:
    """As far as the line tells; what was in flight before this process began has been running since it was sent."""
    run = SimulatedRun(lambda _: 10.0, workers=1)
    run.run_until(parse_graph("; ".join(f"n{number}" for number in range(6))), 1)
    begun = taken(run).begun_at
    assert [at > 0 for at in begun.values()] == [True, False, False, False, False]
    assert run.workflow is not None
    run.workflow.attempts.in_line.clear()
    assert set(taken(run).begun_at.values()) == {run.workflow.attempts.dispatched_at[1]}
    run.workflow.attempts.begun_at[3] = run.now
    assert taken(run).begun_at[3] == run.now


def test_limits_are_the_lower_ones() -> None:
    """The workflow's own, or what others leave of that of all."""
    run = SimulatedRun(lambda _: 10.0, workers=1)
    run.submit(parse_graph("a; b"), policy=WorkflowPolicy(in_flight_max=1))
    assert (taken(run).in_flight_max, taken(run).limit) == (1, "the workflow's `in_flight_max`")
    run.submit(parse_graph("c", "x"), "x")
    assert (taken(run).in_flight_max, taken(run).limit) == (1999, "`in_flight_max`")


def test_queues_that_are_full_tell_how_many_run() -> None:
    """Where all of a workflow's queues are known; and a queue with a limit is a pool."""
    run = SimulatedRun(lambda _: 10.0, workers=2, queue_limits={"q": 5})
    for _ in run.run(parse_graph("; ".join(f"n{number}" for number in range(30)))):
        pass
    run.submit(parse_graph("n0; n1", "x"), "x")
    found = taken(run)
    assert found.queues == {"tasks.n0": ("queue:q", 5), "tasks.n1": ("queue:q", 5)}
    assert found.slots >= 1.0
    assert found.used == {"queue:q": 2}
