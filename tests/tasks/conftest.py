"""The daemon that these tests submit to."""

from tests.http.support import daemon

__all__ = ["daemon"]
