"""Where a torch tensor keeps its shape, strides and data type: derived from the target's own torch, not from a table.

The layout of at::TensorImpl changes between versions, and there is no debug information. So the target's own
interpreter is started once, outside of the target, as its user (which only root can be in another's place) and in its
mount namespace, with the torch that the target has loaded. It makes tensors of unusual sizes and types and prints the
bytes of each TensorImpl (`Tensor._cdata`); where the known numbers stand in them is the layout. It must hold for all of
them. Kept per build-id; an answer from an earlier run is checked like a fresh one, and asked for again if it does not
stand.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import selectors
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flowprof.profiler import cache
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.target import Module, Target

TIMEOUT_S = 60
MAX_ANSWER = 1 << 20
IMPL_BYTES = 320  # of a TensorImpl that are looked at
_CLONE_NEWNS = 0x20000
_SCRIPT = """
import ctypes, json, os, struct, sys
sys.path.insert(0, sys.argv[1])
import torch
memory = os.open("/proc/self/mem", os.O_RDONLY)
def impl(tensor):
    return ctypes.string_at(tensor._cdata, int(sys.argv[2]))
def outside(tensor):
    numbers = [*tensor.size(), *tensor.stride()]
    wanted, found = struct.pack(f"<{len(numbers)}q", *numbers), []
    for at, (address,) in enumerate(struct.iter_unpack("<Q", impl(tensor))):
        try:
            if numbers and os.pread(memory, len(wanted), address) == wanted:
                found.append(8 * at)
        except (OSError, OverflowError):
            pass
    return found
tensors = [
    torch.empty(7, 11, 13), torch.empty(17, 19, dtype=torch.float64), torch.empty(23, dtype=torch.int64),
    torch.empty(29, 31, 37, 41, dtype=torch.bool), torch.empty(43, 47, dtype=torch.bfloat16).t(),
    torch.empty(2, 3, 5, 7, 9, dtype=torch.float16), torch.empty(53, 59, dtype=torch.uint8)[::2, ::3],
    torch.empty(2, 3, 2, 5, 2, 7, dtype=torch.int32), torch.empty((), dtype=torch.int16),
]
print(json.dumps({"version": torch.__version__, "tensors": [
    {"sizes": list(t.size()), "strides": list(t.stride()), "dtype": str(t.dtype), "impl": impl(t).hex(),
     "outside": outside(t)} for t in tensors
]}))
"""
DTYPES = {  # c10::ScalarType, and the name that torch's profiler gives it
    0: ("uint8", "unsigned char"), 1: ("int8", "signed char"), 2: ("int16", "short"), 3: ("int32", "int"),
    4: ("int64", "long int"), 5: ("float16", "c10::Half"), 6: ("float32", "float"), 7: ("float64", "double"),
    8: ("complex32", "c10::complex<c10::Half>"), 9: ("complex64", "c10::complex<float>"),
    10: ("complex128", "c10::complex<double>"), 11: ("bool", "bool"), 15: ("bfloat16", "c10::BFloat16"),
    23: ("float8_e5m2", "c10::Float8_e5m2"), 24: ("float8_e4m3fn", "c10::Float8_e4m3fn"),
    25: ("float8_e5m2fnuz", "c10::Float8_e5m2fnuz"), 26: ("float8_e4m3fnuz", "c10::Float8_e4m3fnuz"),
}  # fmt: skip
_NUMBERS = {f"torch.{name}": number for number, (name, _) in DTYPES.items()}
_INLINE = 5  # dimensions that have room in a TensorImpl


class LayoutUnknown(FlowprofError):  # noqa: N818 (it says what happened: the recording goes on without shapes)
    """The tensors' layout could not be found; the message says why."""


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """Offsets in bytes within a TensorImpl: u64 number of dimensions, s64 sizes[5] with strides[5] behind, u16 type.

    outside: of a tensor of more than five dimensions, there is a pointer to its sizes and strides in their place.
    """

    version: str
    ndim: int
    sizes: int
    dtype: int
    outside: bool


@dataclass(frozen=True, slots=True)
class _Sample:
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: int
    impl: bytes
    outside: tuple[int, ...]  # where pointers to its sizes and strides are


def tensor_layout(target: Target, module: Module, build_id: str | None) -> TensorLayout:
    """The layout in the torch that `module` (libtorch_cpu.so) belongs to. Raises LayoutUnknown."""
    kept = cache.folder() / f"torch-{build_id}.json" if build_id and build_id.isalnum() else None
    with contextlib.suppress(LayoutUnknown):
        return derive(_read(kept))
    text = _ask(target, module)
    layout = derive(text)
    if kept is not None:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(text)
    return layout


def derive(answer: str) -> TensorLayout:
    """The layout that the interpreter's answer shows. Raises LayoutUnknown."""
    try:
        told = json.loads(answer)
        version = str(told["version"])[:40]
        samples = [
            _Sample(tuple(map(int, one["sizes"])), tuple(map(int, one["strides"])), _NUMBERS[one["dtype"]],
                    bytes.fromhex(one["impl"]), tuple(map(int, one["outside"])))
            for one in told["tensors"]
        ]  # fmt: skip
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise LayoutUnknown(f"the target's interpreter said something else than asked: {answer[:80]!r}") from error
    large = [sample for sample in samples if len(sample.sizes) > _INLINE]
    found = [
        TensorLayout(version, ndim, sizes, dtype, bool(large) and all(sizes in sample.outside for sample in large))
        for sizes in _where(samples, _has_sizes, 8)
        for ndim in _where(samples, _has_ndim, 8)
        if ndim == sizes - 8
        for dtype in _where(samples, _has_dtype, 2)
    ]
    if len(found) != 1:
        many = f"{len(found)} layouts fit" if found else "no layout fits"
        raise LayoutUnknown(f"torch {version} keeps its tensors in another way: {many}")
    return found[0]


def _where(samples: list[_Sample], holds: Callable[[_Sample, int], bool], step: int) -> list[int]:
    return [at for at in range(0, IMPL_BYTES, step) if samples and all(holds(sample, at) for sample in samples)]


def _has_sizes(sample: _Sample, at: int) -> bool:
    ndim = len(sample.sizes)
    if ndim > _INLINE:
        return True  # they are elsewhere
    if at + 16 * _INLINE > len(sample.impl):
        return False
    words = struct.unpack_from(f"<{2 * _INLINE}q", sample.impl, at)
    return words[:ndim] == sample.sizes and words[_INLINE : _INLINE + ndim] == sample.strides


def _has_ndim(sample: _Sample, at: int) -> bool:
    return sample.impl[at : at + 8] == struct.pack("<q", len(sample.sizes))


def _has_dtype(sample: _Sample, at: int) -> bool:
    return sample.impl[at : at + 2] == struct.pack("<H", sample.dtype)


def _read(path: Path | None) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path is not None and path.stat().st_uid == os.geteuid() and path.stat().st_size < MAX_ANSWER:
            return path.read_text()
    return ""


def _ask(target: Target, module: Module) -> str:
    """Run the target's interpreter, as its user, in its mount namespace."""
    packages = _packages(target, module)
    if packages is None:
        raise LayoutUnknown(f"{module.path} is not in a Python package: nobody there can be asked")
    if "python" not in PurePosixPath(target.exe).name:
        raise LayoutUnknown(f"{target.exe} is no Python interpreter that could be asked")
    command = [target.exe, "-B", "-S", "-c", _SCRIPT, packages, str(IMPL_BYTES)]
    try:
        status = Path(f"/proc/{target.pid}/status").read_text(errors="replace")  # its name may be anything
        uid, gid = (int(status.split(f"\n{word}:")[1].split()[1]) for word in ("Uid", "Gid"))
        namespace = os.open(f"/proc/{target.pid}/ns/mnt", os.O_RDONLY)
    except (OSError, IndexError, ValueError) as error:
        raise LayoutUnknown(f"process {target.pid} cannot be looked at: {error}") from error
    try:
        if os.geteuid() not in (0, uid):
            raise LayoutUnknown(
                f"process {target.pid} is user {uid}'s: only root can start its interpreter as that user"
            )
        own = os.stat("/proc/self/ns/mnt").st_ino == os.fstat(namespace).st_ino
        ended, said, errors = _run(command, lambda: _become(uid, gid, None if own else namespace))
    except (OSError, subprocess.SubprocessError) as error:
        raise LayoutUnknown(f"{target.exe} could not be asked: {error}") from error
    finally:
        os.close(namespace)
    if ended:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"status {ended}"]
        raise LayoutUnknown(f"{target.exe} could not load torch from {packages}: {last[0][:200]}")
    return said.decode(errors="replace")


def _packages(target: Target, library: Module) -> str | None:
    """The folder that the target has imported torch from: around torch/lib, or where a distribution keeps libraries
    elsewhere, around torch/_C.*.so."""
    for path, inside in [(library.path, "torch/lib/*"), *((one.path, "torch/_C.*.so") for one in target.modules)]:
        here = PurePosixPath(path)
        if here.match(inside):
            return str(here.parents[inside.count("/")])
    return None


def _run(command: list[str], become: Callable[[], None]) -> tuple[int, bytes, bytes]:
    """Status, output, errors. What takes too long or says too much is killed, and SubprocessError raised."""
    until = time.monotonic() + TIMEOUT_S
    env = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": "/nonexistent", "CUDA_VISIBLE_DEVICES": ""}
    said = {"output": b"", "errors": b""}
    with (
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
                         env=env, preexec_fn=become) as child,
        selectors.DefaultSelector() as pipes,
    ):  # fmt: skip
        try:
            for name, pipe in (("output", child.stdout), ("errors", child.stderr)):
                assert pipe is not None
                pipes.register(pipe, selectors.EVENT_READ, name)
            while pipes.get_map():
                ready = pipes.select(max(until - time.monotonic(), 0.0))
                if not ready:
                    raise subprocess.SubprocessError(f"no answer within {TIMEOUT_S} s")
                for key, _ in ready:
                    piece = os.read(key.fd, 1 << 16)
                    said[key.data] += piece
                    if not piece:
                        pipes.unregister(key.fileobj)
                    if len(said[key.data]) > MAX_ANSWER:
                        raise subprocess.SubprocessError("it says more than an answer can be")
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(until - time.monotonic(), 0.0))
        finally:
            child.kill()
    return child.returncode, said["output"], said["errors"]


def _become(uid: int, gid: int, namespace: int | None) -> None:
    """In the child: the target's mount namespace and user, and limits."""
    libc = ctypes.CDLL(None, use_errno=True)
    if namespace is not None and libc.setns(namespace, _CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "its mount namespace cannot be entered")
    resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT_S, TIMEOUT_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:
        os.setgroups([gid])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
