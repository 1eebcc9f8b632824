"""What a workflow asks for, from its JSON form to the core and back."""

from dyrygentd.core.policy import Retry, WorkflowPolicy
from dyrygentd.errors import BadRequest
from dyrygentd.wire.forms import PolicyDocument, RetryDocument
from dyrygentd.wire.nodes import RAISE_MAXIMUM, WRITE_TIME, moment, retry_of


def document_of_policy(policy: WorkflowPolicy) -> PolicyDocument:
    """Return what a workflow asks for as it is written."""
    return PolicyDocument(
        on_failure=policy.on_failure,
        retry=None if policy.retry is None else document_of_retry(policy.retry),
        timeout_s=policy.timeout_s,
        deadline_s=policy.deadline_s,
        start_at=policy.start_at,
        priority=policy.priority,
        weight=policy.weight,
        in_flight_max=policy.in_flight_max,
        redeliveries_max=policy.redeliveries_max,
    )


def document_of_retry(retry: Retry) -> RetryDocument:
    """Return a retry policy as it is written."""
    return RetryDocument(retry.attempts, retry.backoff_s, retry.backoff_max_s, retry.jitter, sorted(retry.on))


def policy_of(document: PolicyDocument) -> WorkflowPolicy:
    """Read what a workflow asks for. Raises `BadRequest`."""
    return WorkflowPolicy(
        on_failure=document.on_failure,
        retry=None if document.retry is None else _workflow_retry(document.retry),
        timeout_s=document.timeout_s,
        deadline_s=document.deadline_s,
        start_at=_start_at(document.start_at),
        priority=document.priority,
        weight=document.weight,
        in_flight_max=document.in_flight_max,
        redeliveries_max=document.redeliveries_max,
    )


def _workflow_retry(document: RetryDocument) -> Retry:
    try:
        return retry_of(document)
    except ValueError as error:
        raise BadRequest(f"`policy.retry`: {error}", path="$.policy.retry", next_step=RAISE_MAXIMUM) from None


def _start_at(given: float | str) -> float:
    try:
        return moment(given)
    except ValueError as error:
        raise BadRequest(f"`policy.start_at` {error}", path="$.policy.start_at", next_step=WRITE_TIME) from None
