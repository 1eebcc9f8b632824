"""What a workflow asks for comes back from its JSON form as it was."""

import pytest

from dyrygentd.core.policy import PLAIN_WORKFLOW, OnFailure, Retry, WorkflowPolicy
from dyrygentd.errors import BadRequest
from dyrygentd.wire.forms import PolicyDocument, RetryDocument
from dyrygentd.wire.policies import document_of_policy, policy_of


@pytest.mark.parametrize(
    "policy",
    [
        PLAIN_WORKFLOW,
        WorkflowPolicy(OnFailure.STOP, Retry(7), 1.0, 2.0, 3.0, -4, 5, 6, 7),
    ],
)
def test_comes_back(policy: WorkflowPolicy) -> None:
    """A workflow that is read from the store goes on as it was meant."""
    assert policy_of(document_of_policy(policy)) == policy


def test_what_is_wrong() -> None:
    """The field is named, by its path."""
    with pytest.raises(BadRequest) as caught:
        policy_of(PolicyDocument(retry=RetryDocument(backoff_s=10, backoff_max_s=1)))
    assert caught.value.path == "$.policy.retry"
    with pytest.raises(BadRequest) as caught:
        policy_of(PolicyDocument(start_at="tomorrow"))
    assert caught.value.path == "$.policy.start_at"
