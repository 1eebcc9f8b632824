"""Plain-text conversations in ``tests/scenarios``: input, a line of dashes, and what came of it.

A block is one turn: each line is an event (or changes the clock or the limits), then the batch is taken and its effects are
written below the dashes. A block of questions alone (``states w``) takes no batch.
``pytest tests/core --rewrite-scenarios`` writes the lower parts anew, to be read in review.
"""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from dyrygentd.core.effects import Answer, Batch
from dyrygentd.core.events import (
    DrainRequested,
    Event,
    MessagePublished,
    MessageRefused,
    TaskFailed,
    TaskIgnored,
    TaskLost,
    TaskReported,
    TaskRevoked,
    TaskSucceeded,
    VerbRequested,
)
from dyrygentd.core.ids import task_id_of_attempt
from dyrygentd.core.limits import Limits
from dyrygentd.core.policy import FailureKind, OnFailure, WorkflowPolicy
from dyrygentd.core.states import NODE_STATE_OF_WORD
from dyrygentd.core.verbs import Verb, VerbRequest
from tests.support.conversation import START, Conversation, parse_graph

SCENARIOS = Path(__file__).parents[1] / "scenarios"


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    """What happens is what the file says, so a change of behaviour is seen as a change of text."""
    written = path.read_text()
    happened = play(written)
    if request.config.getoption("--rewrite-scenarios", default=False):
        path.write_text(happened)
    else:
        assert happened == written


def test_every_scenario_opens_with_its_reason() -> None:
    """A file says in its first line what it shows, because its name alone is too short for that."""
    paths = list(SCENARIOS.glob("*.txt"))
    assert len(paths) >= 10
    assert [path.name for path in paths if not path.read_text().startswith("# ")] == []


def play(text: str) -> str:
    """Play a file and return it with the outcome of this run."""
    conversation = Conversation()
    blocks = []
    for block in text.strip().split("\n\n"):
        lines = block.partition("----")[0].rstrip("\n").split("\n")
        told = [line for line in lines if not line.startswith("#")]
        outcome = _play_block(conversation, told) if told else None
        blocks.append("\n".join(lines if outcome is None else [*lines, "----", *(outcome or ["nothing"])]))
    return "\n\n".join(blocks) + "\n"


def _play_block(conversation: Conversation, lines: list[str]) -> list[str]:
    outcome: list[str] = []
    is_turn = False
    for command in re.split(r"\n(?! )", "\n".join(lines)):
        first, _, body = command.partition("\n")
        word, *arguments = shlex.split(first)
        if word == "states":
            outcome += [f"{name}: {state}" for name, state in conversation.states(*arguments).items()]
        elif word == "values":
            workflow = conversation.workflow(*arguments)
            outcome += [
                f"{workflow.graph.names[node]} = {value.content.decode()}"
                for node, value in sorted(workflow.values.by_node.items())
            ]
        elif word == "statistics":
            statistics = conversation.engine.statistics()
            outcome += [f"{name}: {count}" for name, count in sorted(statistics.counters.items()) if count]
        elif word == "crash":
            conversation.crash()
            is_turn = True
        elif word == "chance":
            conversation.chance = float(arguments[0])
        elif word == "pools":
            conversation.pools = {name: int(size) for name, size in (argument.split("=") for argument in arguments)}
            conversation.restart(conversation.limits)
        elif word == "limits":
            limits = {name: int(number) for name, number in (argument.split("=") for argument in arguments)}
            conversation.restart(Limits(**limits))
        elif word == "advance":
            conversation.now += float(arguments[0])
            is_turn = True
        elif word == "submit":
            conversation.tell(_submission(conversation, body, *arguments))
            is_turn = True
        else:
            # Later attempts are written ``w/a#2``.
            first, _, attempt = arguments[0].partition("#") if arguments else ("", "", "")
            event = _EVENTS[word](*([task_id_of_attempt(first, int(attempt))] if attempt else arguments[:1]), *arguments[1:])
            is_over = isinstance(event, VerbRequested) and event.workflow_id not in conversation.engine.workflows
            if is_over and isinstance(event, VerbRequested) and event.workflow_id in conversation.workflows:
                event = replace(event, restored=conversation.restored(event.workflow_id))
            conversation.tell(event)
            is_turn = True
    if is_turn:
        batch = conversation.take()
        conversation.save(batch)
        outcome += _described(conversation, batch)
    return outcome


def _submission(conversation: Conversation, body: str, workflow_id: str, *arguments: str) -> Event:
    """Read ``output=NODE``, the fields of a policy (``on_failure=stop``, ``start=`` and ``deadline=`` in seconds from the
    beginning) and ``adopted=NODE:STATE``."""
    options = [argument.split("=", 1) for argument in arguments]
    found = dict(options)
    policy = WorkflowPolicy(
        on_failure=OnFailure(found.get("on_failure", "continue")),
        start_at=START + float(found["start"]) if "start" in found else 0.0,
        deadline_s=float(found.get("deadline", 0)),
        priority=int(found.get("priority", 0)),
        weight=int(found.get("weight", 1)),
        in_flight_max=int(found.get("in_flight_max", 0)),
    )
    graph = parse_graph(body, workflow_id, output=found.get("output"))
    adopted = {}
    for node, _, state in (value.partition(":") for option, value in options if option == "adopted"):
        number = graph.number(node)
        assert number is not None
        adopted[number] = NODE_STATE_OF_WORD[state]
    return conversation.submission(graph, workflow_id, policy=policy, adopted=adopted)


def _succeeded(task_id: str, value: str = "null") -> Event:
    return TaskSucceeded(task_id, value.encode()) if value != "unencodable" else TaskSucceeded(task_id, None, "it is a Socket")


def _verb(verb: str, workflow_id: str, *arguments: str) -> Event:
    """Read ``NODE…`` and ``option=value``; a ticket is asked for by ``ticket=1``."""
    nodes = tuple(argument for argument in arguments if "=" not in argument)
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    request = VerbRequest(
        Verb(verb),
        by=options.get("by", ""),
        why=options.get("why", ""),
        nodes=nodes,
        cause=options.get("cause", ""),
        value=options.get("value", "null").encode(),
        priority=int(options.get("priority", 0)),
        terminate="terminate" in options,
        force="force" in options,
    )
    return VerbRequested(workflow_id, request, int(options.get("ticket", 1)))


_EVENTS: dict[str, Callable[..., Event]] = {
    "published": MessagePublished,
    "refused": MessageRefused,
    "succeeded": _succeeded,
    "failed": lambda task_id, error, exception="", kind="task": TaskFailed(task_id, error, exception, FailureKind(kind)),
    "revoked": TaskRevoked,
    "reported": TaskReported,
    "ignored": TaskIgnored,
    "lost": TaskLost,
    "expired": lambda task_id: TaskRevoked(task_id, "expired", is_expired=True),
    **{verb.value: partial(_verb, verb.value) for verb in Verb},
    "cancel": lambda workflow_id, *arguments: _verb("cancel", workflow_id, "ticket=0", *arguments),
    "drain": DrainRequested,
}


def _described(conversation: Conversation, batch: Batch) -> list[str]:
    later = {
        task_id_of_attempt(task_id, attempt): f"{task_id}#{attempt}"
        for graph in conversation.graphs.values()
        for task_id in graph.task_ids
        for attempt in range(2, 9)
    }
    lines = []
    for workflow_id, record in batch.save_workflows.items():
        document = " with its definition" if record.document is not None else ""
        result = "" if record.result is None else f" result={record.result.decode()}"
        lines.append(f"save {workflow_id}: {record.state}{document}{result}{_error(record.error)}")
    for (workflow_id, node), row in sorted(batch.save_nodes.items()):
        names = conversation.graphs[workflow_id].names
        why = f" ({row.reason})" if row.reason not in ("", "time") else ""
        held = f"{why} for {row.held_until - conversation.now:g} s" if row.held_until else why
        blame = "" if row.blocked_by is None else f" by {names[row.blocked_by]}"
        value = "" if row.value is None else f" value={row.value.decode()}"
        lines.append(f"save {workflow_id}/{names[node]}: {row.state}{held}{blame}{value}{_error(row.error)}")
    lines += [f"watch {later.get(task_id, task_id)}" for task_id in batch.watch]
    for message in batch.publish:
        name = conversation.graphs[message.workflow_id].names[message.node]
        task_id = later.get(message.task_id, message.task_id)
        shown = task_id if task_id.partition("#")[0] == f"{message.workflow_id}/{name}" else f"{name} as {task_id}"
        taken = "" if message.input is None else f" input={bytes(message.input).decode()}"
        parent = f" parent={message.parent_id}" if message.parent_id else ""
        lines.append(f"publish {shown}{taken}{parent}")
    lines += [f"unwatch {later.get(task_id, task_id)}" for task_id in batch.unwatch]
    lines += [
        f"revoke {later.get(revoke.task_id, revoke.task_id)}{' and terminate' if revoke.terminate else ''}"
        for revoke in batch.revoke
    ]
    lines += [f"revoke all of {revoke.stamp}" for revoke in batch.revoke_stamped]
    for entry in batch.journal:
        by, why = f" by {entry.by}" if entry.by else "", f" because {entry.why}" if entry.why else ""
        detail = f" ({entry.detail})" if entry.detail else ""
        if entry.by or entry.why or any(answer.ticket for answer in batch.answers):
            lines.append(f"journal {entry.workflow_id}: {entry.verb} of {entry.count} nodes{by}{why}{detail}")
    lines += [f"answer {_answer(answer)}" for answer in batch.answers]
    lines += [f"finished {workflow.workflow_id}: {workflow.state}" for workflow in batch.finished]
    deadline = conversation.engine.next_deadline()
    if deadline is not None and deadline > conversation.now:
        lines.append(f"next deadline at {deadline - START:g} s")
    return lines


def _answer(answer: Answer) -> str:
    if answer.error is not None:
        step = f"; {answer.error.next_step}" if answer.error.next_step else ""
        return f"{answer.ticket}: {answer.error.message}{step}"
    return f"{answer.ticket}: {f'changed {list(answer.nodes)}' if answer.is_changed else 'nothing to do'}"


def _error(error: str) -> str:
    return f" error={json.dumps(error)}" if error else ""
