"""A TensorImpl's layout from what an interpreter says: made-up tensors, hostile answers, bad interpreters."""

from __future__ import annotations

import json
import os
import random
import stat
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler.target import Module, Target
from flowprof.profiler.torch import layout as torch_layout
from flowprof.profiler.torch.layout import DTYPES, IMPL_BYTES, LayoutUnknown, TensorLayout, derive, tensor_layout

NUMBERS = {name: number for number, (name, _) in DTYPES.items()}
SAMPLES: list[tuple[tuple[int, ...], tuple[int, ...], str]] = [
    ((7, 11, 13), (143, 13, 1), "float32"), ((17, 19), (19, 1), "float64"), ((23,), (1,), "int64"),
    ((29, 31), (1, 29), "bool"), ((2, 3, 5, 7, 9), (945, 315, 63, 9, 1), "float16"), ((), (), "int16"),
    ((2, 3, 2, 5, 2, 7), (420, 140, 70, 14, 7, 1), "int32"), ((43, 47), (47, 1), "bfloat16"), ((5,), (1,), "uint8"),
]  # fmt: skip


def answer(
    ndim: int = 56,
    sizes: int = 64,
    dtypes: tuple[int, ...] = (160,),
    samples: Any = None,
    outside: int | None = None,
    **changes: Any,
) -> str:
    """What the target's interpreter would print with this layout; what is no shape there looks like pointers.

    outside: where the pointer to more than five sizes is; in their place unless told.
    """
    rng = random.Random(5)
    tensors = []
    for shape, strides, dtype in SAMPLES if samples is None else samples:
        raw = bytearray(b"".join(struct.pack("<Q", 0x7F0000000000 + rng.randrange(1 << 36)) for _ in range(40)))
        struct.pack_into("<Q", raw, ndim, len(shape))
        inline = (*shape, 0, 0, 0, 0, 0)[:5] + (*strides, 0, 0, 0, 0, 0)[:5] if len(shape) <= 5 else (7 << 40,) * 10
        struct.pack_into("<10q", raw, sizes, *inline)
        for at in dtypes:
            struct.pack_into("<H", raw, at, NUMBERS[dtype])
        pointers = [sizes if outside is None else outside] if len(shape) > 5 else []
        tensors.append({"sizes": shape, "strides": strides, "dtype": f"torch.{dtype}", "impl": raw.hex(),
                        "outside": pointers})  # fmt: skip
    return json.dumps({"version": "2.13.0+cpu", "tensors": tensors} | changes)


@pytest.mark.parametrize(("ndim", "sizes", "dtype"), [(56, 64, 160), (8, 16, 2), (24, 32, 318), (224, 232, 0)])
def test_layouts_are_found(ndim: int, sizes: int, dtype: int) -> None:
    assert derive(answer(ndim, sizes, (dtype,))) == TensorLayout("2.13.0+cpu", ndim, sizes, dtype, True)


def test_many_dimensions_are_read_only_where_they_are_seen_to_be() -> None:
    assert not derive(answer(outside=8)).outside
    assert not derive(answer(samples=[sample for sample in SAMPLES if len(sample[0]) <= 5])).outside


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (answer(dtypes=(160, 200)), "2 layouts fit"),
        (answer(samples=[]), "no layout fits"),
        (answer(ndim=48), "no layout fits"),  # not before the sizes
        (answer(samples=[*SAMPLES, ((7, 11), (11, 2), "float32")]).replace("[11, 2]", "[11, 1]"), "no layout fits"),
    ],
)
def test_other_layouts_are_refused(text: str, words: str) -> None:
    with pytest.raises(LayoutUnknown, match=words):
        derive(text)


ONE = {"sizes": [7], "strides": [1], "dtype": "torch.int64", "impl": "00" * IMPL_BYTES, "outside": []}


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "7", '"x"', "{}", "[" * 100_000, '{"version": ' * 5000, '{"version": 1, "tensors": 7}',
        '{"version": 1, "tensors": null}', '{"version": 1, "tensors": [7]}', '{"version": 1, "tensors": ["x"]}',
        *(json.dumps({"version": 1, "tensors": [ONE | change]}) for change in (
            {"sizes": None}, {"sizes": 7}, {"sizes": "x"}, {"sizes": [None]}, {"sizes": [[]]}, {"strides": {"a": 1}},
            {"sizes": [float("inf")]}, {"sizes": [float("nan")]}, {"strides": [1e999]}, {"dtype": []}, {"dtype": 7},
            {"dtype": "torch.quaternion"}, {"impl": 7}, {"impl": "zz"}, {"impl": None}, {"impl": "0"},
        )),
        '{"version": 1, "tensors": [{"sizes": [' + "9" * 5000 + "]}]}", "\x1b[2J\ud800",
    ],
)  # fmt: skip
def test_hostile_answers(text: str) -> None:
    with pytest.raises(LayoutUnknown) as refused:
        derive(text)
    assert len(refused.value.message) < 400 and "\x1b" not in refused.value.message


@pytest.mark.parametrize(
    "change", [{"impl": ""}, {"impl": "ff" * 200_000}, {"sizes": [1 << 70]}, {"sizes": [-1]}, {"sizes": [1] * 10_000}]
)
def test_unusual_answers_have_no_layout(change: dict[str, Any]) -> None:
    with pytest.raises(LayoutUnknown, match="layout"):
        derive(json.dumps({"version": "x" * 500, "tensors": [ONE | change]}))


# -- kept answers -----------------------------------------------------------------------------------------------------


def target(exe: str, library: str) -> tuple[Target, Module]:
    """This process, as if it ran `exe` with that library."""
    module = Module(os.getpid(), library, library, 1, "0:0", False, ())
    return Target(os.getpid(), 1, os.geteuid(), exe, "", 0.0, (module,)), module


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the answer of build abc is kept; whoever asks an interpreter gets the usual layout."""
    monkeypatch.setenv("FLOWPROF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch_layout, "_ask", lambda *_: answer())
    return tmp_path / "cache" / "torch-abc.json"


USUAL, OTHER = TensorLayout("2.13.0+cpu", 56, 64, 160, True), TensorLayout("2.13.0+cpu", 24, 32, 318, True)
NOBODY = target("/usr/bin/python3", "/x/torch/lib/libtorch_cpu.so")


def test_an_answer_is_kept_and_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tensor_layout(*NOBODY, "abc") == USUAL
    monkeypatch.setattr(torch_layout, "_ask", lambda *_: pytest.fail("it was kept"))
    assert tensor_layout(*NOBODY, "abc") == USUAL
    cache.write_text(answer(24, 32, (318,)))
    assert tensor_layout(*NOBODY, "abc") == OTHER, "it is read, not remembered"


@pytest.mark.parametrize("build_id", [None, "", "../../etc/passwd", "a b"])
def test_without_a_plain_build_id_nothing_is_kept(cache: Path, build_id: str | None) -> None:
    assert tensor_layout(*NOBODY, build_id) == USUAL
    assert not cache.parent.exists() or not list(cache.parent.iterdir())


OF_ANOTHER_RELEASE = json.dumps({"version": "2.13.0+cpu", "tensors": [
    {key: value for key, value in one.items() if key != "outside"} for one in json.loads(answer())["tensors"]
]})  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b" " * (1 << 21), answer(dtypes=(160, 200)).encode(), OF_ANOTHER_RELEASE.encode()],
)
def test_a_kept_answer_that_does_not_stand_is_asked_for_again(cache: Path, content: bytes) -> None:
    """As after a full disk, or a kill while it was written."""
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert tensor_layout(*NOBODY, "abc") == USUAL
    assert cache.read_text() == answer()


def test_another_owner_is_not_believed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir()
    cache.write_text(answer(24, 32, (318,)))
    assert tensor_layout(*NOBODY, "abc") == OTHER
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert tensor_layout(*NOBODY, "abc") == USUAL


def test_a_cache_that_cannot_be_written_does_not_matter(cache: Path) -> None:
    cache.mkdir(parents=True)
    assert tensor_layout(*NOBODY, "abc") == USUAL
    assert tensor_layout(*NOBODY, "a" * 5000) == USUAL


# -- interpreters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exe", "library", "words"),
    [
        ("/usr/bin/serve", "/x/torch/lib/libtorch_cpu.so", "no Python interpreter"),
        ("/opt/python/bin/serve", "/x/torch/lib/libtorch_cpu.so", "no Python interpreter"),
        ("/usr/bin/python3", "/usr/lib/libtorch_cpu.so", "not in a Python package"),
        ("/usr/bin/python3", "/usr/lib/libtorch_cpu.so.1.13.0", "not in a Python package"),
        ("/usr/bin/python3", "libtorch_cpu.so", "not in a Python package"),
        ("/nowhere/python3 (deleted)", "/x/torch/lib/libtorch_cpu.so", "could not be asked"),
    ],
)
def test_who_is_not_asked(exe: str, library: str, words: str) -> None:
    with pytest.raises(LayoutUnknown, match=words):
        tensor_layout(*target(exe, library), None)


def test_a_process_that_is_gone() -> None:
    module = Module(2**22 + 5, "/x/torch/lib/libtorch_cpu.so", "", 1, "0:0", False, ())
    gone = Target(2**22 + 5, 1, 0, "/usr/bin/python3", "", 0.0, (module,))
    with pytest.raises(LayoutUnknown, match="cannot be looked at"):
        tensor_layout(gone, module, None)


def test_another_users_interpreter_is_never_run_as_oneself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may probe without being root (CAP_SYS_PTRACE, CAP_BPF) cannot become the target's user."""
    ran = tmp_path / "ran"
    exe = fake(tmp_path, "exit 3")
    monkeypatch.setattr(torch_layout, "_run", lambda *_: ran.touch())
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(LayoutUnknown, match=f"user {own}'s"):
        tensor_layout(*target(exe, f"{tmp_path}/torch/lib/libtorch_cpu.so"), None)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo garbage", "something else than asked: 'garbage"),
        ("exit 0", "something else than asked: ''"),
        ("echo first >&2; echo 'ImportError: no torch' >&2; exit 1",
         "could not load torch from .*: ImportError: no torch"),
        ("exit 3", "status 3"),
        ("kill -9 $$", "status -9"),
        ("exec sleep 20", "no answer within 1 s"),
        ("exec >&- 2>&-; exec sleep 20", "status -9"),
        ("sleep 4 & exit 0", "no answer within 1 s"),  # its child holds the pipe
        ("head -c 100000000 /dev/zero", "more than an answer"),
        ("head -c 100000000 /dev/zero >&2", "more than an answer"),
        ("exec cat /dev/zero", "more than an answer"),
    ],
)  # fmt: skip
def test_interpreters_that_misbehave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str) -> None:
    monkeypatch.setattr(torch_layout, "TIMEOUT_S", 1)
    exe = fake(tmp_path, script)
    with pytest.raises(LayoutUnknown, match=words) as refused:
        tensor_layout(*target(exe, f"{tmp_path}/torch/lib/libtorch_cpu.so"), None)
    assert "import torch" not in refused.value.message, "the script itself is not for the reader"


def fake(folder: Path, script: str) -> str:
    folder.chmod(0o755)
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return str(path)


def test_an_interpreter_writes_no_file(tmp_path: Path) -> None:
    exe = fake(tmp_path, f"trap '' XFSZ; echo evil > {tmp_path}/file; cat {tmp_path}/answer")
    (tmp_path / "answer").write_text(answer())
    assert tensor_layout(*target(exe, f"{tmp_path}/torch/lib/libtorch_cpu.so"), None) == USUAL
    assert (tmp_path / "file").read_bytes() == b""


FAKE_TORCH = """
import ctypes, struct
__version__ = "9.9"
float32, float64, int64, bool, bfloat16, float16, uint8, int32, int16 = (
    "torch." + n for n in ("float32 float64 int64 bool bfloat16 float16 uint8 int32 int16".split()))
numbers = {float32: 6, float64: 7, int64: 4, bool: 11, bfloat16: 15, float16: 5, uint8: 0, int32: 3, int16: 2}
kept = []
class Tensor:
    def __init__(self, sizes, strides, dtype):
        self.sizes, self.strides, self.dtype = sizes, strides, dtype
        raw = bytearray(b"\\x7f" * 400)
        struct.pack_into("<Q", raw, 72, len(sizes))
        if len(sizes) <= 5:
            struct.pack_into("<10q", raw, 80, *(list(sizes) + [0] * 5)[:5], *(list(strides) + [0] * 5)[:5])
        else:
            kept.append(ctypes.create_string_buffer(struct.pack(f"<{2 * len(sizes)}q", *sizes, *strides)))
            struct.pack_into("<Q", raw, 80, ctypes.addressof(kept[-1]))
        struct.pack_into("<H", raw, 176, numbers[dtype])
        kept.append(ctypes.create_string_buffer(bytes(raw), 400))
        self._cdata = ctypes.addressof(kept[-1])
    def size(self): return self.sizes
    def stride(self): return self.strides
    def t(self): return Tensor(self.sizes[::-1], self.strides[::-1], self.dtype)
    def __getitem__(self, steps):
        return Tensor([-(-n // s.step) for n, s in zip(self.sizes, steps)],
                      [n * s.step for n, s in zip(self.strides, steps)], self.dtype)
def empty(*sizes, dtype=float32):
    sizes = sizes[0] if sizes and isinstance(sizes[0], tuple) else sizes
    strides, step = [], 1
    for n in reversed(sizes):
        strides.insert(0, step)
        step *= n
    return Tensor(list(sizes), strides, dtype)
"""


@pytest.mark.parametrize("library", ["{}/torch/lib/libtorch_cpu.so", "/usr/lib/libtorch_cpu.so.1.13.0"])
def test_a_real_interpreter_with_the_targets_own_torch(tmp_path: Path, library: str) -> None:
    """The whole way, with a torch that keeps its tensors as told. The process's name need not be text.

    A distribution has the library in another folder: the module beside it, torch/_C, tells the package's.
    """
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(FAKE_TORCH)
    exe = os.path.realpath(sys.executable)
    asked, module = target(exe, library.format(tmp_path))
    binding = f"{tmp_path}/torch/_C.cpython-311-x86_64-linux-gnu.so"
    asked = replace(asked, modules=(module, replace(module, path=binding)))
    comm = Path("/proc/self/comm")
    name = comm.read_bytes()
    try:
        comm.write_bytes(b"\xff\xfe\xc3")
        found = tensor_layout(asked, module, None)
    finally:
        comm.write_bytes(name.strip())
    assert found == TensorLayout("9.9", 72, 80, 176, True)
