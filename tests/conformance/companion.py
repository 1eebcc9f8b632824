"""The tasks of `tests.conformance.states`, run by workers with our companion."""

import dyrygentd.worker
from tests.conformance.states import app

dyrygentd.worker.install(app)
