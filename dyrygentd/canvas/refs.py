"""Nodes and sections while a workflow is built: how they are called, and what runs at the end of a section."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from dyrygentd.canvas.draft import Draft
from dyrygentd.canvas.policy_checks import checked_word, node_policy
from dyrygentd.core.policy import Hook, NodePolicy, OnLost, Retry, Rule, SectionEnd


class Building(Protocol):
    """What they belong to: a `dyrygentd.Workflow`."""

    _draft: Draft

    def _inside(self, path: str) -> AbstractContextManager[None]:
        """Have what is added meanwhile be in a section."""

    def _add_one(
        self, signature: object, after: "NodeRef | Iterable[NodeRef]", name: str | None, policy: NodePolicy
    ) -> "NodeRef":
        """Add a task."""


@dataclass(frozen=True, slots=True, repr=False)
class NodeRef:
    """A node of a workflow under construction."""

    workflow: Building
    number: int

    def __repr__(self) -> str:
        return f"<NodeRef '{self.name}'>"

    @property
    def name(self) -> str:
        """The node's name. One that was made up changes if another node is given the same."""
        return self.workflow._draft.name_of(self.number)


@dataclass(frozen=True, slots=True)
class SectionRef:
    """A section of a workflow under construction, for what runs at its end: inside of its ``with`` or after it."""

    workflow: Building
    path: str

    def finally_(
        self,
        signature: object,
        *,
        after: NodeRef | Iterable[NodeRef] = (),
        rule: Rule | str = Rule.ALL_SUCCEEDED,
        name: str | None = None,
        pool: str = "",
        retry: Retry | int | None = None,
        timeout_s: float = 0.0,
        on_lost: OnLost | str | None = None,
        idempotent: bool = False,
        redeliveries_max: int | None = None,
        payload: object = None,
    ) -> NodeRef:
        """Add a task that runs when everything else of the section has finished, its subsections included, whatever came of it.

        It runs after a cancel as well. It is not needed, and skipped, if the section never began. What waits for it waits for the
        section: with the usual rule it runs only if all of that has succeeded.

        Args:
            after: What else it waits for, whose values it takes as any node: ``finally_(release.s(), after=lock)`` runs if the
                lock was taken, and is given what `lock` returned.
            rule: By how these have ended.

        The others are those of `Workflow.add`.
        """
        policy = node_policy(
            name,
            rule=rule,
            pool=pool,
            retry=retry,
            timeout_s=timeout_s,
            on_lost=on_lost,
            idempotent=idempotent,
            redeliveries_max=redeliveries_max,
            payload=payload,
            section_end=SectionEnd.FINALLY,
        )
        with self.workflow._inside(self.path):
            return self.workflow._add_one(signature, after, name, policy)

    def hook(self, when: Hook | str, signature: object, *, name: str | None = None, retry: Retry | int | None = None) -> NodeRef:
        """Add a task that runs when everything else of the section has finished, with its ``finally_``.

        A mutable signature gets a summary as first argument, as that of `Workflow.hook` with ``"section"`` besides: its state,
        error and failures are those of the section.

        Args:
            when: On ``success``, on ``failure``, or ``always``; not if the section never began, and not after a cancel.
        """
        end = SectionEnd(checked_word(Hook, name or "hook", "when", when).value)
        with self.workflow._inside(self.path):
            return self.workflow._add_one(signature, (), name, node_policy(name, retry=retry, section_end=end))
