"""The pages say nothing of files that do not exist, and the decisions have one form."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from garrison.terminal import ExitCode

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
DECISIONS = sorted(ROOT.glob("docs/adr/*.md"))
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_POINTER = re.compile(r"`((?:src|tests|docs|examples|tools|bench)/[A-Za-z0-9_./-]+)(::\w+)?`")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    missing = []
    for path, test in _POINTER.findall(page.read_text()):
        file = ROOT / path
        if not file.exists() or (test and f"def {test[2:]}(" not in file.read_text()):
            missing.append(path + test)
    assert missing == []


def test_the_threat_model_names_every_attack() -> None:
    page = (ROOT / "docs/threat-model.md").read_text()
    unnamed = [
        f"{_name(file)}::{test}"
        for file in sorted(ROOT.glob("tests/attacks/test_*.py"))
        for test in re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE)
        if f"`{_name(file)}::{test}`" not in page
    ]
    assert unnamed == []


def test_the_index_leads_to_every_page_that_is_not_generated() -> None:
    index = (ROOT / "docs/index.md").read_text()
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/how-to/*.md")]
    unnamed = [
        _name(page)
        for page in pages
        if page.name != "index.md" and f"({page.relative_to(ROOT / 'docs')})" not in index
    ]
    assert unnamed == []


@pytest.mark.parametrize("decision", DECISIONS, ids=_name)
def test_a_decision_has_the_parts_of_the_template(decision: Path) -> None:
    text = decision.read_text()
    number = int(decision.name[:4])
    assert re.match(rf"# (0*{number}|NNNN)\. \S", text)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    for part in ("Context", "Decision", "Consequences"):
        assert part in headings
    assert {"Alternatives weighed", "Rejected"} & set(headings)


def test_no_two_decisions_have_one_number() -> None:
    numbers = [decision.name[:4] for decision in DECISIONS]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("picture", sorted(ROOT.glob("docs/**/*.svg")), ids=_name)
def test_a_picture_is_well_formed_stands_alone_and_has_a_description(picture: Path) -> None:
    text = picture.read_text()
    root = ET.fromstring(text)  # noqa: S314  (our own file)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert root.findtext(f"{space}title")
    assert root.findtext(f"{space}desc")
    assert "viewBox" in root.attrib
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"href|<script|@import|url\((?!#)", text)


@pytest.mark.parametrize("page", ["README.md", "docs/reference/exit-codes.md"])
def test_the_tables_of_exit_codes_are_those_of_the_program(page: str) -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", (ROOT / page).read_text(), re.MULTILINE)
    told = {int(code) for row in rows for code in row.split(",")}
    # What a shell expects of a program whose reader went away.
    assert told - {141} == {int(code) for code in ExitCode}


def test_every_target_that_the_pages_name_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"`make ([a-z0-9-]+)", page.read_text()):
            assert f"\n{target}:" in makefile, f"{_name(page)}: make {target}"


def test_the_shell_of_the_pages_is_shell() -> None:
    for page in PAGES:
        for code in re.findall(
            r"^ *```sh\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            # Placeholders in angle brackets are redirections to a shell, which is as good.
            done = subprocess.run(
                ["sh", "-n"], input=code.replace("<hex>", "00"), text=True, capture_output=True,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{_name(page)}: {done.stderr}"
