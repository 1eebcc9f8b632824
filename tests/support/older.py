"""The tests' app as an older version of it: it does not have `noop`."""

from tests.support.tasks import app, noop

__all__ = ["app"]

app.tasks.unregister(noop.name)
