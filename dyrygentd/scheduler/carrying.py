"""Carries out what a turn has decided: the second half of a turn, on one page."""

import logging
import time

from dyrygentd.core.effects import Batch
from dyrygentd.core.tally import Tally
from dyrygentd.ports import ReportReader, ResultWatcher
from dyrygentd.ports.facts import REPORTS_NOTE
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.children import Beginnings
from dyrygentd.scheduler.courier import Courier
from dyrygentd.scheduler.hindsight import Hindsight
from dyrygentd.scheduler.listeners import Listeners
from dyrygentd.scheduler.saving import Saving
from dyrygentd.scheduler.series_ends import SeriesEnds
from dyrygentd.scheduler.spilling import Spilling
from dyrygentd.scheduler.submissions import Submissions
from dyrygentd.scheduler.unrun import UnrunResults
from dyrygentd.scheduler.verbs import Verbs

logger = logging.getLogger("dyrygentd")


class Carrying:
    """Carries batches out. Guards: nothing of a batch happens before it is on disk, and nothing is sent before it is watched.

    Attributes:
        series_ends: When each series succeeded last.
        spilling: Keeps large values beside the database.
        react_seconds: From the first event of a turn to what follows from it being handed on.
    """

    def __init__(
        self,
        *,
        saving: Saving,
        submissions: Submissions,
        watcher: ResultWatcher,
        courier: Courier,
        hindsight: Hindsight,
        unrun: UnrunResults | None,
        beginnings: Beginnings,
        verbs: Verbs,
        archive: Archive,
        listeners: Listeners,
        reports: ReportReader | None,
        series_ends: SeriesEnds,
        spilling: Spilling,
    ) -> None:
        self.react_seconds = Tally()
        self._saving = saving
        self._submissions = submissions
        self._watcher = watcher
        self._courier = courier
        self._hindsight = hindsight
        self._unrun = unrun
        self._beginnings = beginnings
        self._verbs = verbs
        self._archive = archive
        self._listeners = listeners
        self._reports = reports
        self.series_ends = series_ends
        self.spilling = spilling

    async def carry_out(self, batch: Batch, since: float | None = None) -> None:
        """Carry out a batch, in the order on which the promises of the house rest (each step may be done twice after a crash).

        1. *Save* all of it in one transaction, and wait until that is durable. While the disk refuses, nothing below happens, and
           what is decided meanwhile is merged into the batch. An accepted workflow outlives the power, and what a message
           depends on is on disk before the message is anywhere.
        2. *Accept*: whoever submitted is answered, or learns that the store takes nothing of it.
        3. *Watch* the task ids that are about to be sent, since a worker may be faster than the broker's answer.
        4. *Publish*, as far as it is still wanted: the courier sends as soon as the broker can be reached, and what becomes of a
           message is an event of a later turn. What may have been done before a setback is read first; what follows a task that
           never ran waits until that one's end is told.
        5. *Unwatch* the ids that nobody waits for any more; never one of those above.
        6. *Revoke* what was given up, have the broker forget the markers of what has ended, and delete values that nobody needs.
        7. *Begin* the workflows of nodes that wait for them, and *answer* those who have asked for verbs.
        8. *Tell* the log, the listeners, and the reports' stream up to where it is worked in.

        Step 1 waits for the disk, and the note about the reports in step 8; in between nothing does, so no step is left out.

        Args:
            since: When the first event of the turn came.
        """
        await self._saving.save(batch)

        publish = [message for message in batch.publish if not self._submissions.is_withdrawn(message.workflow_id)]
        self._submissions.saved(batch.save_workflows, batch.refused, batch.finished, batch.admissions)
        self.series_ends.saved(batch.save_workflows)

        if batch.watch:
            self._watcher.watch(batch.watch)

        straight = self._hindsight.divert(publish)
        self._courier.hand_in(straight if self._unrun is None else self._unrun.take(batch.unrun, straight))

        if batch.unwatch:
            self._watcher.unwatch(batch.unwatch)

        if batch.revoke or batch.revoke_stamped:
            self._courier.revoke(batch.revoke, batch.revoke_stamped)
        if batch.finished:
            self._courier.forget(workflow.workflow_id for workflow in batch.finished)

        self.spilling.delete(batch.released)

        self._beginnings.hand_in(batch.begin, batch.set_going)
        self._verbs.answered(batch.answers)

        for workflow in batch.finished:
            logger.info("workflow %s %r %s", workflow.workflow_id, workflow.name, workflow.state)
        for workflow_id in batch.changed:
            self._archive.drop(workflow_id)
            self._listeners.notify(workflow_id)
        if since is not None:
            self.react_seconds.add(time.monotonic() - since)
        if batch.reports_read and await self._saving.remember(REPORTS_NOTE, batch.reports_read) and self._reports is not None:
            self._reports.kept(batch.reports_read)
