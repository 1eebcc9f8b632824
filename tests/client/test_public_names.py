"""The public names of the package: all there, and none imported before it is used."""

import subprocess
import sys

import pytest

import dyrygentd


def test_all_public_names_exist() -> None:
    """What the documentation imports can be imported, and completion in a shell shows it."""
    for name in dyrygentd.__all__:
        assert getattr(dyrygentd, name) is not None
        assert name in dir(dyrygentd)


def test_unknown_name_is_an_attribute_error() -> None:
    """The lazy names behave as ordinary ones do, also when they are misspelt."""
    with pytest.raises(AttributeError, match="no attribute 'Cilent'"):
        _ = dyrygentd.Cilent


def test_import_of_the_package_imports_nothing_else() -> None:
    """Whoever needs one name pays for that one."""
    script = "import sys, dyrygentd; print(*[name for name in sys.modules if name.startswith('dyrygentd.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == ""
