"""Results are read with the app's own backend, whatever app is current in the process."""

import subprocess
import sys

from celery import Celery

from dyrygentd.transport.results import StoredResults
from tests.support.apps import closing


def test_the_app_keeps_its_settings() -> None:
    """Prefix, serializer and expiry are those of the app that is read for, and the app's own backend stays as it was."""
    app = Celery("read", broker="memory://", backend="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(
        result_serializer="pickle",
        accept_content=["json", "pickle"],
        result_expires=77,
        result_backend_transport_options={"global_keyprefix": "shop:"},
    )
    with closing(app):
        decode, reading = app.backend.decode, StoredResults(app.backend).backend
        assert reading is not app.backend
        assert reading.app is app.backend.app
        assert (reading.serializer, reading.expires) == ("pickle", 77)
        assert reading.get_key_for_task("x") == app.backend.get_key_for_task("x")
        assert b"shop" in reading.get_key_for_task("x")
        assert app.backend.decode == decode


def test_other_backends_need_no_sqlalchemy() -> None:
    """Whoever has results in Redis does not load it to be told that they are in no database."""
    program = """
import sys
import subprocess
import sys

from celery import Celery
from dyrygentd.transport.results import StoredResults
StoredResults(Celery(backend="redis://127.0.0.1:1/0").backend)
print("sqlalchemy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
