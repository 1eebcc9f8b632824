"""JSON forms shared by server and client: definitions that come in, views and problems that go out."""

from typing import Final

from dyrygentd.wire.definitions import (
    decode_definition,
    document_of,
    encode_definition,
    parameters_of,
)
from dyrygentd.wire.encoding import decode, decode_any, encode, schemas
from dyrygentd.wire.estimates import (
    EstimateView,
    PathView,
    RunTimesView,
    RunTimeView,
    view_of_estimate,
    view_of_run_times,
)
from dyrygentd.wire.exports import ExportDocument, Imported, decode_export, encode_export
from dyrygentd.wire.fold_changes import FoldChanges, FoldHistory, with_changes
from dyrygentd.wire.folds import BoxView, EdgeView, FoldView, view_of_fold
from dyrygentd.wire.forms import DEFINITION_VERSION, NodeDocument, WorkflowDocument
from dyrygentd.wire.outcomes import Outcome, outcome_of
from dyrygentd.wire.overview import Overview, OverviewItem
from dyrygentd.wire.parents import ParentTaskView
from dyrygentd.wire.plain import View
from dyrygentd.wire.problems import PROBLEM, error_of_problem, is_problem, problem_of
from dyrygentd.wire.requests import VerbDocument, decode_request, request_of
from dyrygentd.wire.schema import definition_schema
from dyrygentd.wire.showing import (
    causes_of,
    view_of_entry,
    view_of_node,
    view_of_record,
    view_of_running,
)
from dyrygentd.wire.summary import Summary, decode_summary
from dyrygentd.wire.timelines import TimelineRow, TimelineView, view_of_timeline
from dyrygentd.wire.views import (
    BulkChanged,
    Causes,
    CauseView,
    Changed,
    Explanation,
    Health,
    Journal,
    JournalView,
    NodePage,
    NodeView,
    Refusal,
    StandingView,
    Statistics,
    Submitted,
    WorkflowPage,
    WorkflowView,
    decode_view,
)
from dyrygentd.wire.words import HoldWord, KindWord, NodeWord, WorkflowWord

#: Response header with the version of the daemon; an answer without it comes from something else.
VERSION_HEADER: Final = "Dyrygentd-Version"

API_VERSION: Final = "v1"

__all__ = [
    "API_VERSION",
    "DEFINITION_VERSION",
    "PROBLEM",
    "VERSION_HEADER",
    "BoxView",
    "BulkChanged",
    "CauseView",
    "Causes",
    "Changed",
    "EdgeView",
    "EstimateView",
    "Explanation",
    "ExportDocument",
    "FoldChanges",
    "FoldHistory",
    "FoldView",
    "Health",
    "HoldWord",
    "Imported",
    "Journal",
    "JournalView",
    "KindWord",
    "NodeDocument",
    "NodePage",
    "NodeView",
    "NodeWord",
    "Outcome",
    "Overview",
    "OverviewItem",
    "ParentTaskView",
    "PathView",
    "Refusal",
    "RunTimeView",
    "RunTimesView",
    "StandingView",
    "Statistics",
    "Submitted",
    "Summary",
    "TimelineRow",
    "TimelineView",
    "VerbDocument",
    "View",
    "WorkflowDocument",
    "WorkflowPage",
    "WorkflowView",
    "WorkflowWord",
    "causes_of",
    "decode",
    "decode_any",
    "decode_definition",
    "decode_export",
    "decode_request",
    "decode_summary",
    "decode_view",
    "definition_schema",
    "document_of",
    "encode",
    "encode_definition",
    "encode_export",
    "error_of_problem",
    "is_problem",
    "outcome_of",
    "parameters_of",
    "problem_of",
    "request_of",
    "schemas",
    "view_of_entry",
    "view_of_estimate",
    "view_of_fold",
    "view_of_node",
    "view_of_record",
    "view_of_run_times",
    "view_of_running",
    "view_of_timeline",
    "with_changes",
]
