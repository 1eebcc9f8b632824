"""`dyrygentctl list`, `show` and `stats`: look without touching."""

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from dyrygentd.cli import Session, command, main, pairs, render, say, say_problems
from dyrygentd.cli.explain import last_entry, show_causes
from dyrygentd.cli.names import hinting
from dyrygentd.cli.verbs import states_of

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

_NODES_SHOWN = 10
_BLOCKED_SHOWN = 5
_FAILED_IN_JSON = 20
_CAUSES_SHOWN = 5
_ALL = 1_000_000
_UNDER_WAY = ("held", "retrying", "dispatching", "dispatched")


@main.command("list")
@click.option("--state", "states", multiple=True, metavar="STATE", callback=states_of, help="Only these states; may be repeated.")
@click.option("--name", help="Only workflows with this name.")
@click.option("--label", "labels", metavar="K=V", multiple=True, callback=pairs, help="Only with this label; may be repeated.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Show so many.")
@click.option("--all", "is_all", is_flag=True, help="Show all of them.")
@command
def list_workflows(
    session: Session, states: tuple[str, ...], name: str | None, labels: dict[str, str], limit: int, is_all: bool
) -> None:
    """List workflows, newest first.

    \b
    Example: dyrygentctl list --state running,paused --label cluster=gra1
    """
    from dyrygentd import wire

    # One more than wanted, to tell whether there are more.
    wanted = None if is_all else limit + 1
    views = session.client().list(states=states, name=name, labels=labels, limit=wanted)
    shown = views if is_all else views[:limit]
    if session.is_json:
        click.echo(wire.encode(shown))
        return
    if shown:
        rows = [
            (
                view.id,
                view.name,
                view.state,
                f"{render.ended(view)}/{view.tasks}",
                render.moment(view.created_at),
                f"starts {render.moment(view.start_at)}" if view.state == "scheduled" else render.took(view),
            )
            for view in shown
        ]
        click.echo(render.table(("ID", "NAME", "STATE", "TASKS", "CREATED", "TOOK"), rows))
    else:
        say("no workflows")
    if len(views) > len(shown):
        say(f"there are more: --limit {limit * 5}, or --all")


@main.command()
@click.argument("reference", metavar="REF")
@click.option("--nodes", "is_all", is_flag=True, help="Show all nodes.")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Show the nodes in this state; may be repeated.")
@click.option("--node", "name", metavar="NAME", help="Show one node.")
@click.option("--causes", "is_causes", is_flag=True, help="Show all failures by cause.")
@command
def show(session: Session, reference: str, is_all: bool, states: tuple[str, ...], name: str | None, is_causes: bool) -> None:
    """Show a workflow: how it stands, what went wrong, and how to go on.

    \b
    Example: dyrygentctl show @latest --state failed,held
    """
    from dyrygentd import wire

    if bool(is_all or states) + (name is not None) + is_causes > 1:
        raise click.UsageError("--node, --causes, and --nodes or --state are views of their own: give one of them")
    handle = session.handle(reference)
    if name is not None:
        with hinting(handle):
            node = handle.node(name)
        click.echo(wire.encode(node) if session.is_json else _node(node, handle))
        return
    if is_causes:
        causes = handle.causes()
        if session.is_json:
            click.echo(wire.encode(causes))
        else:
            show_causes(handle.id, causes, most=_ALL, with_nodes=True)
        return
    view = handle.status(with_result=True)
    nodes: Iterable[wire.NodeView] = ()
    if is_all or states:
        nodes = handle.nodes(states=states)
    elif session.is_json:
        nodes = itertools.islice(handle.nodes(states=["failed"]), _FAILED_IN_JSON)
    if session.is_json:
        click.echo(wire.encode({"workflow": view, "nodes": list(nodes)}))
        return
    click.echo(_workflow(view, handle))
    if is_all or states:
        click.echo("\n" + render.node_rows(nodes))
    else:
        _show_failed(handle, view)
        if not view.is_finished:
            _show_in_flight(handle, view)
            say_problems(session.client().health().problems)


@main.command()
@command
def stats(session: Session) -> None:
    """Show what the daemon is doing."""
    from dyrygentd import wire

    statistics = session.client().stats()
    if session.is_json:
        click.echo(wire.encode(statistics))
        return
    click.echo(render.fields({"version": statistics.version, "uptime": render.duration(statistics.uptime_s)}))
    for part in ("engine", "store", "dispatcher", "watcher", "reports"):
        click.echo(f"\n{click.style(part, bold=True)}")
        click.echo(render.fields(_flat(getattr(statistics, part))))
    say_problems([*statistics.problems, *statistics.notices])


def _workflow(view: "wire.WorkflowView", handle: "Handle") -> str:
    labels = " ".join(f"{name}={value}" for name, value in view.labels.items())
    verb = {"paused": "pause", "cancelled": "cancel"}.get(view.state)
    by = last_entry(handle.journal(), verb) if verb else ""
    is_scheduled = view.state == "scheduled"
    return render.fields(
        {
            "id": view.id,
            "name": render.visible(view.name),
            "state": f"{render.state(view.state)}  {by}".rstrip(),
            "tasks": f"{render.ended(view)}/{view.tasks}  ({render.counts(view.counts)})",
            "priority": view.priority or "",
            "created": render.moment(view.created_at),
            "starts" if is_scheduled else "started": render.moment(view.start_at),
            "deadline": render.moment(view.deadline_at),
            "finished": render.moment(view.finished_at),
            "took" if view.is_finished else "running for": "" if is_scheduled else render.took(view),
            "key": render.visible(view.key or ""),
            "owner": render.user(view.owner),
            "labels": render.visible(labels),
            "error": render.visible(view.error),
            "result": render.visible((view.result_text or b"").decode()),
        }
    )


def _show_failed(handle: "Handle", view: "wire.WorkflowView") -> None:
    """Show the nodes that failed, and how many wait in vain for each of them."""
    # The counts know tasks only. A join fails too, if its list of values is too large.
    if not (view.state == "failed" or view.counts.get("failed") or view.counts.get("blocked")):
        return
    failed = list(itertools.islice(handle.nodes(states=["failed"]), _NODES_SHOWN))
    if not failed:
        return
    click.echo("")
    show_causes(view.id, handle.causes(), most=_CAUSES_SHOWN)
    click.echo("\n" + render.node_rows(failed))
    more = view.counts.get("failed", 0) - len(failed)
    if more > 0:
        say(f"and {more} more: `dyrygentctl show {view.id} --state failed`")
    if view.counts.get("blocked"):
        blocked = list(itertools.islice(handle.nodes(states=["blocked"]), _BLOCKED_SHOWN))
        click.echo("\n" + render.node_rows(blocked))
        if view.counts["blocked"] > len(blocked):
            say(f"and {view.counts['blocked'] - len(blocked)} more: `dyrygentctl show {view.id} --state blocked`")


def _show_in_flight(handle: "Handle", view: "wire.WorkflowView") -> None:
    """Show what the rest waits for: the tasks that have been in the broker or at a worker the longest come first."""
    nodes = list(itertools.islice(handle.nodes(states=_UNDER_WAY), _NODES_SHOWN))
    if not nodes:
        return
    click.echo("\n" + render.node_rows(sorted(nodes, key=lambda node: node.dispatched_at or 0.0)))
    more = sum(view.counts.get(state, 0) for state in _UNDER_WAY) - len(nodes)
    if more > 0:
        say(f"and {more} more: `dyrygentctl show {view.id} --state {','.join(_UNDER_WAY)}`")


def _node(node: "wire.NodeView", handle: "Handle") -> str:
    held = render.held_by(node) or ("an operator holds it as soon as it is free" if node.is_on_hold else "")
    by = last_entry(handle.journal(), "hold", node.name) if node.is_on_hold or node.hold == "operator" else ""
    is_retrying = node.state == "retrying"
    return render.fields(
        {
            "node": render.visible(node.name),
            "state": render.state(node.state),
            "kind": node.kind,
            "task": render.visible(node.task or ""),
            "arguments": render.visible(node.arguments or ""),
            "task id": render.visible(node.task_id or ""),
            "attempt": node.attempt or "",
            "next attempt": render.moment(node.held_until) if is_retrying else "",
            "rule": "" if node.rule == "all_succeeded" else node.rule,
            "pool": render.visible(node.pool or ""),
            "after": _names(node.after),
            "held": "" if is_retrying else render.visible(f"{held} {by}".strip()),
            "dispatched": render.moment(node.dispatched_at),
            "reported": render.visible(node.reported or ""),
            "finished": render.moment(node.finished_at),
            "blocked by": render.visible(node.blocked_by or ""),
            "error": render.visible(node.error or ""),
            "cause": render.visible(node.cause or ""),
            "late result": render.visible(node.late or ""),
            "skipped": "" if node.state != "skipped" else "not needed" if node.is_unneeded else "by an operator",
        }
    )


def _names(names: Sequence[str]) -> str:
    more = f", … ({len(names) - _NODES_SHOWN:,} more)" if len(names) > _NODES_SHOWN else ""
    return render.inline(", ".join(names[:_NODES_SHOWN])) + more


def _flat(part: dict[str, Any]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in part.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": each for key, each in value.items()}
        elif isinstance(value, list) and all(isinstance(each, dict) for each in value):
            # Each describes one thing, its name first.
            for (_, first), *rest in (list(each.items()) for each in value):
                flat[f"{name}.{render.inline(first)}"] = render.inline(", ".join(f"{key} {each}" for key, each in rest))
        else:
            flat[name] = f"{value:.3f}" if isinstance(value, float) else value
    return flat
