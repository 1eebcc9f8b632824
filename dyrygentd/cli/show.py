"""`dyrygentctl show`: look without touching."""

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from dyrygentd.cli import attempts, render
from dyrygentd.cli.explain import last_entry, show_causes, show_tried_again
from dyrygentd.cli.names import hinting
from dyrygentd.cli.sections import nodes_in
from dyrygentd.cli.session import Session, command, echo_json, say, say_health
from dyrygentd.cli.times import moment
from dyrygentd.core.states import NodeState

if TYPE_CHECKING:
    from dyrygentd import wire

_NODES_SHOWN = 10
_FAILED_SHOWN = 5
_BLOCKED_SHOWN = 2
_FAILED_IN_JSON = 20
_CAUSES_SHOWN = 3
_ALL = 1_000_000
_UNDER_WAY = ("held", "retrying", "dispatching", "dispatched")


def node_states(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Read states of nodes, repeated or separated by commas."""
    known = [state.word for state in NodeState]
    words = tuple(word for text in values for word in text.split(",") if word)
    for word in words:
        if word not in known:
            raise click.BadParameter(f"'{word}' is no state of a node, these are: {', '.join(known)}")
    return words


@click.command()
@click.argument("reference", metavar="REF")
@click.argument("node", metavar="[NODE]", required=False)
@click.option("--nodes", "is_all", is_flag=True, help="Show all nodes.")
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="STATE",
    callback=node_states,
    help="Show the nodes in this state; may be repeated.",
)
@click.option("--section", metavar="PATH", help="Show the nodes in this section, or in a box as `graph` calls it.")
@click.option("--node", "name", metavar="NAME", help="Show one node, as NODE does.")
@click.option("--causes", "is_causes", is_flag=True, help="Show all failures by cause.")
@command
def show(
    session: Session,
    reference: str,
    node: str | None,
    is_all: bool,
    states: tuple[str, ...],
    section: str | None,
    name: str | None,
    is_causes: bool,
) -> None:
    """Show a workflow, or one NODE of it: how it stands, what went wrong, and how to go on.

    --json prints one object: `workflow`, `nodes` (those that were asked for, else up to 20 that failed), `causes` of failures,
    `tried_again`, `estimate` of how long it goes on (null if it has finished), `problems` and `notices` of the daemon.

    \b
    Example: dyrygentctl show @latest --state failed,held
    Example: dyrygentctl show @latest --section drain
    """
    if None not in (node, name) and node != name:
        raise click.UsageError(f"two nodes are named, '{node}' and '{name}': give one of them")
    name = node if name is None else name
    if bool(is_all or states or section) + (name is not None) + is_causes > 1:
        raise click.UsageError(
            "NODE or --node, --causes, and --nodes, --section or --state are views of their own: give one of them"
        )
    if name is not None:
        _show_node(session, reference, name)
    elif is_causes:
        _show_all_causes(session, reference)
    else:
        _show_workflow(session, reference, states, section or "", is_listing=bool(is_all or states or section))


def _show_node(session: Session, reference: str, name: str) -> None:
    handle = session.handle(reference)
    with hinting(handle):
        node = handle.node(name)
    if session.is_json:
        echo_json(node)
    else:
        click.echo(_node(node, handle.id))
        for line in attempts.lines(node.attempts, node.attempts_left_out):
            click.echo(f"\n{line}")


def _show_all_causes(session: Session, reference: str) -> None:
    handle = session.handle(reference)
    causes = handle.causes()
    if session.is_json:
        echo_json(causes)
    else:
        show_causes(handle.id, causes, most=_ALL, with_nodes=True)
        show_tried_again(handle.id, causes, most=_ALL)


def _show_workflow(session: Session, reference: str, states: tuple[str, ...], section: str, *, is_listing: bool) -> None:
    summary = session.summary(reference, limit=_FAILED_IN_JSON)
    view = summary.workflow
    nodes: Iterable[wire.NodeView] = summary.failed
    if is_listing:
        handle = session.client().handle(view)
        nodes = nodes_in(handle, states, section) if section else handle.nodes(states=states)
    if session.is_json:
        failures = summary.causes.causes if view.counts.get("failed") or view.state == "failed" else []
        told = {"tried_again": summary.causes.tried_again, "problems": summary.problems, "notices": summary.notices}
        echo_json({"workflow": view, "nodes": list(nodes), "causes": failures, "estimate": summary.estimate, **told})
        return
    if not view.is_finished:
        say_health(summary)
    click.echo(_workflow(summary))
    if is_listing:
        click.echo("\n" + render.node_rows(nodes))
    else:
        _show_failed(summary)
        show_tried_again(view.id, summary.causes, most=_CAUSES_SHOWN)
        if not view.is_finished:
            _show_under_way(summary)
        _show_end(view)
        if sys.stdout.isatty():
            say(f"next: {next_command(view)}")


def _workflow(summary: "wire.Summary") -> str:
    view, decided = summary.workflow, summary.decided
    labels = " ".join(f"{name}={value}" for name, value in view.labels.items())
    by = last_entry([decided], decided.verb) if decided else ""
    is_scheduled, left_s = view.state == "scheduled", render.left_s(view)
    left = "" if left_s is None else f"about {render.duration(left_s)}, if it goes on as it has"
    if summary.estimate is not None:
        left = render.inline(summary.estimate.words.replace(" left, bounded by", ", bounded by", 1))
    return render.fields(
        {
            "id": view.id,
            "name": render.visible(view.name),
            "state": f"{render.state(view.state)}  {by}".rstrip(),
            "tasks": f"{render.progress(view)}  ({render.counts(view.counts)})",
            "below": _below(view),
            "waits": ", ".join(render.waits(view.waits_for_person)),
            "failing": f"{render.number(view.keeps_failing, 'node')} again and again" if view.keeps_failing else "",
            "priority": view.priority or "",
            "created": moment(view.created_at),
            "starts" if is_scheduled else "started": after_run(view) or moment(view.start_at),
            "deadline": moment(view.deadline_at),
            "finished": moment(view.finished_at),
            "took" if view.is_finished else "running for": "" if is_scheduled else render.took(view),
            "left": left,
            "key": render.visible(view.key or ""),
            "series": _series(view),
            "owner": view.owner_name or render.user(view.owner),
            "labels": render.visible(labels),
            "parent": _above(view),
            "parent task": _parent(view),
            "given up": _given_up(view),
            "error": render.visible(view.error),
            "result": render.visible((view.result_text or b"").decode()),
        }
    )


def _above(view: "wire.WorkflowView") -> str:
    """Say whose child a workflow is."""
    parent = view.parent
    if parent is None:
        return ""
    root = "" if parent.root == parent.workflow else f", {parent.depth} below {parent.root}"
    return render.visible(f"node '{parent.node}' of {parent.workflow}{root}")


def _below(view: "wire.WorkflowView") -> str:
    """Say what the unfinished children of a workflow are at."""
    below = view.below
    if below is None:
        return ""
    states = ", ".join(f"{count:,} {state}" for state, count in below.states.items())
    return f"{states}: {render.progress(below)}  ({render.counts(below.counts)})"


def after_run(view: "wire.WorkflowView") -> str:
    """Say which run of its series a workflow waits for; empty if it waits for none."""
    return f"when run {view.queued_behind} of its series has ended" if view.queued_behind else ""


def _series(view: "wire.WorkflowView") -> str:
    if not view.series or view.if_running in ("", "allow"):
        return view.series
    return f"{view.series}  (if one is running: {view.if_running})"


def _parent(view: "wire.WorkflowView") -> str:
    parent = view.parent_task
    if parent is None:
        return ""
    root = "" if parent.root_id == parent.task_id else f", whose root is {parent.root_id}"
    return render.visible(f"{parent.task_id}{root}")


def _given_up(view: "wire.WorkflowView") -> str:
    if not view.may_run_on:
        return ""
    return f"{render.number(view.may_run_on, 'task')} may still run: {_how_to_ask(view.id)}"


def _how_to_ask(workflow_id: str, node: str = "") -> str:
    """Name the command that asks the workers whether a task that was given up still runs."""
    words = ["dyrygentctl", "explain", workflow_id, *([node] if node else [])]
    return f"`{render.visible(shlex.join(words))}` asks the workers"


def _show_failed(summary: "wire.Summary") -> None:
    """Show the nodes that failed, and how many wait in vain for each of them."""
    view, failed = summary.workflow, summary.failed[:_FAILED_SHOWN]
    if not failed:
        return
    click.echo("")
    show_causes(view.id, summary.causes, most=_CAUSES_SHOWN)
    click.echo("\n" + render.node_rows(failed))
    more = view.counts.get("failed", 0) - len(failed)
    if more > 0:
        say(f"and {more:,} more: `dyrygentctl show {view.id} --state failed`")
    if view.counts.get("blocked"):
        blocked = summary.blocked[:_BLOCKED_SHOWN]
        click.echo("\n" + render.node_rows(blocked))
        # A join is shown like any node, and counted as none.
        more = view.counts["blocked"] - sum(node.kind != "join" for node in blocked)
        if more > 0:
            say(f"and {more:,} more: `dyrygentctl show {view.id} --state blocked`")


def _show_under_way(summary: "wire.Summary") -> None:
    """Show what the rest waits for."""
    view, nodes = summary.workflow, summary.under_way[:_NODES_SHOWN]
    if not nodes:
        return
    click.echo("\n" + render.node_rows(nodes))
    more = sum(view.counts.get(state, 0) for state in _UNDER_WAY) - len(nodes)
    if more > 0:
        say(f"and {more:,} more: `dyrygentctl show {view.id} --state {','.join(_UNDER_WAY)}`")
    # A worker's word that it goes on tells where a task is; that it tries again by and by does not.
    if any(node.state == "dispatched" and (not node.reported or "RETRY" in node.reported) for node in nodes):
        say(f"where they are: `dyrygentctl explain {view.id}` asks the broker and the workers")


def _show_end(view: "wire.WorkflowView") -> None:
    """Say once more what it is about: on a small screen the beginning has scrolled away."""
    if any(view.counts.get(state) for state in ("failed", "blocked", *_UNDER_WAY)):
        click.echo(
            f"\n{render.inline(view.name)}: {render.state(view.state)}  {render.progress(view)}  {render.note(view)}".rstrip()
        )


def next_command(view: "wire.WorkflowView") -> str:
    """Return what one would look at now."""
    is_stuck = view.state in ("failed", "paused") or view.counts.get("failed") or view.waits_for_person or view.keeps_failing
    verb = "explain" if is_stuck else "graph" if view.is_finished else "watch"
    return render.shell("dyrygentctl", verb, view.id)


def _node(node: "wire.NodeView", workflow_id: str) -> str:
    held = render.held_by(node) or ("an operator holds it as soon as it is free" if node.is_on_hold else "")
    by, decided = render.since(node), node.decided
    paused = f"the workflow, {render.decided(decided)}" if decided is not None and decided.verb == "pause" else ""
    is_retrying = node.state == "retrying"
    return render.fields(
        {
            "node": render.visible(node.name),
            "state": render.state(node.state),
            "kind": node.kind,
            "task": render.visible(node.task or ""),
            "workflow": "" if node.child is None else render.child(node.child, with_id=True),
            "arguments": render.visible(node.arguments or ""),
            "payload": "" if node.payload is None else render.visible(json.dumps(node.payload, ensure_ascii=False)),
            "task id": render.visible(node.task_id or ""),
            "attempt": node.attempt or "",
            "next attempt": moment(node.held_until) if is_retrying else "",
            "rule": "" if node.rule == "all_succeeded" else node.rule,
            "when": render.visible(node.when or ""),
            "section": render.visible(node.section or "") + (f", at its end: {node.section_end}" if node.section_end else ""),
            "pool": render.visible(node.pool or ""),
            "after": _names(node.after),
            "held": "" if is_retrying else render.visible(f"{held} {by}".strip()),
            "paused": paused,
            "dispatched": moment(node.dispatched_at),
            "reported": render.visible(node.reported or ""),
            "finished": moment(node.finished_at),
            "blocked by": render.visible(node.blocked_by or ""),
            "error": render.visible(node.error or ""),
            "cause": render.visible(node.cause or ""),
            "late result": render.visible(node.late or ""),
            "its task": f"may still run: {_how_to_ask(workflow_id, node.name)}" if node.may_run_on else "",
            "given out again": f"{node.redelivered} x by the broker" if node.redelivered else "",
            "log": render.visible(node.attempts[-1].logs or "") if node.attempts else "",
            "skipped": "" if node.state != "skipped" else "not needed" if node.is_unneeded else "by an operator",
        }
    )


def _names(names: Sequence[str]) -> str:
    more = f", … ({len(names) - _NODES_SHOWN:,} more)" if len(names) > _NODES_SHOWN else ""
    return render.inline(", ".join(names[:_NODES_SHOWN])) + more
