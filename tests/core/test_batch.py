"""A batch: every field of it counts and is merged, so that none can be forgotten; `test_carrying.py` has the rest."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

import pytest

from dyrygentd.core.effects import Answer, Batch, BeginChild, Publish, Revoke, RevokeStamped
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.parent import Parent
from dyrygentd.core.policy import Child
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.series import Admission, SeriesWord
from dyrygentd.core.workflow import RunningWorkflow

_TASK = Signature("app.task")
_NAMES = [field.name for field in fields(Batch)]
_WORKFLOW = cast(RunningWorkflow, object())


def _content_of(name: str, which: str) -> Any:
    """Return what a field may hold, another one for each ``which``."""
    makers: dict[str, Callable[[], Any]] = {
        "save_workflows": lambda: {which: cast(WorkflowRecord, _Record(which))},
        "save_nodes": lambda: {(which, 0): cast(NodeRecord, _Record(which))},
        "watch": lambda: [which],
        "publish": lambda: [Publish(which, 0, 1, which, _TASK, None, "", which)],
        "unwatch": lambda: [which],
        "revoke": lambda: [Revoke(which, 1, _TASK)],
        "revoke_stamped": lambda: [RevokeStamped(which)],
        "journal": lambda: [JournalEntry(which, 1.0, "pause", "anna")],
        "answers": lambda: [Answer(1, (which,))],
        "changed": lambda: {which: None},
        "finished": lambda: [_WORKFLOW],
        "refused": lambda: {which: "why"},
        "unrun": lambda: [(_WORKFLOW, 0)],
        "begin": lambda: {which: BeginChild(Parent(which, 0), which, Child("workflow", b"{}"))},
        "set_going": lambda: {which: Parent(which, 0)},
        "released": lambda: [which],
        "admissions": lambda: {which: Admission(SeriesWord.BEGAN)},
        "reports_read": lambda: which,
    }
    assert name in makers, f"tell here what Batch.{name} may hold"
    return makers[name]()


class _Record:
    """Stands for a row."""

    def __init__(self, name: str) -> None:
        self.name = name

    def following(self, earlier: object) -> "_Record":
        return self


def _only(name: str, which: str = "a") -> Batch:
    return Batch(**{name: _content_of(name, which)})


def test_empty_batch_is_no_work() -> None:
    """A turn that has decided nothing costs no transaction."""
    assert not Batch()


@pytest.mark.parametrize("name", _NAMES)
def test_each_field_is_work(name: str) -> None:
    """A batch with one thing to do is not taken for an empty one."""
    assert _only(name)


@pytest.mark.parametrize("name", _NAMES)
def test_each_field_is_merged(name: str) -> None:
    """What a later batch asks for is not lost while the disk does not work, and neither is what an earlier one asked for."""
    merged = Batch()
    merged.merge(_only(name))
    assert getattr(merged, name)
    kept = _only(name)
    kept.merge(Batch())
    assert getattr(kept, name)
    both = _only(name, "a")
    both.merge(_only(name, "b"))
    if name == "reports_read":
        assert both.reports_read == "b"
    else:
        assert len(getattr(both, name)) == 2


@pytest.mark.parametrize("name", ["save_workflows", "save_nodes", "journal"])
def test_rows_are_rows_everywhere(name: str) -> None:
    """What one transaction writes is what is counted, and what is written apart if the store refuses it together."""
    assert _only(name).row_count == 1
    assert getattr(_only(name).rows(), name)
    batch = _only(name)
    assert getattr(batch.take_rows("a"), name)
    assert not batch.row_count


@pytest.mark.parametrize("name", sorted({*_NAMES} - {"save_workflows", "save_nodes", "journal"}))
def test_the_rest_is_no_row(name: str) -> None:
    """Nothing else is written, so nothing else is counted."""
    assert not _only(name).row_count
