"""What is compiled is kept, and only what nobody else can have written is taken from there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.profiler.kernel_side import bpf_compiler
from flowprof.profiler.kernel_side.bpf_compiler import compiled
from flowprof.profiler.kernel_side.bpf_object import BpfObject, Code, Map, code_of, pack, unpack

LOAD, MOVE = (
    b"\x18\x11\0\0%c\0\0\0" + bytes(8),
    b"\xb7\0\0\0\0\0\0\0",
)  # r1 = a map's address, from its descriptor; r0 = 0
MADE = BpfObject([Map("hits", 2, 4, 8, 16, 1024)], {"op": Code(LOAD % 0 + MOVE, {0: "hits"})}, "GPL")


@pytest.fixture
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were compiled, one by one; the cache is empty in the beginning."""
    seen: list[str] = []

    def compile_it(text: str, flags: object, what: str) -> BpfObject:
        assert '#line 1 "event.bpf.c"' in text
        seen.append(what)
        return MADE

    monkeypatch.setenv("FLOWPROF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bpf_compiler, "_compile", compile_it)
    return seen


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / bpf_compiler.KEPT).iterdir())


def test_what_is_made_of_the_same_is_compiled_once(compilations: list[str], tmp_path: Path) -> None:
    assert compiled(["ggml.bpf.c"], ["-DA=1"]) == compiled(["ggml.bpf.c"], ["-DA=1"]) == MADE
    assert compilations == ["ggml.bpf.c"]
    (one,) = kept(tmp_path)
    assert one.stat().st_mode & 0o777 == 0o600 and one.parent.stat().st_mode & 0o777 == 0o700
    compiled(["ggml.bpf.c"], ["-DA=2"])
    compiled(["ggml.bpf.c", "sched.bpf.c"], ["-DA=1"])
    assert len(compilations) == len(kept(tmp_path)) == 3
    compiled(["ggml.bpf.c"], ["-DA=1"], anew=True)
    assert len(compilations) == 4


def test_another_bcc_compiles_again(compilations: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tmp_path / "bcc" / "__init__.py"
    version.parent.mkdir()
    version.write_text("")
    monkeypatch.setattr(bpf_compiler, "DIST_PACKAGES", (str(tmp_path),))
    compiled(["ggml.bpf.c"], [])
    version.write_text("# newer")
    compiled(["ggml.bpf.c"], [])
    assert len(compilations) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(0o620),
        pytest.param(
            lambda path: os.chown(path, 65534, -1),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away"),
        ),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(b"\x93" * 1000),
        lambda path: path.write_bytes(pack(BpfObject([], MADE.programs, "GPL"))),  # a map that is not there
        lambda path: path.write_bytes(pack(BpfObject(MADE.maps, {"op": Code(MOVE, {3: "hits"})}, "GPL"))),
        lambda path: path.write_bytes(pack(BpfObject(MADE.maps, {"op": Code(MOVE[:5], {})}, "GPL"))),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.rename(path.with_name("x")), path.symlink_to("/dev/zero")),
    ],
)
def test_what_is_not_ours_or_damaged_is_not_taken(
    compilations: list[str], tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    compiled(["ggml.bpf.c"], [])
    spoil(kept(tmp_path)[0])
    assert compiled(["ggml.bpf.c"], []) == MADE
    assert len(compilations) == 2


def test_a_cache_that_cannot_be_written_does_not_matter(compilations: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert compiled(["ggml.bpf.c"], []) == compiled(["ggml.bpf.c"], []) == MADE
    assert len(compilations) == 2


def test_a_folder_that_others_may_write_is_left_alone(compilations: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "cache" / bpf_compiler.KEPT
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    compiled(["ggml.bpf.c"], [])
    assert kept(tmp_path) == []


def test_old_ones_go(compilations: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf_compiler, "MAX_KEPT", 2)
    for number in range(4):
        compiled(["ggml.bpf.c"], [f"-DA={number}"])
    assert len(kept(tmp_path)) == 2
    compiled(["ggml.bpf.c"], ["-DA=3"])
    assert len(compilations) == 4


def test_maps_are_named_and_put_in_again() -> None:
    code = code_of(MOVE + LOAD % 7 + LOAD % 9 + MOVE, {7: "hits", 9: "rings"})
    assert code.maps == {1: "hits", 3: "rings"}
    assert code.with_maps({"hits": 20, "rings": 21}) == MOVE + LOAD % 20 + LOAD % 21 + MOVE
    made = BpfObject([Map(name, 2, 4, 8, 16, 0) for name in ("hits", "rings")], {"op": code}, "GPL")
    assert unpack(pack(made)) == made
