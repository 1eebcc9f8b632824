"""Whether what is installed is new enough; nothing of it is imported, since that may be what fails.

The bounds are those of pyproject.toml, as pip has written them down beside the package. pip keeps to them unless somebody
installs one of the packages later and alone, or with ``--no-deps``.
"""

import re
from importlib import metadata
from typing import Final

from dyrygentd.errors import ConfigurationError

_REQUIREMENT: Final = re.compile(r"(?P<name>[\w.-]+)(?:\[[^]]*\])?\s*(?P<bounds>[^;]*)(?P<marker>;.*)?")
_LEAST: Final = re.compile(r">=\s*([\d.]+)")
#: Those that have to go together, which are told by name.
TOLD: Final = ("celery", "kombu", "redis")


def refuse_older() -> None:
    """Refuse a dependency that is missing or older than the oldest that works.

    Raises:
        ConfigurationError: The first of them, with the command that mends it.
    """
    for requirement in _requirements():
        found = _REQUIREMENT.match(requirement)
        if found is None or found["marker"]:
            continue
        name, bounds = found["name"], found["bounds"].strip()
        installed = _version(name)
        if installed is not None and not _is_older(installed, bounds):
            continue
        what = f"{name} is not installed" if installed is None else f"{name} {installed} is too old"
        raise ConfigurationError(
            f"{what}: dyrygentd needs {name}{bounds}",
            next_step=f"`pip install '{name}{bounds}'` in the daemon's environment, then `pip check`, which tells of all at once",
        )


def installed() -> str:
    """Return the versions of what has to go together, as words."""
    return ", ".join(f"{name} {_version(name) or 'of unknown version'}" for name in TOLD)


def _requirements() -> list[str]:
    try:
        return metadata.requires("dyrygentd") or []
    except metadata.PackageNotFoundError:
        # A tree of sources on the path: nobody has written bounds down.
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _is_older(installed: str, bounds: str) -> bool:
    least = _LEAST.search(bounds)
    if least is None:
        return False
    numbers, wanted = numbers_of(installed), numbers_of(least[1])
    width = max(len(numbers), len(wanted))
    return numbers + (0,) * (width - len(numbers)) < wanted + (0,) * (width - len(wanted))


def numbers_of(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, ``(5, 6, 2)``; what follows them (rc1, post2) is left out."""
    found = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    return tuple(int(number) for number in found[1].split(".")) if found else ()
