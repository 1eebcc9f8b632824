"""The interface of celery-dyrygent 0.8.0 (OVH SAS, BSD-3-Clause) on top of dyrygentd: one changed import.

``celery_dyrygent.X`` is ``dyrygentd.compat.celery_dyrygent.X`` here, for every module. What is the same and what differs is in
`dyrygentd/compat/README.md`, member by member. Theory of operation:

- `Workflow` is the same builder: nodes by task id, dependencies among them, and a `to_dict` that either library reads.
- `Workflow.apply_async` hands that dict to the daemon as a definition (`adopted_definition`) instead of sending it to itself
  again and again. The daemon publishes the tasks, under the same ids; hooks run in the process that follows the workflow.
- The Celery task that `register_workflow_processor` registers still exists. It hands over what it receives, and then only looks
  and runs hooks. So a workflow that is under way moves over at its next tick, whoever started it; with ``via_worker=True`` new
  ones take this way too, for programs that have a broker but no socket.
"""

from dyrygentd.compat.celery_dyrygent.adoption import adopted_definition, workflow_dict_of
from dyrygentd.compat.celery_dyrygent.result import WorkflowFailed, WorkflowResult
from dyrygentd.compat.celery_dyrygent.tasks import register_workflow_processor, workflow_processor
from dyrygentd.compat.celery_dyrygent.workflows import Workflow, WorkflowException, WorkflowNode

#: The version of celery-dyrygent whose interface this is.
VERSION = "0.8.0"

__all__ = [
    "VERSION",
    "Workflow",
    "WorkflowException",
    "WorkflowFailed",
    "WorkflowNode",
    "WorkflowResult",
    "adopted_definition",
    "register_workflow_processor",
    "workflow_dict_of",
    "workflow_processor",
]
