"""What a recording says of its host."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowprof.profiler.machine import host


@pytest.mark.parametrize(
    ("text", "said"),
    [("always [madvise] never\n", "madvise"), ("performance\n", "performance"), ("0\n", "0"), ("", None)],
)
def test_settings_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str | None) -> None:
    file = tmp_path / "setting"
    file.write_text(text)
    monkeypatch.setattr(host, "SETTINGS", {"setting": str(file), "absent": str(tmp_path / "absent")})
    facts = host.facts()
    assert facts.get("setting") == said and "absent" not in facts
