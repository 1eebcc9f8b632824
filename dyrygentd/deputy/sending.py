"""Submissions and verbs, left as letters for whoever leads, and answered with its answers.

*A submission* is durable as soon as its letter is. Whoever leads has a moment to answer; if it does not, the submission is
answered with what is known here, and goes on by itself. Should it be refused later, asking for it by its id tells so.

*A verb* is answered when it is carried out. If that takes too long it is told as what it is: not yet. The letter stays.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from dyrygentd import __version__, wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.user import User
from dyrygentd.core.verbs import VerbRequest
from dyrygentd.errors import KeyTaken
from dyrygentd.ports import Clock, Store
from dyrygentd.ports.facts import Selection
from dyrygentd.ports.mailbox import Letter, LetterKind, Mailbox, NotCarriedOutYet
from dyrygentd.scheduler.admissions import answer_to
from dyrygentd.scheduler.archive import in_thread_if_long
from dyrygentd.wire import letters as forms
from dyrygentd.wire.digests import difference, digest_of, is_other

T = TypeVar("T")

#: How long a submission waits for the answer of whoever leads, and a verb. Clients give up after a minute.
_MOMENT_S: Final = 2.0
_VERB_MAX_S: Final = 30.0


class Sending:
    """Leaves letters and waits for answers. Guards: what is answered is durable, and nothing that may be done is said not to be.

    Args:
        store: Tells which keys are known already.
        host: Which host this is, beside the owners of all others.
        moment_s: How long a submission waits for whoever leads.
        verb_max_s: How long a verb does.
        make_id: Makes ids of letters, and of the workflows that they submit.
    """

    def __init__(
        self,
        store: Store,
        mailbox: Mailbox,
        clock: Clock,
        *,
        host: str,
        moment_s: float = _MOMENT_S,
        verb_max_s: float = _VERB_MAX_S,
        make_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._store = store
        self._mailbox = mailbox
        self._clock = clock
        self._host = host
        self._moment_s = moment_s
        self._verb_max_s = verb_max_s
        self._make_id = make_id
        self.left = 0

    def __repr__(self) -> str:
        return f"<Sending from '{self._host}' left={self.left}>"

    async def submit(self, definition: Definition, owner: User | None) -> wire.Submitted:
        """Leave a submission; return when it is durable, with the answer of whoever leads if that comes in a moment.

        Raises:
            MailboxFull, StoreUnavailable: Nothing was left.
            KeyTaken: A submission with its key waits, and has another definition.
            DyrygentError: What the one that leads has answered.
        """
        size = 100 * len(definition.graph)
        body = await in_thread_if_long(lambda: forms.encode_submission(definition), size)
        digest = "" if definition.key is None else await in_thread_if_long(lambda: digest_of(definition), size)
        known = None if definition.key is None else await self._known(definition.key, owner, digest)
        if known is not None:
            return known
        letter = Letter(
            self._make_id().hex,
            LetterKind.SUBMIT,
            body,
            str(self._make_id()),
            owner,
            self._host,
            key=definition.key,
            digest=digest,
        )
        kept = await self._leave(letter)
        is_new = kept.token == letter.token
        if not is_new and is_other(kept.digest, digest):
            assert definition.key is not None
            other = await in_thread_if_long(lambda: forms.decode_submission(kept.body), len(kept.body))
            raise KeyTaken(definition.key, kept.workflow_id, difference(other, definition))
        submitted = await self._answer(kept, wire.Submitted, self._moment_s)
        if submitted is None:
            submitted = answer_to(definition, kept.workflow_id)
        if not is_new:
            submitted.created = False
        return submitted

    async def _known(self, key: str, owner: User | None, digest: str) -> wire.Submitted | None:
        """Return what was submitted with a key before, unless that is something else: the leader tells what differs."""
        known = await self._store.find_key(key, owner)
        record = None if known is None else await self._store.record(known)
        if record is None or is_other(record.digest, digest):
            return None
        return wire.Submitted(id=record.workflow_id, name=record.name, tasks=record.task_count, created=False)

    async def take_over(self, imported: wire.Imported, *, by: str = "", owner: User | None = None) -> wire.Submitted:
        """Leave an import; raises and returns as `submit` does."""
        workflow_id, now = imported.record.workflow_id, self._clock.now()
        body = await in_thread_if_long(
            lambda: forms.encode_import(imported, by=by, version=__version__, now=now),
            len(imported.record.document or b""),
        )
        kept = await self._leave(Letter(self._make_id().hex, LetterKind.IMPORT, body, workflow_id, owner, self._host))
        return await self._answer(kept, wire.Submitted, self._moment_s) or answer_to(imported.definition, workflow_id)

    async def perform(self, workflow_id: str, request: VerbRequest) -> wire.Changed:
        """Leave a verb; return when it is carried out.

        Raises:
            MailboxFull, StoreUnavailable: Nothing was left.
            NotCarriedOutYet: Nobody has carried it out in time; it will be.
            DyrygentError: What the one that leads has answered.
        """
        body = forms.encode_verb(request)
        kept = await self._leave(Letter(self._make_id().hex, LetterKind.PERFORM, body, workflow_id, request.asker, self._host))
        changed = await self._answer(kept, wire.Changed, self._verb_max_s)
        if changed is None:
            raise NotCarriedOutYet(f"'{request.verb}' of workflow '{workflow_id}'", workflow_id, kept.number)
        return changed

    async def perform_in_bulk(self, selection: Selection, request: VerbRequest) -> wire.BulkChanged:
        """Leave a verb for all workflows that fit; raises as `perform` does."""
        body = forms.encode_verb(request, selection)
        kept = await self._leave(Letter(self._make_id().hex, LetterKind.PERFORM_IN_BULK, body, "", request.asker, self._host))
        changed = await self._answer(kept, wire.BulkChanged, self._verb_max_s)
        if changed is None:
            raise NotCarriedOutYet(f"'{request.verb}' in bulk", "", kept.number)
        return changed

    async def _leave(self, letter: Letter) -> Letter:
        kept = await self._mailbox.leave(letter)
        self.left += 1
        return kept

    async def _answer(self, letter: Letter, form: type[T], timeout_s: float) -> T | None:
        """Return what was answered, None if nothing was in time; raise what it was refused for."""
        answered = await self._mailbox.answered(letter.number, timeout_s=timeout_s)
        if answered is None:
            return None
        if answered.is_refused:
            raise forms.error_of_refusal(answered.answer)
        return await in_thread_if_long(lambda: _decoded(answered.answer, form), len(answered.answer))


def _decoded(answer: bytes, form: type[T]) -> T:
    decoded: Any = wire.decode(answer, form)
    return decoded  # type: ignore[no-any-return]
