"""Rows and records: the statements on workflows, nodes and the journal, and what turns one into the other.

Guards: what is written can be read back as it was; a column that is damaged leaves the workflow to be listed nevertheless.
"""

import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any, Final

import anyio.lowlevel
import anyio.to_thread

from dyrygentd.core.parent import Parent
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.records import Attempt, JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.user import User
from dyrygentd.store.names import names_text as text_of_names

logger = logging.getLogger("dyrygentd.store")

#: Definitions longer than this are deflated in a thread; it takes about 10 ms a megabyte.
_INLINE_BYTES: Final = 16_384
#: More rows than this are unpacked in a thread; ten thousand take 40 ms.
INLINE_ROWS: Final = 500

#: Workflows, and bytes of their definitions as they are stored, that are read together at the start.
_PART_WORKFLOWS: Final = 100
_PART_BYTES: Final = 1024 * 1024
#: Rows that are made before others have their turn.
_ROWS_AT_ONCE: Final = 10_000

NODE_COLUMNS = "node, state, attempt, dispatched_at, finished_at, held_until, blocked_by, error, value, detail"
COLUMNS = "seq, id, name, key, labels, state, created_at, finished_at, tasks, counts, error, control"

INSERT_WORKFLOW = f"""
    INSERT INTO workflows ({COLUMNS}, result, document, parent, root)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (seq) DO UPDATE SET
        state = excluded.state, finished_at = excluded.finished_at, counts = excluded.counts,
        error = excluded.error, result = excluded.result, control = excluded.control
"""
UPDATE_WORKFLOW = """
    UPDATE workflows SET state = ?, finished_at = ?, counts = ?, error = ?, control = ?, result = ? WHERE seq = ?
"""
_SAVED_COLUMNS = "workflow, node, state, attempt, dispatched_at, finished_at, held_until, blocked_by, error, value, detail"
_PLACES = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_NEWEST_NODE = """
    ON CONFLICT (workflow, node) DO UPDATE SET
        state = excluded.state, attempt = excluded.attempt, dispatched_at = excluded.dispatched_at,
        finished_at = excluded.finished_at, held_until = excluded.held_until, blocked_by = excluded.blocked_by,
        error = excluded.error, value = excluded.value, detail = excluded.detail
"""
SAVE_NODE = f"INSERT INTO nodes ({_SAVED_COLUMNS}) VALUES {_PLACES} {_NEWEST_NODE}"
ADD_ENTRY = "INSERT INTO journal (workflow, at, verb, by, why, nodes, count, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
TRIM_JOURNAL = """
    DELETE FROM journal WHERE workflow = ? AND seq <= (
        SELECT seq FROM journal WHERE workflow = ? ORDER BY seq DESC LIMIT 1 OFFSET ?
    )
"""
REMEMBER = "INSERT INTO notes (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
DROP_VALUES = "UPDATE nodes SET value = NULL WHERE workflow = ? AND value IS NOT NULL"
#: Children go with their root, and it stays as long as one of them is not to go, or runs: it was left to itself.
_MAY_GO = """
    root IS NULL AND id NOT IN (SELECT coalesce(root, id) FROM workflows WHERE id IN (SELECT value FROM json_each(?)))
    AND NOT EXISTS (SELECT 1 FROM workflows AS child WHERE child.root = workflows.id AND child.finished_at IS NULL)
"""
TO_PRUNE = f"SELECT id FROM workflows WHERE finished_at IS NOT NULL AND {_MAY_GO} ORDER BY finished_at LIMIT ?"
#: The first condition follows from the second, and is one that the index on the ends helps with.
TO_EXPIRE = f"""
    SELECT id FROM workflows WHERE finished_at < max(?, ?) AND finished_at < CASE state WHEN 'succeeded' THEN ? ELSE ? END
    AND {_MAY_GO} ORDER BY finished_at LIMIT ?
"""
DELETE = """
    DELETE FROM workflows WHERE seq IN (
        SELECT seq FROM workflows WHERE id IN (SELECT value FROM json_each(?))
        UNION ALL SELECT seq FROM workflows WHERE root IN (SELECT value FROM json_each(?))
    )
"""
#: Of those that somebody submitted: their children are not counted.
FINISHED_COUNT = "SELECT count(*) FROM workflows WHERE finished_at IS NOT NULL AND root IS NULL"
USED_BYTES = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"


@cache
def saving_at_once(count: int) -> str:
    """Return the statement that saves so many nodes.

    Before one that begins with INSERT the module `sqlite3` would begin a transaction, which somebody has to end.
    """
    new = ", ".join([_PLACES] * count)
    # Without WHERE, SQLite would take ON for the condition of a join.
    insert = f"INSERT INTO nodes ({_SAVED_COLUMNS}) SELECT * FROM new WHERE 1 {_NEWEST_NODE}"
    return f"WITH new ({_SAVED_COLUMNS}) AS (VALUES {new}) {insert}"


def record_of(row: Sequence[Any], *, document: bytes | None) -> WorkflowRecord:
    """Return the record in a row of `COLUMNS` and the result."""
    _, workflow_id, name, key, labels, state, created_at, finished_at, tasks, counts, error, control, result = row[:13]
    few = _json(control) if control else {}
    parent_task, parent = few.pop("parent_task", None), few.pop("parent", None)
    owner = User.of(few.pop("owner", None), few.pop("owner_name", ""))
    return WorkflowRecord(
        workflow_id=workflow_id,
        name=name,
        key=None if key is None else key.partition(":")[2],
        labels=_json(labels),
        state=WorkflowState(state),
        created_at=created_at,
        finished_at=finished_at,
        document=document,
        task_count=tasks,
        counts=None if counts is None else _json(counts),
        result=result,
        error=error,
        owner=owner,
        parent_task=None if parent_task is None else ParentTask(**parent_task),
        parent=None if parent is None else Parent(**parent),
        **few,
    )


def owned_key(key: str, owner: User | None) -> str:
    """Return a key as it is stored: keys of two users never meet."""
    return f"{'' if owner is None else owner.identity}:{key}"


def _json(text: str) -> dict[str, Any]:
    """Return what a column of a workflow holds; if that is damaged nothing, so that it can be listed nevertheless."""
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        logger.warning("the database holds '%.50s' where a JSON object should be", text)
        return {}
    return content


def control_of(record: WorkflowRecord) -> str | None:
    """Return what of a workflow's record shares a column."""
    values = {name: getattr(record, name) for name in _CONTROLS}
    fields = {name: value for name, value in values.items() if value}
    if record.owner is not None:
        fields |= owner_fields(record.owner)
    if record.parent_task is not None:
        fields["parent_task"] = record.parent_task._asdict()
    if record.parent is not None:
        fields["parent"] = asdict(record.parent)
    return json.dumps(fields) if fields else None


def owner_fields(owner: User) -> dict[str, int | str]:
    """Return what of an owner stands in that column."""
    return {"owner": owner.identity} | ({"owner_name": owner.name} if owner.name else {})


def parents_of(record: WorkflowRecord) -> tuple[str | None, str | None]:
    """Return the columns by which children are found: the workflow above it, and the uppermost."""
    return (None, None) if record.parent is None else (record.parent.workflow_id, record.parent.root_id)


def _detail(node: NodeRecord) -> str | None:
    if not any(node[_FIRST_DETAIL:]):
        return None
    return json.dumps({name: value for name, value in zip(_DETAILS, node[_FIRST_DETAIL:], strict=True) if value})


def node_record_of(workflow_id: str, row: Sequence[Any]) -> NodeRecord:
    """Return the record in a row of `NODE_COLUMNS`."""
    *columns, detail = row
    details = json.loads(detail) if detail else {}
    if "cause" in details:
        details["fingerprint"] = details.pop("cause")
    if "earlier" in details:
        details["earlier"] = tuple(Attempt(*each) for each in details["earlier"])
    if "added" in details:
        details["added"] = tuple(details["added"])
    return NodeRecord(workflow_id, *columns, **details)


def _node_row(sequence: int, node: NodeRecord) -> tuple[Any, ...]:
    """Return the row of a node of the workflow with this number, as `SAVE_NODE` takes it."""
    return (
        sequence,
        node.node,
        node.state,
        node.attempt,
        node.dispatched_at,
        node.finished_at,
        node.held_until,
        node.blocked_by,
        utf8(node.error),
        node.value,
        _detail(node),
    )


async def node_rows(records: Sequence[NodeRecord], sequence_of: Mapping[str, int]) -> list[tuple[Any, ...]]:
    """Return the rows of nodes whose workflows are there; others have their turn between many of them."""
    rows: list[tuple[Any, ...]] = []
    for begin in range(0, len(records), _ROWS_AT_ONCE):
        part = records[begin : begin + _ROWS_AT_ONCE]
        rows += [_node_row(sequence_of[node.workflow_id], node) for node in part if node.workflow_id in sequence_of]
        if begin:
            await anyio.lowlevel.checkpoint()
    return rows


#: Fields of a workflow's record that share a column, because few workflows have them, beside the owner and the parents.
_CONTROLS: Final = (
    *("priority", "run", "deadline_at", "is_stopped", "routes", "ids", "digest", "started_early_at"),
    *("series", "if_running", "queued_behind"),
)

#: Fields of a node's record that share a column, because few nodes have them: all from this one on.
#: A fingerprint is called as it is in every view, since people read the column, too.
_FIRST_DETAIL: Final = NodeRecord._fields.index("reason")
_DETAILS: Final = tuple("cause" if name == "fingerprint" else name for name in NodeRecord._fields[_FIRST_DETAIL:])


def in_parts(
    rows: Iterable[tuple[int, str, int]], *, workflows_max: int = _PART_WORKFLOWS, bytes_max: int = _PART_BYTES
) -> Iterator[list[tuple[int, str]]]:
    """Divide ``(number, id, bytes)`` into parts that fit into memory together."""
    part: list[tuple[int, str]] = []
    size = 0
    for sequence, workflow_id, document_bytes in rows:
        if part and (len(part) >= workflows_max or size + document_bytes > bytes_max):
            yield part
            part, size = [], 0
        part.append((sequence, workflow_id))
        size += document_bytes
    if part:
        yield part


async def deflated(document: bytes) -> bytes:
    """Return a definition as it is stored."""
    if len(document) <= _INLINE_BYTES:
        return zlib.compress(document, 1)
    return await anyio.to_thread.run_sync(zlib.compress, document, 1)


async def names_column(names: Sequence[str]) -> str:
    """Return names of nodes as they are stored, made in a thread if there are many."""
    if len(names) <= INLINE_ROWS:
        return text_of_names(names)
    return await anyio.to_thread.run_sync(text_of_names, names)


def entries_of(workflow_id: str, rows: Iterable[Sequence[Any]]) -> list[JournalEntry]:
    """Return the entries of a workflow's journal."""
    return [
        JournalEntry(workflow_id, at, verb, by, why, tuple(json.loads(nodes)), count, detail)
        for at, verb, by, why, nodes, count, detail in rows
    ]


def utf8(text: str) -> str:
    """Return ``text`` in a form that UTF-8 can carry; errors of tasks may hold half a surrogate pair."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
