"""The page's files: what is shipped, how large it is, and that it comes from nowhere else."""

import gzip
import re
import tomllib

import pytest

from dyrygentd import page
from tests.support.daemon import ROOT

_PACKED_MAX = 61_000
_STATIC = ROOT / "dyrygentd/page/static"


def test_all_of_it_is_small() -> None:
    """It is there at once, also by way of an SSH tunnel."""
    assert sum(len(file.packed) for file in page.files().values()) <= _PACKED_MAX


def test_what_is_packed_is_the_same() -> None:
    """Whoever takes gzip sees the same page."""
    assert all(gzip.decompress(file.packed) == file.body for file in page.files().values())


def test_comments_stay_at_home() -> None:
    """What is sent is the code, line by line where it was written; what is left out is nothing but comments and indentation."""
    for path in (*_STATIC.glob("*.js"), *_STATIC.glob("*.css")):
        written, sent = path.read_text().split("\n"), page.files()[path.name].body.decode().split("\n")
        assert len(written) == len(sent), path.name
        for before, after in zip(written, sent, strict=True):
            code = before.lstrip(" ")
            assert after == code or (after == "" and code.startswith(("//", "/*", "*"))), (path.name, before)
        assert not [line for line in sent if line.startswith(("//", "/*", " "))]


def test_wheel_has_all_files() -> None:
    """The directory is inside the package, and nothing that is left out of it by name ends as the page's files do."""
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert built["targets"]["wheel"]["packages"] == ["dyrygentd"]
    assert "exclude" not in built | built["targets"]["wheel"]
    ignored = (ROOT / ".gitignore").read_text().split()
    names = {path.name for path in _STATIC.rglob("*") if path.is_file()}
    assert not [name for name in names for pattern in ignored if name.endswith(pattern.lstrip("*"))]


def test_everything_named_is_there() -> None:
    """No module imports, and no document links, what is not shipped."""
    files = page.files()
    for name, file in files.items():
        text = file.body.decode()
        base = name.rpartition("/")[0]
        for target in re.findall(r"""(?:from ?|import ?|import\()["'](\./[^"']+)["']""", text):
            assert f"{base}/{target[2:]}".lstrip("/") in files, (name, target)
        for target in re.findall(r'(?:href|src)="/page/([^"]+)"', text):
            assert target in files, (name, target)


def test_all_modules_are_asked_for_at_once() -> None:
    """A browser that learns of a module by reading another one waits once more for each; none is fetched that nothing needs."""
    files, needed, pending = page.files(), set[str](), ["app.js"]
    while pending:
        name = pending.pop()
        base = name.rpartition("/")[0]
        named = re.findall(r"""(?:from ?|import ?)["']\./([^"']+)["']""", files[name].body.decode())
        found = {f"{base}/{target}".lstrip("/") for target in named} - needed
        needed |= found
        pending += found
    preloaded = re.findall(r'rel="modulepreload" href="/page/([^"]+)"', files[page.START].body.decode())
    assert sorted(preloaded) == sorted(needed)


def test_modules_import_what_they_call() -> None:
    """A merge can lose an import, and no browser tells of it before somebody opens the view that calls what is not there."""
    sources = {name: file.body.decode() for name, file in page.files().items() if name.endswith(".js") and "/" not in name}
    imports = {name: set(_imported(text)) for name, text in sources.items()}
    missing = {
        (name, word)
        for name, text in sources.items()
        for word in set().union(*imports.values()) - imports[name]
        if re.search(rf"(?<![\w.$]){word}\(|<\$\{{{word}\}}", text)
        and not re.search(rf"(?:function|const|let|class) {word}\b|[\[{{(,]\s*{word}\s*(?:=[^=>]|[,}}\])])", text)
    }
    assert missing == set()


def _imported(text: str) -> list[str]:
    """Return the names of what a module imports, as it calls them."""
    lists = re.findall(r"import \{([^}]*)\} from", text)
    return [each.split(" as ")[-1].strip() for some in lists for each in some.split(",") if each.strip()]


def test_libraries_have_their_licences() -> None:
    """Who gets the wheel gets them with it, and the guide says which versions they are."""
    guide = (ROOT / "dyrygentd/page/README.md").read_text()
    for path in (_STATIC / "vendor").glob("*.js"):
        name = {"hooks": "preact"}.get(path.stem, path.stem)
        assert (_STATIC / f"vendor/{name}.LICENSE").exists()
        assert f"`vendor/{path.name}`" in guide


def test_nothing_is_inserted_as_markup() -> None:
    """What users wrote becomes text, and no style or script that the policy forbids is written."""
    for path in (*_STATIC.glob("*.js"), *_STATIC.glob("*.html")):
        text = path.read_text()
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "http:",
            "https:",
        ):
            assert word not in text.replace("http://www.w3.org/2000/svg", ""), (path.name, word)


def test_unknown_file_is_none() -> None:
    """Names lead to files of the page and nowhere else."""
    for name in ("", "..", "../__init__.py", "vendor/preact.LICENSE", "vendor", "/etc/passwd"):
        assert page.answer(name) is None


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZIP;q=0.5", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("br, gzip; q=0.00", False),
        ("x-gzipped", False),
    ],
)
def test_gzip_is_for_who_takes_it(accepted: str, is_packed: bool) -> None:
    """Other bytes have another tag, so that no cache takes one for the other, and each is known by its own."""
    answer, plain = page.answer("app.js", {"Accept-Encoding": accepted}), page.answer("app.js")
    assert answer is not None
    assert plain is not None
    assert ("Content-Encoding" in answer.headers) is is_packed
    assert (answer.headers["ETag"] != plain.headers["ETag"]) is is_packed
    for known, is_same in ((answer, True), (plain, not is_packed)):
        asked = {"Accept-Encoding": accepted, "If-None-Match": f'"other", W/{known.headers["ETag"]}'}
        again = page.answer("app.js", asked)
        assert again is not None
        assert (again.status == 304) is is_same


def test_mode_says_what_is_allowed() -> None:
    """Who serves it for a person says so."""
    assert b'"acts": true, "user": "ada"' in page.mode(acts=True, user="ada").body
