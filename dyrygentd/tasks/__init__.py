"""What the program that submits knows of its tasks, and the daemon may not.

The daemon publishes below `apply_async`, and one that is given URLs instead of an app has no task classes and no routes. The
program that builds a canvas has both: what `apply_async` would do with a task there is done here, where the definition is made,
and nothing of it needs the broker.

- `known`: the tasks behind the names in a workflow, found by the signatures that it was built from.
- `written`: what classes, annotations, routes and settings say about messages becomes publish options; what `apply_async` refuses
  is refused.
- `overrides`: `apply_async` and `send_task` that somebody has overridden are called, and what they pass down is kept.
"""
