"""Bounds of what somebody may ask for: the builder, the wire, the command line and the engine refuse by these, and by no others.

Bounds of bytes, which only documents have, are in `dyrygentd.wire.bounds`; what the engine keeps, and a configuration
may change, is in `dyrygentd.core.limits`.
"""

from typing import Final

#: Of one workflow, unless the daemon is configured otherwise.
NODES_ACCEPTED_MAX: Final = 200_000
#: So that a listing stays readable and a row small.
NAME_LENGTH_MAX: Final = 200
LABELS_MAX: Final = 50
#: Characters of the path of a section, and its parts: deeper ones are opened by nobody.
SECTION_LENGTH_MAX: Final = 200
SECTION_DEPTH_MAX: Final = 8
#: Of arguments and definitions, as deep as the messages of Celery get anyway: kombu reads and writes them by recursion.
DEPTH_MAX: Final = 200
#: Hooks of one workflow that is submitted: each has an edge from every end of the graph.
HOOKS_MAX: Final = 100

#: Items of the list of a map, unless it says something else, and whatever it says.
ITEMS_MAX_DEFAULT: Final = 10_000
ITEMS_MAX: Final = 1_000_000

#: What is longer is a mistake of units.
POLICY_SECONDS_MAX: Final = 10 * 366 * 86_400
#: Who asks more often than a worker answers has asked in vain, and who asks once a year has forgotten it.
POLL_EVERY_MIN_S: Final = 0.1
POLL_EVERY_MAX_S: Final = 366 * 86_400
ATTEMPTS_MAX: Final = 1000
WEIGHT_MAX: Final = 1000
#: Whoever means more means 0.
REDELIVERIES_MAX: Final = 1000
#: On either side of 0, of workflows: far beyond any use, and still one integer for SQLite and JSON.
PRIORITY_MAX: Final = 1_000_000
#: Of messages: AMQP has one byte for it.
MESSAGE_PRIORITY_MAX: Final = 255
#: Of one condition: comparisons and combinations in it, how deep they stand in each other, and bytes of JSON.
WHEN_PARTS_MAX: Final = 100
WHEN_DEPTH_MAX: Final = 8
WHEN_BYTES_MAX: Final = 16_384
#: Of a value that a condition looks into: reading it holds the loop for some milliseconds.
WHEN_VALUE_BYTES_MAX: Final = 256 * 1024
