"""Where a workflow comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dyrygentd.core.parent import Parent
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.series import Series
from dyrygentd.core.user import User


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a workflow since it was submitted, and never changes.

    Attributes:
        key: What its submitter called it, so that the same submission once more makes no other workflow.
        digest: What tells its definition from another one, if it has a key.
        owner: Who submitted it; None if nobody can tell.
        parent_task: The task in which it was submitted.
        parent: The node whose work it is, if it is a child.
        series: Of which runs it is one.
    """

    created_at: float
    key: str | None = None
    digest: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: User | None = None
    parent_task: ParentTask | None = None
    parent: Parent | None = None
    series: Series | None = None
