"""A workflow as a document of its own: definition, states, values and journal, for a ticket or for another daemon."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, NamedTuple

from msgspec import Meta, Raw, Struct, structs

from dyrygentd.core.additions import Adds
from dyrygentd.core.attempts import EARLIER_MAX
from dyrygentd.core.bounds import LABELS_MAX, PRIORITY_MAX
from dyrygentd.core.graph import NODES_MAX, Definition
from dyrygentd.core.ids import OF_OLD
from dyrygentd.core.parent import DEPTH_MAX, Parent
from dyrygentd.core.records import Attempt, JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.references import OPEN
from dyrygentd.core.series import SERIES_NAME
from dyrygentd.core.states import IN_FLIGHT, NODE_STATE_OF_WORD, NodeState, WorkflowState
from dyrygentd.core.user import HOST_NAME, User
from dyrygentd.errors import BadRequest, NotImportable
from dyrygentd.wire.bounds import Look, check_counts, nothing
from dyrygentd.wire.definitions import decode_definition, decode_imported, document_of
from dyrygentd.wire.encoding import decode, encode
from dyrygentd.wire.forms import LabelValue, Name
from dyrygentd.wire.showing import view_of_entry
from dyrygentd.wire.views import JournalView

EXPORT_VERSION: Final = 1
#: Far more than any daemon keeps of one workflow.
_JOURNAL_MAX: Final = 100_000
#: More workflows below one are no ticket, and would be in memory with all that they have.
CHILDREN_MAX: Final = 10_000

#: What fits into a column and onto a screen: Unix seconds of some thousand years, whole numbers, texts of errors.
UnixSeconds = Annotated[float, Meta(ge=0, le=1e11)]
Number = Annotated[int, Meta(ge=0, le=10**9)]
ErrorText = Annotated[str, Meta(max_length=10_000)]
HostName = Annotated[str, Meta(max_length=255, pattern=f"^({HOST_NAME})?$")]


class ExportedParent(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The node whose work a workflow is.

    Attributes:
        workflow, node: The workflow above, and the name of its node.
        generation: How often that was set back to begin with another one.
    """

    workflow: str
    node: str
    generation: Number = 0


class ExportedWorkflow(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The workflow itself, as it was stored.

    Attributes:
        result: The JSON text of its result.
        run: How often it was set running again after a cancel.
        ids: How its attempts are named.
        digest: What tells its definition from another one, if it has a key.
        started_early_at: When somebody had it begin before its time, 0 if nobody has.
        series, if_running, queued_behind: As `dyrygentd.core.records.WorkflowRecord` has them.
        owner, owner_host, owner_name: Number of the user who submitted it, and, from a store of several hosts, whose number it is
            and how they are called there.
        parent: The node whose work it is; nobody looks at it of the uppermost workflow of an export.
    """

    id: str
    name: Name
    state: WorkflowState
    created_at: UnixSeconds
    key: Name | None = None
    labels: Annotated[dict[Name, LabelValue], Meta(max_length=LABELS_MAX)] = {}
    finished_at: UnixSeconds | None = None
    counts: dict[str, int] | None = None
    result: str | None = None
    error: ErrorText = ""
    priority: Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    run: Number = 0
    deadline_at: UnixSeconds = 0.0
    is_stopped: bool = False
    owner: Annotated[int, Meta(ge=0, lt=2**32)] | None = None
    ids: Annotated[int, Meta(ge=0, le=2)] = OF_OLD
    digest: Annotated[str, Meta(max_length=100)] = ""
    started_early_at: UnixSeconds = 0.0
    owner_host: HostName = ""
    owner_name: Annotated[str, Meta(max_length=255)] = ""
    series: Annotated[str, Meta(pattern=f"^({SERIES_NAME})?$")] = ""
    if_running: Literal["", "allow", "skip", "queue_one", "cancel_old"] = ""
    queued_behind: Annotated[str, Meta(max_length=100)] = ""
    parent: ExportedParent | None = None


class ExportedAttempt(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An attempt before the present or last one of a node; the fields are those of `dyrygentd.core.records.Attempt`."""

    number: Number
    sent_at: UnixSeconds
    ended_at: UnixSeconds
    ended: Annotated[str, Meta(max_length=20)]
    due_at: UnixSeconds = 0.0
    started_at: UnixSeconds = 0.0
    worker: Annotated[str, Meta(max_length=255)] = ""
    error: ErrorText = ""
    is_over: bool = False


class ExportedAddition(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a node's task has added and is not done; the fields are those of `dyrygentd.core.additions.Held`."""

    kind: Adds
    document: str = ""
    value: str | None = None
    value_error: ErrorText = ""


class ExportedNode(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A node that is not waiting, or was not for a while, as it was stored.

    Attributes:
        value: The JSON text of its value, if it is kept for nodes that are to take it.
        blocked_by: Name of the node to blame.
        started_at, worker: When its last attempt began, and where, if that is kept.
        earlier: Its attempts before that one, the last few of them.
        generation: How often it was set back to begin with another workflow that does its work.
        added: What its task has added.
        behind: JSON text of the values that go behind its own in lists, without the brackets.
    """

    name: str
    state: str
    attempt: Number = 0
    dispatched_at: UnixSeconds = 0.0
    finished_at: UnixSeconds = 0.0
    held_until: UnixSeconds = 0.0
    blocked_by: str | None = None
    error: ErrorText = ""
    value: str | None = None
    reason: ErrorText = ""
    is_on_hold: bool = False
    failures: Number = 0
    polling_since: UnixSeconds = 0.0
    cause: ErrorText = ""
    late: ErrorText = ""
    is_stale: bool = False
    started_at: UnixSeconds = 0.0
    worker: Annotated[str, Meta(max_length=255)] = ""
    earlier: Annotated[list[ExportedAttempt], Meta(max_length=EARLIER_MAX)] = []
    generation: Number = 0
    added: ExportedAddition | None = None
    behind: str = ""


class ExportedChild(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """All of a workflow that is the work of a node of another one; the fields are those of `ExportDocument`."""

    workflow: ExportedWorkflow
    definition: Raw
    nodes: list[ExportedNode] = []
    journal: list[JournalView] = []


class ExportDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """All of a workflow. Times are Unix seconds.

    Attributes:
        export: Version of this form.
        dyrygentd: Version of the daemon that wrote it.
        definition: As it was submitted, with the ids of its tasks.
        children: What does the work of its nodes, and of theirs; what is above another one stands before it.
    """

    export: int
    workflow: ExportedWorkflow
    definition: Raw
    nodes: list[ExportedNode] = []
    journal: list[JournalView] = []
    dyrygentd: str = ""
    exported_at: float = 0.0
    children: list[ExportedChild] = []


class _Named(Struct):
    name: str


class _Definition(Struct):
    """Of a stored definition the names, which all nodes have there, unless it is made of a list."""

    nodes: list[_Named] = []


class Exported(NamedTuple):
    """What is stored of a workflow."""

    record: WorkflowRecord
    nodes: Sequence[NodeRecord]
    journal: Sequence[JournalEntry]


class Imported(NamedTuple):
    """What an export holds, in the forms of the core.

    Attributes:
        children: Those of all workflows in it, without children of their own; what is above another one stands before it.
    """

    record: WorkflowRecord
    nodes: list[NodeRecord]
    journal: list[JournalEntry]
    definition: Definition
    children: Sequence["Imported"] = ()

    @property
    def exported(self) -> list[Exported]:
        """All of it as it is stored, the uppermost workflow first."""
        return [Exported(each.record, each.nodes, each.journal) for each in (self, *self.children)]

    @property
    def definitions(self) -> Iterator[Definition]:
        """All definitions in it, those of the workflows of nodes included."""
        for each in (self, *self.children):
            yield from each.definition.whole()

    @property
    def node_count(self) -> int:
        """Number of nodes in all of it."""
        return sum(len(each.definition.graph) for each in (self, *self.children))


def encode_export(tree: Sequence[Exported], *, version: str, now: float) -> bytes:
    """Write all that is stored of a workflow, and of what does the work of its nodes, as JSON.

    Args:
        tree: The uppermost workflow first, and each before what is below it.
    """
    names: dict[str, Sequence[str]] = {}
    first, *below = [_written(each, names) for each in tree]
    document = ExportDocument(
        export=EXPORT_VERSION,
        dyrygentd=version,
        exported_at=now,
        workflow=first.workflow,
        nodes=first.nodes,
        journal=first.journal,
        definition=first.definition,
        children=below,
    )
    return encode(document)


def _written(exported: Exported, names_of: dict[str, Sequence[str]]) -> ExportedChild:
    """Write one workflow; the names of its nodes are kept for those below it."""
    record = exported.record
    assert record.document is not None
    names = names_of[record.workflow_id] = _names_in(record.document)
    above = record.parent
    known = () if above is None else names_of.get(above.workflow_id, ())
    parent = None
    if above is not None:
        name = known[above.node] if above.node < len(known) else above.name
        parent = ExportedParent(above.workflow_id, name, above.generation)
    return ExportedChild(
        workflow=ExportedWorkflow(
            id=record.workflow_id,
            result=_text(record.result),
            **_owner_fields(record.owner),
            **{name: getattr(record, name) for name in _SAME if name != "labels"},
            labels=dict(record.labels),
            parent=parent,
        ),
        nodes=[
            ExportedNode(
                name=names[node.node],
                blocked_by=None if node.blocked_by is None else names[node.blocked_by],
                value=_text(node.value),
                cause=node.fingerprint,
                earlier=[ExportedAttempt(*each) for each in node.earlier],
                added=ExportedAddition(Adds(node.added[0]), *node.added[1:]) if node.added else None,
                **{name: getattr(node, name) for name in _SAME_OF_NODE},
            )
            for node in exported.nodes
        ],
        journal=[view_of_entry(entry) for entry in exported.journal],
        definition=Raw(record.document),
    )


def _names_in(document: bytes) -> Sequence[str]:
    written = [node.name for node in decode(document, _Definition).nodes]
    return written or decode_definition(document, nodes_max=NODES_MAX, node_bytes_max=0).graph.names


def decode_export(body: bytes, *, nodes_max: int, look: Look = nothing) -> Imported:
    """Read an export.

    Raises:
        BadRequest: It is none, or contradicts itself.
        NotImportable: It is that of a workflow which goes on where it came from.
        DefinitionError: Its definition cannot be run.
    """
    most = {"nodes": nodes_max, "journal": _JOURNAL_MAX, "children": CHILDREN_MAX}
    check_counts(body, most, dict.fromkeys(("definition", "workflow", "children"), len(body)), look)
    document = decode(body, ExportDocument)
    if document.export != EXPORT_VERSION:
        raise BadRequest(f"export version {document.export} is unknown, this daemon reads {EXPORT_VERSION}", path="$.export")
    first = ExportedChild(document.workflow, document.definition, document.nodes, document.journal)
    imported = _read(first, None, nodes_max=nodes_max, node_bytes_max=len(body), look=look)
    known, nodes = {imported.record.workflow_id: imported}, len(imported.definition.graph)
    for child in document.children:
        parent = _parent_of(child.workflow, known, imported.record.workflow_id)
        read = _read(child, parent, nodes_max=nodes_max - nodes, node_bytes_max=len(body), look=look)
        nodes += len(read.definition.graph)
        known[read.record.workflow_id] = read
    return imported._replace(children=[*known.values()][1:])


def _parent_of(workflow: ExportedWorkflow, known: Mapping[str, Imported], root_id: str) -> Parent:
    """Return the node whose work a workflow is, which stands before it in the export. Raises `BadRequest`."""
    written, path = workflow.parent, "$.children.workflow.parent"
    above = None if written is None else known.get(written.workflow)
    if written is None or above is None:
        raise BadRequest(f"workflow '{workflow.id:.100}' is a child of none that stands before it", path=path)
    node = above.definition.graph.number(written.node)
    if node is None:
        raise BadRequest(f"workflow '{written.workflow}' has no node '{written.node:.100}'", path=path)
    depth = 1 if above.record.parent is None else above.record.parent.depth + 1
    parent = Parent(written.workflow, node, written.generation, depth, root_id, written.node)
    if depth > DEPTH_MAX or parent.child_id != workflow.id or workflow.id in known or workflow.key is not None:
        raise BadRequest(
            f"workflow '{workflow.id:.100}' cannot be the child of node '{written.node:.100}' of '{written.workflow}'",
            path=path,
            next_step="leave an export as `dyrygentctl export` has written it",
        )
    return parent


def _read(exported: ExportedChild, parent: Parent | None, *, nodes_max: int, node_bytes_max: int, look: Look) -> Imported:
    workflow = exported.workflow
    if not _ID.fullmatch(workflow.id):
        # Any other text might be somebody's name of a workflow, or the beginning of another id.
        raise BadRequest(f"'{workflow.id:.100}' is no id of a workflow, at $.workflow.id", path="$.workflow.id")
    document = bytes(exported.definition)
    definition = decode_imported(document, workflow.id, nodes_max=nodes_max, node_bytes_max=node_bytes_max, look=look)
    nodes = [_node_record(workflow.id, node, definition) for node in exported.nodes]
    _refuse_if_it_goes_on(workflow, nodes, definition)
    if workflow.state.is_finished != (workflow.finished_at is not None):
        raise BadRequest(f"the workflow is {workflow.state}, which does not fit its end", path="$.workflow.finished_at")
    record = WorkflowRecord(
        workflow_id=workflow.id,
        result=_bytes(workflow.result, "$.workflow.result"),
        document=document_of(definition),
        task_count=definition.graph.task_count,
        parent_task=definition.parent_task,
        parent=parent,
        owner=None if workflow.owner is None else User(workflow.owner, workflow.owner_host, workflow.owner_name),
        **{name: getattr(workflow, name) for name in _SAME},
    )
    journal = [_entry(workflow.id, entry) for entry in exported.journal]
    return Imported(record, nodes, journal, replace(definition, key=workflow.key, name=workflow.name))


def _entry(workflow_id: str, entry: JournalView) -> JournalEntry:
    """Return an entry of the journal, marked as what another daemon tells: here nobody has seen who did it."""
    if not (0 <= entry.at <= 1e11 and 0 <= entry.count <= 10**9):
        raise BadRequest(f"entry '{entry.verb:.100}' of the journal has a time or a number that cannot be", path="$.journal")
    by = entry.by if entry.by.startswith(_ELSEWHERE) else f"{_ELSEWHERE}{entry.by}"
    return JournalEntry(workflow_id, entry.at, entry.verb, by, entry.why, tuple(entry.nodes), entry.count, entry.detail)


def _refuse_if_it_goes_on(workflow: ExportedWorkflow, nodes: Iterable[NodeRecord], definition: Definition) -> None:
    """Raise `NotImportable` unless nothing of the workflow happens anywhere, so that nothing is sent twice."""
    if not workflow.state.is_finished and workflow.state is not WorkflowState.PAUSED:
        raise NotImportable(
            workflow.id,
            f"it was {workflow.state} when it was exported, and would run in two places",
            next_step=f"where it came from: `dyrygentctl pause {workflow.id}`, wait for what is in flight, and export it again",
        )
    for node in nodes:
        if NODE_STATE_OF_WORD[node.state] in IN_FLIGHT:
            raise NotImportable(
                workflow.id,
                f"node '{definition.graph.names[node.node]}' was in flight when it was exported",
                next_step="wait there until nothing is in flight, or give it up, and export it again",
            )


def _node_record(workflow_id: str, node: ExportedNode, definition: Definition) -> NodeRecord:
    number = definition.graph.number(node.name)
    blamed = None if node.blocked_by is None else definition.graph.number(node.blocked_by)
    for name, found in ((node.name, number), (node.blocked_by, blamed)):
        if name is not None and found is None:
            raise BadRequest(f"the definition has no node '{name}'", path="$.nodes")
    if node.state not in NODE_STATE_OF_WORD:
        raise BadRequest(f"node '{node.name}' is '{node.state}', which is no state", path="$.nodes")
    assert number is not None
    fields: dict[str, Any] = {name: getattr(node, name) for name in _SAME_OF_NODE}
    if NODE_STATE_OF_WORD[node.state] is NodeState.CANCELLED:
        # What was in flight when it was cancelled is revoked again after a restart, and that is the other daemon's affair.
        fields["dispatched_at"] = 0.0
    value = _bytes(node.value, "$.nodes")
    earlier = tuple(Attempt(*structs.astuple(each)) for each in node.earlier)
    # References are what this daemon has written: from outside they would name anybody's values.
    _bytes(f"[{node.behind}]" if node.behind else None, "$.nodes.behind")
    added = () if node.added is None else (node.added.kind.value, *structs.astuple(node.added)[1:])
    if node.added is not None:
        _bytes(node.added.value, "$.nodes.added.value")
        if OPEN in node.added.document.encode():
            raise BadRequest(f"what the task of node '{node.name}' has added cannot be read", path="$.nodes.added.document")
    return NodeRecord(
        workflow_id, number, blocked_by=blamed, value=value, fingerprint=node.cause, earlier=earlier, added=added, **fields
    )


def _owner_fields(owner: User | None) -> dict[str, Any]:
    return {} if owner is None else {"owner": owner.number, "owner_host": owner.host, "owner_name": owner.name}


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode()


def _bytes(text: str | None, path: str) -> bytes | None:
    if text is None:
        return None
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"a value is no JSON text: {error}", path=path) from None
    return text.encode()


_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ELSEWHERE: Final = "elsewhere: "
#: Fields that have the same name and form here and in the records of the core.
_OTHER: Final = ("id", "result", "owner", "owner_host", "owner_name", "parent")
_SAME: Final = tuple(field.name for field in structs.fields(ExportedWorkflow) if field.name not in _OTHER)
_SAME_OF_NODE: Final = tuple(
    field.name
    for field in structs.fields(ExportedNode)
    if field.name not in ("name", "blocked_by", "value", "cause", "earlier", "added")
)
