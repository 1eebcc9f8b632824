"""Rows as PostgreSQL takes them: a set of rows is one statement, its columns are arrays.

Columns of nodes are written as the text of an array by a few calls a column: psycopg's own way costs several for each value.
Those of workflows, of which there are few and which may be large, are left to psycopg.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from dyrygentd.core.records import JournalEntry, WorkflowRecord
from dyrygentd.store.rows import COLUMNS, control_of, owned_key, parents_of, utf8

_INSERTED: Final = (
    ("seq", "bigint"),
    ("id", "text"),
    ("name", "text"),
    ("key", "text"),
    ("labels", "text"),
    ("state", "text"),
    ("created_at", "float8"),
    ("finished_at", "float8"),
    ("tasks", "bigint"),
    ("counts", "text"),
    ("error", "text"),
    ("control", "text"),
    ("result", "bytea"),
    ("document", "bytea"),
    # PostgreSQL has no array of arrays of different lengths: a row's pairs come as JSON.
    ("pairs", "text"),
    ("owner", "text"),
    ("parent_task", "text"),
    ("parent", "text"),
    ("root", "text"),
    ("series", "text"),
)
_UPDATED: Final = (
    ("seq", "bigint"),
    ("state", "text"),
    ("finished_at", "float8"),
    ("counts", "text"),
    ("error", "text"),
    ("control", "text"),
    ("result", "bytea"),
    ("owner", "text"),
    ("parent_task", "text"),
)
_NODES: Final = (
    ("workflow", "bigint"),
    ("node", "integer"),
    ("state", "text"),
    ("attempt", "bigint"),
    ("dispatched_at", "float8"),
    ("finished_at", "float8"),
    ("held_until", "float8"),
    ("blocked_by", "integer"),
    ("error", "text"),
    ("value", "bytea"),
    ("detail", "text"),
)
_ENTRIES: Final = (
    ("workflow", "bigint"),
    ("at", "float8"),
    ("verb", "text"),
    ("by", "text"),
    ("why", "text"),
    ("nodes", "text"),
    ("count", "bigint"),
    ("detail", "text"),
)

Columns = Sequence[tuple[str, str]]


def _names(columns: Columns) -> str:
    return ", ".join(name for name, _ in columns)


def _given(columns: Columns) -> str:
    """Return the source of rows whose columns are the parameters."""
    return f"unnest({', '.join(f'%s::{kind}[]' for _, kind in columns)}) AS given ({_names(columns)})"


def _newest(columns: Columns) -> str:
    return ", ".join(f"{name} = excluded.{name}" for name, _ in columns)


TAKE_TURN: Final = "SELECT take_turn(%s, %s)"
INSERT_WORKFLOWS: Final = f"""
    INSERT INTO workflows ({COLUMNS}, result, document, owner, parent_task, parent, root, series, label_pairs)
    SELECT {COLUMNS}, result, document, owner, parent_task, parent, root, series,
        ARRAY(SELECT json_array_elements(pairs::json)::text)
    FROM {_given(_INSERTED)}
    ON CONFLICT (seq) DO UPDATE SET {_newest(_UPDATED[1:])}
"""
UPDATE_WORKFLOWS: Final = f"""
    UPDATE workflows SET {", ".join(f"{name} = given.{name}" for name, _ in _UPDATED[1:])}
    FROM {_given(_UPDATED)} WHERE workflows.seq = given.seq
"""
SAVE_NAMES: Final = f"""
    INSERT INTO node_names (workflow, names) SELECT workflow, names
    FROM {_given((("workflow", "bigint"), ("names", "text")))} ON CONFLICT (workflow) DO NOTHING
"""
SAVE_NODES: Final = f"""
    INSERT INTO nodes ({_names(_NODES)}) SELECT {_names(_NODES)} FROM {_given(_NODES)}
    ON CONFLICT (workflow, node) DO UPDATE SET {_newest(_NODES[2:])}
"""
#: The numbers, which are cursors, in the order of the entries.
ADD_ENTRIES: Final = f"""
    INSERT INTO journal ({_names(_ENTRIES)}) SELECT {_names(_ENTRIES)} FROM (
        SELECT * FROM unnest({", ".join(f"%s::{kind}[]" for _, kind in _ENTRIES)}) WITH ORDINALITY
            AS given ({_names(_ENTRIES)}, place) ORDER BY place
    ) AS given
"""
TRIM_JOURNAL: Final = """
    DELETE FROM journal USING unnest(%s::bigint[]) AS given (workflow)
    WHERE journal.workflow = given.workflow AND journal.seq <= (
        SELECT newer.seq FROM journal AS newer WHERE newer.workflow = given.workflow ORDER BY newer.seq DESC OFFSET %s LIMIT 1
    )
"""
#: A letter that is taken again is found to be carried out by it.
ADD_FOOTPRINTS: Final = """
    INSERT INTO footprints (letter, workflow, nodes, count)
    SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[])
    ON CONFLICT (letter, workflow) DO NOTHING
"""
DROP_VALUES: Final = "UPDATE nodes SET value = NULL WHERE workflow = ANY (%s::bigint[]) AND value IS NOT NULL"
REMEMBER: Final = "INSERT INTO notes (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
FORGET: Final = "DELETE FROM notes WHERE name = %s"


def _deleting(chosen: str) -> str:
    """Return the statement that deletes workflows, with their children and all that belongs to them; its one row is how many."""
    return f"""
        WITH chosen AS MATERIALIZED ({chosen}),
            gone AS (
                DELETE FROM workflows WHERE seq IN (
                    SELECT seq FROM chosen
                    UNION ALL SELECT child.seq FROM workflows AS child JOIN chosen ON child.root = chosen.id
                ) RETURNING seq
            ),
            emptied AS (DELETE FROM nodes USING gone WHERE nodes.workflow = gone.seq)
        SELECT count(*) FROM chosen
    """


#: A workflow stays until the letter that has made it is answered, which goes by it.
_NO_LETTER: Final = "NOT EXISTS (SELECT 1 FROM letters WHERE letters.workflow = workflows.id AND letters.answered_at IS NULL)"
#: And children go with their root, which stays as long as one of them is not to go, or runs: it was left to itself.
_MAY_GO: Final = f"""
    root IS NULL AND id NOT IN (SELECT coalesce(root, id) FROM workflows WHERE id = ANY (%s::text[]))
    AND NOT EXISTS (SELECT 1 FROM workflows AS child WHERE child.root = workflows.id AND child.finished_at IS NULL)
    AND {_NO_LETTER}
"""
PRUNE: Final = _deleting(
    f"SELECT seq, id FROM workflows WHERE finished_at IS NOT NULL AND {_MAY_GO} ORDER BY finished_at LIMIT %s"
)
#: The first condition follows from the second, and is one that the index on the ends helps with.
EXPIRE: Final = _deleting(f"""
    SELECT seq, id FROM workflows WHERE finished_at < greatest(%s::float8, %s::float8)
        AND finished_at < CASE state WHEN 'succeeded' THEN %s::float8 ELSE %s::float8 END
        AND {_MAY_GO}
    ORDER BY finished_at LIMIT %s
""")
#: What is deleted makes room that is used again, and the tables stay as long: what the rows take is counted instead. A row of
#: a node takes about 150 bytes, and is not looked at.
USED_BYTES: Final = (
    "SELECT coalesce(sum(octet_length(document) + coalesce(octet_length(result), 0) + 300 + 150 * tasks), 0) FROM workflows"
)
TABLE_BYTES: Final = """
    SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND
    relkind = 'r'
"""


# --- columns --------------------------------------------------------------------------------------------------------


def text_of(text: str) -> str:
    """Return a text as PostgreSQL can keep it: without half a surrogate pair, and without zero bytes."""
    text = utf8(text)
    return text.replace("\0", "\\x00") if "\0" in text else text


def _numbers(column: Iterable[float | None]) -> str:
    return f"{{{','.join(['NULL' if each is None else repr(each) for each in column])}}}"


def _texts(column: Iterable[str | None]) -> str:
    return f"{{{','.join([_quoted(each) for each in column])}}}"


def _quoted(text: str | None) -> str:
    if not text:
        return "NULL" if text is None else '""'
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if "\0" not in text else f'"{text}"'.replace("\0", "\\\\x00")


def _blobs(column: Iterable[bytes | None]) -> str:
    return f"{{{','.join(['NULL' if each is None else _hexadecimal(each) for each in column])}}}"


def _hexadecimal(content: bytes) -> str:
    return f'"\\\\x{content.hex()}"'


_WRITTEN: Final[Mapping[str, Callable[[Any], str]]] = {
    "bigint": _numbers,
    "integer": _numbers,
    "float8": _numbers,
    "text": _texts,
    "bytea": _blobs,
}
_NODE_COLUMNS: Final = [_WRITTEN[kind] for _, kind in _NODES]


def node_columns(rows: Sequence[tuple[Any, ...]]) -> list[str]:
    """Return the parameters of `SAVE_NODES` for rows of `node_rows` of the other room; of two of a node the later."""
    places = {row[:2]: row for row in rows}
    if len(places) < len(rows):
        rows = [*places.values()]
    return [written(column) for written, column in zip(_NODE_COLUMNS, zip(*rows, strict=True), strict=True)]


def new_workflow(sequence: int, record: WorkflowRecord, document: bytes) -> tuple[Any, ...]:
    """Return the row of a workflow whose definition, deflated, comes with it."""
    key = None if record.key is None else text_of(owned_key(record.key, record.owner))
    labels = dict(record.labels)
    return (
        sequence,
        text_of(record.workflow_id),
        text_of(record.name),
        key,
        json.dumps(labels),
        record.state.value,
        record.created_at,
        record.finished_at,
        record.task_count,
        _counts(record),
        text_of(record.error),
        control_of(record),
        record.result,
        document,
        pairs_of(labels),
        _owner(record),
        _parent_task(record),
        *(None if above is None else text_of(above) for above in parents_of(record)),
        record.series or None,
    )


def changed_workflow(sequence: int, record: WorkflowRecord) -> tuple[Any, ...]:
    """Return what changes in the row of a workflow that is there."""
    end = record.finished_at, _counts(record), text_of(record.error)
    return (sequence, record.state.value, *end, control_of(record), record.result, _owner(record), _parent_task(record))


def entry_row(sequence: int, entry: JournalEntry) -> tuple[Any, ...]:
    """Return the row of an entry of the journal."""
    words = text_of(entry.verb), text_of(entry.by), text_of(entry.why)
    return (sequence, entry.at, *words, json.dumps(entry.nodes), entry.count, text_of(entry.detail))


def footprint_row(entry: JournalEntry) -> tuple[Any, ...]:
    """Return the row that tells what a letter has changed."""
    return (entry.letter, text_of(entry.workflow_id), json.dumps(entry.nodes), entry.count)


def columns_of(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """Return rows as the parameters of a statement that takes columns."""
    return [[*column] for column in zip(*rows, strict=True)]


def pairs_of(labels: Mapping[str, str]) -> str:
    """Return labels as `INSERT_WORKFLOWS` takes them for their array."""
    return f"[{','.join(pairs_in(labels))}]"


def pairs_in(labels: Mapping[str, str]) -> list[str]:
    """Return labels as they stand in the array."""
    return [pair_of(label, value) for label, value in labels.items()]


def pair_of(label: str, value: str) -> str:
    """Return a label as it stands in the array, which is compared as a whole: JSON, which carries any text."""
    return json.dumps([label, value])


def _counts(record: WorkflowRecord) -> str | None:
    return None if record.counts is None else json.dumps(record.counts)


def _owner(record: WorkflowRecord) -> str | None:
    return None if record.owner is None else str(record.owner.identity)


def _parent_task(record: WorkflowRecord) -> str | None:
    return None if record.parent_task is None else text_of(record.parent_task.task_id)
