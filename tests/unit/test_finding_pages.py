"""Every finding that an analyzer can emit is in the README's table and has its page: a paragraph in its module."""

import ast
import re
from pathlib import Path

import pytest
from flowprof.profiler.analyzers import ANALYZERS as ALL

ROOT = Path(__file__).parents[2]
ANALYZERS = ROOT / "profiler" / "analyzers"


def emitted() -> set[str]:
    """The ids in the sources, where each is spelled out: a text of an analyzer's name, a dot and a noun."""
    names = "|".join(analyzer.name for analyzer in ALL)
    return {
        node.value
        for path in ANALYZERS.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and re.fullmatch(rf"({names})\.(?!sql$)\w+", node.value)
    }  # fmt: skip


def test_ids_are_spelled_out() -> None:
    """No call puts an id together: then `emitted` would not see it."""
    for path in ANALYZERS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "id")]
                assert not any(isinstance(part, ast.JoinedStr | ast.BinOp) for part in given), path.name


def test_the_readme_lists_every_finding_and_no_other() -> None:
    section = (ROOT / "README.md").read_text().split("## What it finds", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = re.findall(r"`([^`]+)`", "".join(rows))
    assert sorted(listed) == sorted(emitted())
    assert len(listed) > 15


@pytest.mark.parametrize("finding", sorted(emitted()))
def test_every_finding_has_its_page(finding: str) -> None:
    page = ast.get_docstring(ast.parse((ANALYZERS / f"{finding.split('.')[0]}.py").read_text())) or ""
    paragraph = re.search(rf"^\* `{re.escape(finding)}`: (.*(?:\n  .*)*)", page, re.M)
    assert paragraph, f"no paragraph begins with * `{finding}`: in its module's docstring"
    assert len(re.findall(r"\.(?=\s|$)", paragraph[1])) >= 2, "what it means, and what to do"
