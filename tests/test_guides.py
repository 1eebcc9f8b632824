"""The guides: their tables are what the code says, their links lead somewhere, and the first one is short."""

import re

import pytest

from tests.support.guides import ROOT, TABLES, anchors, guides, links, marked

GUIDES = {str(path.relative_to(ROOT)): path.read_text() for path in guides()}


def test_every_table_is_somewhere() -> None:
    """A table that no guide shows is of no use."""
    assert sorted(name for text in GUIDES.values() for name, _ in marked(text)) == sorted(TABLES)


@pytest.mark.parametrize(("guide", "name"), [(guide, name) for guide, text in GUIDES.items() for name, _ in marked(text)])
def test_table_is_what_the_code_says(guide: str, name: str) -> None:
    """Whoever goes by a table at night goes by the code."""
    shown = dict(marked(GUIDES[guide]))[name]
    assert shown == TABLES[name]() + "\n", f"`python -m tests.support.guides` writes {guide} anew"


@pytest.mark.parametrize(
    ("guide", "link"), [(guide, link) for guide, text in GUIDES.items() for link in dict.fromkeys(links(text))]
)
def test_link_leads_somewhere(guide: str, link: str) -> None:
    """What a guide refers to is there, with the heading that is meant."""
    path, _, anchor = link.partition("#")
    target = (ROOT / guide).parent / path if path else ROOT / guide
    assert target.exists()
    if anchor:
        assert anchor in anchors(target.read_text())


@pytest.mark.parametrize("guide", GUIDES)
def test_paths_exist(guide: str) -> None:
    """Files of the project that a guide names are there."""
    for path in re.findall(r"`((?:tests|dyrygentd|grafana|systemd)/[\w/.-]+)(?:::\w+)?`", GUIDES[guide]):
        assert (ROOT / path).exists(), path


def test_readme_leads_to_every_guide() -> None:
    """Somebody who has the first page finds all others."""
    leads = _led_to("README.md")
    assert GUIDES.keys() - leads - _led_to(_SHAPES) <= {"README.md"}
    assert _SHAPES in leads


#: Leads to the pages of its directory, which the first page has no room for.
_SHAPES = "dyrygentd/canvas/guide/README.md"


def _led_to(guide: str) -> set[str]:
    directory = (ROOT / guide).parent
    return {str((directory / link.partition("#")[0]).resolve().relative_to(ROOT)) for link in links(GUIDES[guide])}


def test_every_example_has_a_name_of_its_own() -> None:
    """Examples of all guides are written into one directory to be tried."""
    names = [name for text in GUIDES.values() for name in re.findall(r"<!-- file: (\S+) -->", text)]
    assert len(names) == len(set(names))


def test_readme_is_read_in_ten_minutes() -> None:
    """What a stranger needs is on one page; the rest stands in the rooms."""
    assert len(GUIDES["README.md"].encode()) <= 12_000
