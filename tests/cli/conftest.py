"""The daemons that these tests talk to."""

from tests.http.support import daemon, holding

__all__ = ["daemon", "holding"]
