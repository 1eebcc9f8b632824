"""What is wrong with nodes as they are handed to `dyrygentd.core.graph.Graph.build`, each for itself or by its name."""

from collections.abc import Sequence

from dyrygentd.core.node_spec import NodeSpec
from dyrygentd.core.policy import HandsOn, Rule, SectionEnd
from dyrygentd.errors import BadNode, DuplicateTaskId


def ends_of(nodes: Sequence[NodeSpec]) -> list[str]:
    """Return the names of what nothing waits for, hooks left aside."""
    waited_for = {name for node in nodes for name in node.after}
    return [node.name for node in nodes if node.policy.hook is None and node.name not in waited_for]


def refuse_contradictions(node: NodeSpec) -> None:
    """Refuse what no order of events could satisfy."""
    policy = node.policy
    if policy.hook is not None and (node.after or policy.rule is not Rule.ALL_SUCCEEDED):
        raise BadNode(node.name, "a hook waits for all ends of the graph", next_step="leave out `after` and `rule`")
    if policy.hook is not None and policy.when is not None:
        raise BadNode(node.name, "a hook runs by how the workflow ends, and has no `when`", next_step="leave out `when`")
    if policy.hands_on is not HandsOn.ALL and (node.signature is not None or policy.is_taskless_step):
        raise BadNode(node.name, f"`hands_on: {policy.hands_on}` is for joins", next_step="let a join precede it")
    if policy.section_end is not None:
        _refuse_bad_end(node, policy.section_end)
    if policy.rule in (Rule.ANY_FAILED, Rule.ANY_SUCCEEDED) and not node.after:
        raise BadNode(node.name, f"rule '{policy.rule}' needs something to wait for", next_step="name it in `after`")


def _refuse_bad_end(node: NodeSpec, end: SectionEnd) -> None:
    """Refuse what cannot be at the end of a section."""
    policy = node.policy
    if policy.hook is not None:
        raise BadNode(
            node.name, "it is a hook of the workflow and ends a section", next_step="leave out either `hook` or `section_end`"
        )
    if not node.section:
        raise BadNode(
            node.name,
            "it ends a section and is in none",
            next_step="name its `section`; at the end of the whole workflow use `hook`",
        )
    if node.signature is None or (policy.is_told_the_end and policy.poll_every_s):
        words = "has no task" if node.signature is None else "is a poll"
        what = "what ends a section runs a task" if node.signature is None else "a hook of a section is no poll"
        raise BadNode(node.name, f"it {words}, and {what}", next_step="leave out `section_end`, or name a task that does it")
    if policy.is_told_the_end and (node.after or policy.rule is not Rule.ALL_SUCCEEDED):
        raise BadNode(
            node.name,
            f"a hook of a section (`section_end: {end}`) waits for all of it",
            next_step="leave out `after` and `rule`, or make it `section_end: finally`",
        )


def refuse_duplicate_task_ids(nodes: Sequence[NodeSpec]) -> None:
    task_ids = [node.task_id for node in nodes if node.signature is not None]
    if len(set(task_ids)) < len(task_ids):
        task_id = first_repeated(task_ids)
        holders = [node.name for node in nodes if node.signature is not None and node.task_id == task_id]
        raise DuplicateTaskId(task_id, holders[:2])


def first_repeated(texts: Sequence[str]) -> str:
    """Return the first of these that was there before; one is."""
    seen: set[str] = set()
    return next(text for text in texts if text in seen or seen.add(text))  # type: ignore[func-returns-value]
