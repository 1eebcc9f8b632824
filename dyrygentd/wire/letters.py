"""What stands in a letter, and in the answer to one, as JSON. Both ends are of this package; no user writes any of it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from dyrygentd import errors
from dyrygentd.core.graph import NODES_MAX, Definition
from dyrygentd.core.records import WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.user import User
from dyrygentd.core.verbs import VerbRequest
from dyrygentd.errors import DyrygentError
from dyrygentd.wire.definitions import decode_definition, document_of
from dyrygentd.wire.encoding import encode
from dyrygentd.wire.exports import Imported, decode_export, encode_export
from dyrygentd.wire.problems import problem_of

T = TypeVar("T")


class SubmitLetter(Struct, omit_defaults=True):
    """A submission.

    Attributes:
        definition: As it is stored, with all task ids.
        chosen: The nodes whose task ids came from outside; None if nobody can tell.
        is_fresh: All other task ids were made for this submission.
    """

    definition: Raw
    chosen: list[int] | None = None
    is_fresh: bool = False


class ImportLetter(Struct, omit_defaults=True):
    """An import: the export, and who brings it. Whose it is from now on stands on the letter."""

    export: Raw
    by: str = ""


class VerbLetter(Struct, omit_defaults=True):
    """A verb.

    Attributes:
        request: The fields of a `VerbRequest`.
        selection: The fields of what it is for, if that is several workflows.
    """

    request: dict[str, Any]
    selection: dict[str, Any] | None = None


def encode_submission(definition: Definition) -> bytes:
    """Write a definition, with what is known of its task ids."""
    chosen = None if definition.chosen is None else sorted(definition.chosen)
    return encode(SubmitLetter(Raw(document_of(definition)), chosen, definition.is_fresh))


def decode_submission(body: bytes) -> Definition:
    """Read what `encode_submission` has written; it was looked at when it came."""
    letter = msgspec.json.decode(body, type=SubmitLetter)
    definition = decode_definition(bytes(letter.definition), nodes_max=NODES_MAX, node_bytes_max=0)
    chosen = None if letter.chosen is None else frozenset(letter.chosen)
    same = replace(definition, chosen=chosen, is_fresh=letter.is_fresh)
    source = definition.source
    return same if source is None else replace(same, source=source._replace(definition=same))


def encode_import(imported: Imported, *, by: str, version: str, now: float) -> bytes:
    """Write an export again that was read."""
    return encode(ImportLetter(Raw(encode_export(imported.exported, version=version, now=now)), by))


def decode_import(body: bytes) -> tuple[Imported, str]:
    """Read what `encode_import` has written: the export, and who brings it."""
    letter = msgspec.json.decode(body, type=ImportLetter)
    return decode_export(bytes(letter.export), nodes_max=NODES_MAX), letter.by


def encode_verb(request: VerbRequest, selection: Any = None) -> bytes:
    """Write a verb, and for which workflows it is, if it is in bulk."""
    fields = None if selection is None else msgspec.to_builtins(selection)
    return encode(VerbLetter(msgspec.to_builtins(request), fields))


def decode_verb(body: bytes, *, letter: int) -> VerbRequest:
    """Read the verb of a letter of this number."""
    return replace(msgspec.convert(msgspec.json.decode(body, type=VerbLetter).request, VerbRequest), letter=letter)


def decode_selection(body: bytes, form: type[T]) -> T:
    """Read for which workflows a verb in bulk is."""
    return msgspec.convert(msgspec.json.decode(body, type=VerbLetter).selection, form)


def awaited_record(body: bytes, workflow_id: str, *, left_at: float, owner: User | None, digest: str) -> WorkflowRecord:
    """Return the workflow that a submission is to make, as it will be stored, nothing of which has run."""
    definition = decode_submission(body)
    return WorkflowRecord(
        workflow_id=workflow_id,
        name=definition.name,
        key=definition.key,
        labels=definition.labels,
        state=WorkflowState.RUNNING,
        created_at=left_at,
        document=document_of(definition),
        task_count=definition.graph.task_count,
        priority=definition.policy.priority,
        owner=owner,
        digest=digest,
        parent_task=definition.parent_task,
        series="" if definition.series is None else definition.series.name,
        if_running="" if definition.series is None else definition.series.if_running.value,
    )


def encode_refusal(error: DyrygentError) -> bytes:
    """Write why something was refused, so that `error_of_refusal` can raise the same."""
    return encode({**problem_of(error), "class": type(error).__name__})


def error_of_refusal(answer: bytes) -> DyrygentError:
    """Return the error that `encode_refusal` has written: of the same class, with the same facts, if it is one that all know."""
    problem: Mapping[str, Any] = msgspec.json.decode(answer)
    found = getattr(errors, problem["class"], None)
    kind = found if isinstance(found, type) and issubclass(found, DyrygentError) else DyrygentError
    error = kind.__new__(kind, problem["detail"])
    error.args = (problem["detail"],)
    vars(error).update(problem["facts"])
    error.status, error.code, error.next_step = problem["status"], problem["code"], problem["next_step"]
    return error
