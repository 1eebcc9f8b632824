"""Talk to a real engine: events in, batches out, a store in memory, and every invariant checked after each step.

Graphs are written in a small notation, one node a line or separated by ``;``::

    a                   a task that takes the value of what precedes it
    b! < a              an immutable one, after a
    &j < a b            a join of a and b
    c < j countdown=5   held for 5 s once it is free; also eta=UNIX_SECONDS, expires=UNIX_SECONDS and id=TASK_ID
    g < c gate=1        waits for a release; also sleep=SECONDS, poll=SECONDS, timeout=SECONDS, retry=ATTEMPTS, rule=RULE,
                        pool=NAME, section=PATH, on_lost=WHAT, redeliveries=TIMES, hook=WHEN, end=WHEN (of its section), when=JSON
                        (without blanks), hands_on=WHAT; with a retry backoff=, backoff_max=, jitter= and on=WHICH,WHICH;
                        at_least=NUMBER of a map's join
    k < c child=1       done by a workflow of its own; child=input gives it the value of c, child=abandon leaves it to itself

Task ids are ``workflow/node`` unless ``id=`` says otherwise.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dyrygentd.core import checkpoint
from dyrygentd.core.children import parent_of
from dyrygentd.core.conditions import When, when_of
from dyrygentd.core.effects import Answer, Batch
from dyrygentd.core.engine import Engine
from dyrygentd.core.events import Event, TaskSucceeded, VerbRequested, WorkflowRecovered, WorkflowSubmitted
from dyrygentd.core.graph import Graph
from dyrygentd.core.invariants import check_engine
from dyrygentd.core.limits import Limits
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.parent import Parent
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.policy import (
    PLAIN,
    PLAIN_WORKFLOW,
    Child,
    HandsOn,
    Hook,
    NodePolicy,
    OnClose,
    OnLost,
    Retry,
    Rule,
    SectionEnd,
    WorkflowPolicy,
)
from dyrygentd.core.pools import Pools
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.series import series_of
from dyrygentd.core.states import NodeState
from dyrygentd.core.user import User
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow

#: The clock begins above zero, because a time of 0 means "never".
START = 1000.0


def parse_graph(
    text: str,
    workflow_id: str = "w",
    *,
    output: str | None = None,
    item_nodes: int = 0,
    whens: Mapping[str, When] | None = None,
) -> Graph:
    """Build a graph from the notation above."""
    lines = (line.strip() for line in re.split(r"[;\n]", text))
    specs = [_parse_node(line, workflow_id) for line in lines if line]
    return Graph.build(specs, output=output, item_nodes=item_nodes, whens=whens)


def _parse_node(line: str, workflow_id: str) -> NodeSpec:
    head, _, rest = line.partition("<")
    words = [*head.split()[1:], *rest.split()]
    name = head.split()[0]
    after = [word for word in words if "=" not in word]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    policy = _parse_policy(options)
    section = options.get("section", "")
    if name.startswith("&"):
        return NodeSpec(name[1:], None, "", after, policy, section)
    if policy.is_taskless_step:
        return NodeSpec(name, None, "", after, policy, section)
    signature = Signature(
        f"tasks.{name.rstrip('!')}",
        immutable=name.endswith("!"),
        countdown_s=float(options.get("countdown", 0)),
        eta_at=float(options.get("eta", 0)),
        expires_at=float(options.get("expires", 0)),
    )
    name = name.rstrip("!")
    return NodeSpec(name, signature, options.get("id", f"{workflow_id}/{name}"), after, policy, section)


def _parse_policy(options: dict[str, str]) -> NodePolicy:
    policy = NodePolicy(
        rule=Rule(options.get("rule", Rule.ALL_SUCCEEDED)),
        pool=options.get("pool", ""),
        retry=_parse_retry(options) if "retry" in options else None,
        timeout_s=float(options.get("timeout", 0)),
        on_lost=OnLost(options["on_lost"]) if "on_lost" in options else None,
        is_gate="gate" in options,
        sleep_s=float(options.get("sleep", 0)),
        poll_every_s=float(options.get("poll", 0)),
        poll_timeout_s=float(options.get("poll_timeout", 0)),
        redeliveries_max=int(options["redeliveries"]) if "redeliveries" in options else None,
        hook=Hook(options["hook"]) if "hook" in options else None,
        expands="expands" in options,
        child=_parse_child(options["child"]) if "child" in options else None,
        succeeded_min=int(options["at_least"]) if "at_least" in options else None,
        section_end=SectionEnd(options["end"]) if "end" in options else None,
        when=when_of(json.loads(options["when"])) if "when" in options else None,
        hands_on=HandsOn(options.get("hands_on", HandsOn.ALL)),
    )
    return PLAIN if policy == PLAIN else policy


def _parse_child(words: str) -> Child:
    on_close = OnClose.ABANDON if "abandon" in words else OnClose.CANCEL
    return Child("workflow", b"{}", takes_input="input" in words, on_close=on_close)


def _parse_retry(options: dict[str, str]) -> Retry:
    return Retry(
        attempts=int(options["retry"]),
        backoff_s=float(options.get("backoff", 1)),
        backoff_max_s=float(options.get("backoff_max", 600)),
        jitter=float(options.get("jitter", 0)),
        on=frozenset(options.get("on", "any").split(",")),
    )


def states_of(workflow: RunningWorkflow) -> dict[str, str]:
    """Return ``{node name: state word}``."""
    return {name: workflow.state_of(node).word for node, name in enumerate(workflow.graph.names)}


def cancel(workflow_id: str) -> VerbRequested:
    """Return the event of a cancel that nobody waits for."""
    return VerbRequested(workflow_id, VerbRequest(Verb.CANCEL))


class Conversation:
    """An engine, its clock, and a store that keeps the newest record of each row."""

    def __init__(self, limits: Limits | None = None, *, pools: dict[str, int] | None = None) -> None:
        self.pools = pools or {}
        self.chance = 0.0
        self.restart(limits or Limits())
        self.now = START
        self.policies: dict[str, WorkflowPolicy] = {}
        self.journal: list[JournalEntry] = []
        self.graphs: dict[str, Graph] = {}
        self.workflows: dict[str, WorkflowRecord] = {}
        self.nodes: dict[tuple[str, int], NodeRecord] = {}

    def restart(self, limits: Limits) -> None:
        """Begin with an engine that knows nothing."""
        self.limits = limits
        self.engine = Engine(limits, pools=Pools(self.pools), chance=lambda: self.chance)

    def check(self) -> None:
        """Check every invariant of the engine."""
        check_engine(self.engine)

    def submission(
        self,
        graph: Graph | str,
        workflow_id: str = "w",
        *,
        output: str | None = None,
        policy: WorkflowPolicy = PLAIN_WORKFLOW,
        adopted: Mapping[int, NodeState] | None = None,
        parent_task: ParentTask | None = None,
        parent: Parent | None = None,
        series: str = "",
        if_running: str = "allow",
        owner: int | None = None,
        key: str | None = None,
    ) -> WorkflowSubmitted:
        """Return the event of a submission."""
        if isinstance(graph, str):
            graph = parse_graph(graph, workflow_id, output=output)
        self.graphs[workflow_id], self.policies[workflow_id] = graph, policy
        return WorkflowSubmitted(
            workflow_id,
            f"name of {workflow_id}",
            graph,
            b"document",
            policy=policy,
            adopted=adopted or {},
            parent_task=parent_task,
            parent=parent,
            series=series_of(series or None, if_running if series else None),
            owner=User.of(owner),
            key=key,
        )

    def tell(self, *events: Event) -> None:
        """Let events happen without ending the turn."""
        # Checking costs a look at each node: of very many events not after each.
        every = 1 + len(events) // 20
        for number, event in enumerate(events, start=1):
            self.engine.handle(event, self.now)
            if number % every == 0 or number == len(events):
                self.check()

    def take(self) -> Batch:
        """End the turn and return its batch, which is not saved."""
        batch = self.engine.take_batch(self.now)
        self.check()
        return batch

    def turn(self, *events: Event, after_s: float = 0.0) -> Batch:
        """Let time pass and events happen, end the turn, and save its batch."""
        self.now += after_s
        self.tell(*events)
        batch = self.take()
        self.save(batch)
        return batch

    def submit(self, graph: Graph | str, workflow_id: str = "w", **options: Any) -> Batch:
        """Submit a workflow in a turn of its own; the options are those of `submission`."""
        return self.turn(self.submission(graph, workflow_id, **options))

    def begin(self, graph: Graph | str, node: int = 0, workflow_id: str = "w", **options: Any) -> str:
        """Begin the child that a node waits for in a turn of its own, as the shell does, and return its id."""
        parent = parent_of(self.engine.workflows[workflow_id], node)
        self.submit(graph, parent.child_id, parent=parent, **options)
        return parent.child_id

    def ask(self, verb: str, *nodes: str, workflow_id: str = "w", **options: Any) -> Answer:
        """Request a verb in a turn of its own, with the stored workflow if it has finished, and return the answer."""
        restored = self.restored(workflow_id) if workflow_id in self.workflows else None
        request = VerbRequest(Verb(verb), nodes=nodes, **options)
        (answer,) = self.turn(VerbRequested(workflow_id, request, 1, restored)).answers
        return answer

    def succeed(self, *task_ids: str, value: bytes = b"1") -> Batch:
        """Let tasks succeed in one turn, all with the same value."""
        return self.turn(*[TaskSucceeded(task_id, value) for task_id in task_ids])

    def states(self, workflow_id: str = "w") -> dict[str, str]:
        """Return ``{node name: state word}``, of a finished workflow as it was saved."""
        workflow = self.engine.workflows.get(workflow_id)
        return states_of(workflow if workflow is not None else self.restored(workflow_id))

    def workflow(self, workflow_id: str = "w") -> RunningWorkflow:
        """Return a workflow in progress."""
        return self.engine.workflows[workflow_id]

    def save(self, batch: Batch) -> None:
        """Do as the store does: one transaction, the newest record of a row wins."""
        for workflow_id, record in batch.save_workflows.items():
            self.workflows[workflow_id] = record.following(self.workflows.get(workflow_id))
        self.nodes.update(batch.save_nodes)
        self.journal += batch.journal

    def restored(self, workflow_id: str) -> RunningWorkflow:
        """Rebuild one workflow from what was saved."""
        rows = [record for (owner, _), record in self.nodes.items() if owner == workflow_id]
        return checkpoint.restore(
            self.workflows[workflow_id],
            rows,
            self.graphs[workflow_id],
            now=self.now,
            value_bytes_max=self.limits.value_bytes_max,
            policy=self.policies[workflow_id],
        )

    def crash(self) -> None:
        """Lose the engine and what it had not saved; recover the unfinished workflows from the records."""
        self.restart(self.limits)
        self.tell(*[WorkflowRecovered(self.restored(workflow_id)) for workflow_id in self.unfinished()])

    def unfinished(self) -> Iterable[str]:
        """Return the workflows that a recovery would read."""
        return [workflow_id for workflow_id, record in self.workflows.items() if not record.state.is_finished]
