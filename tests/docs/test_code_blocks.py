"""The documentation's code runs, and its links lead somewhere.

A block of Python below the comment ``<!-- runnable -->`` runs; the runnable blocks of one page run one after another in
one process, as a reader would type them, in an empty directory. What they claim stands in their assertions.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "README.md"]
RUNNABLE = re.compile(r"<!-- runnable -->\n```python\n(.*?)```", re.DOTALL)
SHOWN = re.compile(r"<!-- from (examples/\w+\.py) -->\n```python\n(.*?)```", re.DOTALL)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if RUNNABLE.search(text_of(page))], ids=lambda page: page.name)
def test_runnable_blocks_run(page: Path, tmp_path: Path) -> None:
    """All runnable blocks of a page run to their end; warnings are errors."""
    script = tmp_path / f"{page.stem}_blocks.py"
    script.write_text("\n\n".join(RUNNABLE.findall(text_of(page))), encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("TIERCAST_", "CACHE_", "REDIS_"))
    }
    paths = (str(ROOT / "src"), str(ROOT / "examples"), os.environ.get("PYTHONPATH"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if SHOWN.search(text_of(page))], ids=lambda page: page.name)
def test_what_is_shown_of_an_example_stands_in_it(page: Path) -> None:
    """A block that says which example it is from is a part of it, word for word."""
    for path, code in SHOWN.findall(text_of(page)):
        assert code in (ROOT / path).read_text(encoding="utf-8"), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and a heading that it has."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", text_of(linked), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
            assert heading in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_are_named_exist(page: Path) -> None:
    """A test, example or module that a page names is there."""
    for path in set(re.findall(r"`((?:tests|examples|src|scripts)/[\w./]+)(?:::\w+)*`", text_of(page))):
        assert (ROOT / path).exists(), path


def test_tests_that_are_named_exist() -> None:
    """A page that names a single test (`file.py::test`) names one that is there."""
    for page in PAGES:
        for path, test in re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", text_of(page)):
            source = (ROOT / path).read_text(encoding="utf-8")
            assert all(re.search(rf"(def|class) {part}\b", source) for part in test.split("::")), f"{path}::{test}"


def test_every_page_can_be_found_from_the_index() -> None:
    """docs/index.md links to every other page."""
    index = text_of(ROOT / "docs" / "index.md")
    assert [] == [page.name for page in DOCS if page.name != "index.md" and f"({page.name})" not in index]


@pytest.mark.parametrize("name", ["scopes", "tags", "patterns", "events", "time", "regions"])
def test_a_page_of_an_idea_says_why(name: str) -> None:
    """After a summary: the problem, a picture, what was decided, and what was rejected."""
    summary, *sections = re.split(r"^## ", text_of(ROOT / "docs" / f"{name}.md"), flags=re.MULTILINE)
    assert len(summary.strip().splitlines()) > 1
    titles = [section.partition("\n")[0] for section in sections]
    places = [titles.index(title) for title in ("The problem", "What was decided", "What was rejected")]
    assert places == sorted(places)
    assert re.search(r"^```\n.+?^```$", sections[places[0]], re.DOTALL | re.MULTILINE)
