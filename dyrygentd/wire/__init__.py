"""JSON forms shared by server and client: definitions that come in, views and problems that go out.

The names below are imported when they are first used: a command line that shows a list needs no reader of definitions, and
nothing of what a daemon decides by.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dyrygentd.wire.definitions import (
        checked_child,
        decode_child,
        decode_definition,
        document_of,
        encode_definition,
        inner_of,
        map_of_definition,
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
    from dyrygentd.wire.expanding import ChildPlace, expand_child, is_expanded, sample_of
    from dyrygentd.wire.exports import CHILDREN_MAX, ExportDocument, Exported, Imported, decode_export, encode_export
    from dyrygentd.wire.fold_changes import FoldChanges, FoldHistory, with_changes
    from dyrygentd.wire.folds import BoxView, EdgeView, FoldView, view_of_fold
    from dyrygentd.wire.forms import DEFINITION_VERSION, MapDocument, NodeDocument, WorkflowDocument
    from dyrygentd.wire.health import NOBODY_LEADS, VANTAGE_HEADER, Health, Statistics, knows_nobody_leads, lease_words, who_leads
    from dyrygentd.wire.outcomes import Outcome, outcome_of
    from dyrygentd.wire.over import MAP
    from dyrygentd.wire.overview import Overview, OverviewItem
    from dyrygentd.wire.parents import BelowView, ChildView, ParentTaskView, ParentView
    from dyrygentd.wire.plain import View
    from dyrygentd.wire.problems import PROBLEM, error_of_problem, is_problem, problem_of
    from dyrygentd.wire.requests import VerbDocument, decode_request, request_of
    from dyrygentd.wire.schema import definition_schema, describe_child, describe_map
    from dyrygentd.wire.showing import (
        causes_of,
        view_of_child,
        view_of_entry,
        view_of_node,
        view_of_record,
        view_of_running,
        views_of_attempts,
    )
    from dyrygentd.wire.summary import Summary, decode_summary
    from dyrygentd.wire.timelines import TimelineRow, TimelineView, view_of_timeline
    from dyrygentd.wire.views import (
        AttemptView,
        BulkChanged,
        Causes,
        CauseView,
        Changed,
        Explanation,
        Journal,
        JournalView,
        NodePage,
        NodeView,
        Refusal,
        StandingView,
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
    "CHILDREN_MAX",
    "DEFINITION_VERSION",
    "MAP",
    "NOBODY_LEADS",
    "PROBLEM",
    "VANTAGE_HEADER",
    "VERSION_HEADER",
    "AttemptView",
    "BelowView",
    "BoxView",
    "BulkChanged",
    "CauseView",
    "Causes",
    "Changed",
    "ChildPlace",
    "ChildView",
    "EdgeView",
    "EstimateView",
    "Explanation",
    "ExportDocument",
    "Exported",
    "FoldChanges",
    "FoldHistory",
    "FoldView",
    "Health",
    "HoldWord",
    "Imported",
    "Journal",
    "JournalView",
    "KindWord",
    "MapDocument",
    "NodeDocument",
    "NodePage",
    "NodeView",
    "NodeWord",
    "Outcome",
    "Overview",
    "OverviewItem",
    "ParentTaskView",
    "ParentView",
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
    "checked_child",
    "decode",
    "decode_any",
    "decode_child",
    "decode_definition",
    "decode_export",
    "decode_request",
    "decode_summary",
    "decode_view",
    "definition_schema",
    "describe_child",
    "describe_map",
    "document_of",
    "encode",
    "encode_definition",
    "encode_export",
    "error_of_problem",
    "expand_child",
    "inner_of",
    "is_expanded",
    "is_problem",
    "knows_nobody_leads",
    "lease_words",
    "map_of_definition",
    "outcome_of",
    "parameters_of",
    "problem_of",
    "request_of",
    "sample_of",
    "schemas",
    "view_of_child",
    "view_of_entry",
    "view_of_estimate",
    "view_of_fold",
    "view_of_node",
    "view_of_record",
    "view_of_run_times",
    "view_of_running",
    "view_of_timeline",
    "views_of_attempts",
    "who_leads",
    "with_changes",
]

_HOMES: Final = {
    "checked_child": "definitions",
    "decode_child": "definitions",
    "decode_definition": "definitions",
    "document_of": "definitions",
    "encode_definition": "definitions",
    "inner_of": "definitions",
    "map_of_definition": "definitions",
    "parameters_of": "definitions",
    "decode": "encoding",
    "decode_any": "encoding",
    "encode": "encoding",
    "schemas": "encoding",
    "EstimateView": "estimates",
    "PathView": "estimates",
    "RunTimeView": "estimates",
    "RunTimesView": "estimates",
    "view_of_estimate": "estimates",
    "view_of_run_times": "estimates",
    "ChildPlace": "expanding",
    "expand_child": "expanding",
    "is_expanded": "expanding",
    "sample_of": "expanding",
    "CHILDREN_MAX": "exports",
    "ExportDocument": "exports",
    "Exported": "exports",
    "Imported": "exports",
    "decode_export": "exports",
    "encode_export": "exports",
    "FoldChanges": "fold_changes",
    "FoldHistory": "fold_changes",
    "with_changes": "fold_changes",
    "BoxView": "folds",
    "EdgeView": "folds",
    "FoldView": "folds",
    "view_of_fold": "folds",
    "DEFINITION_VERSION": "forms",
    "MapDocument": "forms",
    "NodeDocument": "forms",
    "WorkflowDocument": "forms",
    "Outcome": "outcomes",
    "outcome_of": "outcomes",
    "Overview": "overview",
    "OverviewItem": "overview",
    "MAP": "over",
    "ParentTaskView": "parents",
    "ParentView": "parents",
    "BelowView": "parents",
    "ChildView": "parents",
    "View": "plain",
    "PROBLEM": "problems",
    "error_of_problem": "problems",
    "is_problem": "problems",
    "problem_of": "problems",
    "VerbDocument": "requests",
    "decode_request": "requests",
    "request_of": "requests",
    "definition_schema": "schema",
    "describe_child": "schema",
    "describe_map": "schema",
    "NOBODY_LEADS": "health",
    "VANTAGE_HEADER": "health",
    "Health": "health",
    "Statistics": "health",
    "knows_nobody_leads": "health",
    "lease_words": "health",
    "who_leads": "health",
    "causes_of": "showing",
    "view_of_entry": "showing",
    "view_of_node": "showing",
    "views_of_attempts": "showing",
    "view_of_record": "showing",
    "view_of_child": "showing",
    "view_of_running": "showing",
    "Summary": "summary",
    "decode_summary": "summary",
    "TimelineRow": "timelines",
    "TimelineView": "timelines",
    "view_of_timeline": "timelines",
    "BulkChanged": "views",
    "CauseView": "views",
    "Causes": "views",
    "Changed": "views",
    "Explanation": "views",
    "Journal": "views",
    "JournalView": "views",
    "NodePage": "views",
    "NodeView": "views",
    "AttemptView": "views",
    "Refusal": "views",
    "StandingView": "views",
    "Submitted": "views",
    "WorkflowPage": "views",
    "WorkflowView": "views",
    "decode_view": "views",
    "HoldWord": "words",
    "KindWord": "words",
    "NodeWord": "words",
    "WorkflowWord": "words",
}
"""The module of this room in which each of them is."""


# A type checker that saw it would take any name for one of the room.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'dyrygentd.wire' has no attribute '{name}'")
        found = globals()[name] = getattr(import_module(f"dyrygentd.wire.{_HOMES[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
