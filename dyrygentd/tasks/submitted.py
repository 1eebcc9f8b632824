"""All that is known of a workflow's tasks, put into its signatures when the definition is made."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dyrygentd.core.node_spec import Signature
from dyrygentd.core.policy import PLAIN, NodePolicy
from dyrygentd.tasks.known import KnownTasks
from dyrygentd.tasks.overrides import Overrides
from dyrygentd.tasks.priorities import InheritedPriorities
from dyrygentd.tasks.written import WrittenSignatures


class SubmittedSignatures:
    """Returns the signatures of a workflow as they are submitted; nodes are told in their order, dependencies first.

    Args:
        known: The tasks of the submitting program; if there are none, signatures stay as they are.
        policies: ``{node: policy}`` of those that have one.
        asides: The nodes that are there for error callbacks of chords: what they take is Celery's to say.
        calls_overrides: Overridden `apply_async` and `send_task` are called, since this is a submission.
    """

    def __init__(
        self,
        known: KnownTasks,
        policies: Mapping[int, NodePolicy],
        asides: Collection[int],
        *,
        calls_overrides: bool = False,
        is_given: bool = False,
    ) -> None:
        self._is_given = is_given
        self._is_known = bool(known)
        self._written = WrittenSignatures(known)
        self._priorities = InheritedPriorities(known)
        self._overrides = Overrides(known) if calls_overrides else None
        #: The nodes whose task id somebody has been told.
        self.told: set[int] = set()
        self._policies = policies
        self._asides = asides

    def signature(
        self, number: int, name: str, signature: Signature | None, after: Sequence[int], task_id: str
    ) -> tuple[Signature | None, str]:
        """Return the signature of a node, and its task id. Raises `BadNode` for what `apply_async` would refuse."""
        if not self._is_known:
            return signature, task_id
        is_behind = bool(after) or self._is_given or self._policies.get(number, PLAIN).is_told_the_end
        takes_input = is_behind and signature is not None and not signature.immutable
        is_checked = number not in self._asides
        signature = self._written.signature(name, signature, takes_input=takes_input, is_checked=is_checked)
        if self._overrides is not None and signature is not None and self._overrides.override_of(signature.task):
            self.told.add(number)
            signature, task_id = self._overrides.called(name, signature, task_id, takes_input=takes_input)
        if self._priorities.is_on:
            signature = self._priorities.signature(signature, after)
        return signature, task_id


def with_dumped_models(known: KnownTasks, what: Mapping[str, Any], *, before: int) -> Mapping[str, Any]:
    """Turn arguments that are models into what `apply_async` sends for them, if the task is there and takes models.

    Args:
        before: How many arguments come before those of the signature itself.
    """
    task = known.noted(what["task"])
    dump = getattr(task, "_dump_pydantic_arguments", None)
    if dump is None:
        return what
    before = 0 if what.get("immutable") else before
    args, kwargs = dump((*[None] * before, *(what.get("args") or ())), dict(what.get("kwargs") or {}))
    return {**what, "args": tuple(args)[before:], "kwargs": kwargs}
