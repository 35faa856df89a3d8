"""Documents name what there is: their links lead somewhere, and the files and tests that they name exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
TEST_FILE = re.compile(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)`")
NAMED_TEST = re.compile(r"`(test_\w+?)(_?…)?`")
SOURCE = re.compile(
    r"`((?:attacks|client|data|deploy|models|protocol|server|settings|strategies)/(?!(?:\w+/)*test_)[\w/]+\.py)`"
)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(line.lstrip("#")) for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("#")}


def broken(page: Path) -> Iterator[str]:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            yield link


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def unknown_tests(page: Path) -> Iterator[str]:
    """The test files and tests that a page names and that are not there; a test is looked for in the file before it."""
    for line in page.read_text(encoding="utf-8").splitlines():
        known: set[str] = set()
        for found in re.finditer(f"{TEST_FILE.pattern}|{NAMED_TEST.pattern}", line):
            file, test, cut = found.groups()
            if file:
                path = ROOT / "tests" / file
                known = names_in(path) if path.is_file() else set()
                if not path.is_file():
                    yield file
            elif not any(each.startswith(f"{test}_") if cut else each == test for each in known):
                yield test


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


# docs/files.md names no tests, but a field test_last_five.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "files.md"], ids=name_of)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    assert list(unknown_tests(page)) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "results"], ids=name_of)
def test_every_source_that_a_page_names_exists(page: Path) -> None:
    named = SOURCE.findall(page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("page", ["security.md", "architecture.md"])
def test_the_pages_that_promise_tests_name_some(page: str) -> None:
    assert len(TEST_FILE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))) > 10


def test_the_index_lists_every_page() -> None:
    listed = {link.partition("#")[0] for link in LINK.findall((ROOT / "docs/index.md").read_text(encoding="utf-8"))}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"} <= listed


def test_a_broken_link_and_a_test_that_is_none_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n[a](#a) [b](gone.md) [c](#b) `test_rooms.py`: `test_a_room_…`, `test_no_such`; `test_gone.py`\n"
    )
    assert list(broken(page)) == ["gone.md", "#b"]
    assert list(unknown_tests(page)) == ["test_no_such", "test_gone.py"]
