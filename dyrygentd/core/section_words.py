"""What is told to people of what runs at the end of a section: for what it waits, and why it was not needed."""

from dyrygentd.core.policy import SectionEnd
from dyrygentd.core.verdicts import has_begun
from dyrygentd.core.workflow import RunningWorkflow


def words_of_waited_for(workflow: RunningWorkflow, node: int) -> str:
    """Return what those are for which a node waits."""
    if workflow.graph.policy(node).section_end is None:
        return "dependencies"
    return f"nodes before the end of section '{workflow.graph.sections.of(node)}'"


def words_of_unneeded_end(workflow: RunningWorkflow, node: int) -> str:
    """Return why what is at the end of a section was not needed, empty if it is none, or its rule said so."""
    end, counts = workflow.graph.policy(node).section_end, workflow.nodes.sections
    if end is None or counts is None:
        return ""
    section, scope = f"section '{workflow.graph.sections.of(node)}'", counts.ends.ended_by[node]
    if not counts.open[scope] and not has_begun(workflow, scope):
        return f"nothing of {section} ran, so there is nothing to end"
    if end is SectionEnd.FINALLY:
        return ""
    return f"{section} has {'failed' if end is SectionEnd.SUCCESS else 'succeeded'}"
