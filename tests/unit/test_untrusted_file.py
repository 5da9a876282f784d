"""What a name may lead to in, one clear error out; a pipe without a writer must not be waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.profiler.errors import FlowprofError, NotFoundError, PermissionDeniedError, UsageError
from flowprof.profiler.untrusted_file import content, open_plain

LIMIT = 1 << 20
CASES: dict[str, tuple[Callable[[Path], object], type[FlowprofError], str, str]] = {
    "absent": (lambda path: None, NotFoundError, "no such file", "make one"),
    "folder": (lambda path: path.mkdir(), UsageError, "not a plain file", "give a file"),
    "pipe": (os.mkfifo, UsageError, "not a plain file", "give a file"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), UsageError, "not a plain file", "give a file"),
    "circle": (lambda path: path.symlink_to(path), UsageError, "symbolic links", "give a file"),
    "large": (lambda path: path.write_bytes(bytes(LIMIT + 1)), UsageError, "larger than 1 MiB", "give a file"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    make, kind, words, hint = CASES[case]
    path = tmp_path / "given"
    make(path)
    with pytest.raises(kind, match=words) as caught:
        content(path, LIMIT, UsageError, "make one", "give a file")
    assert str(path) in caught.value.message and caught.value.hint == hint


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_what_is_read(size: int, tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"x" * size)
    assert content(tmp_path / "given", LIMIT, UsageError, "", "") == b"x" * size


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(OSError, match=r"null byte|surrogates") as caught:
        open_plain(name)
    assert caught.value.strerror


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_not_permitted(tmp_path: Path) -> None:
    (tmp_path / "given").touch(mode=0)
    with pytest.raises(PermissionDeniedError):
        content(tmp_path / "given", LIMIT, UsageError, "", "")
