"""The only module that knows bcc: compile the kernel side (probes/bpf/), and keep what came out.

bcc is pure ctypes over libbcc and comes from the distribution (`python3-bpfcc`), not from PyPI; from a virtual
environment it is loaded by path. It asks for the running kernel's headers although uprobe programs need none, so it is
given the project's own stub headers (probes/bpf/include) instead: nothing of the host's kernel tree is read.

Compiling takes a processor for half a second or more, and 100 MB, beside a target that uses all processors, for
programs that are the same every time. So they are kept in the cache folder, by what they were made of: sources, flags,
bcc, kernel. A kept file counts only when nobody but this user can have written it: what it holds is loaded into the
kernel with this user's rights.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import importlib
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from flowprof.profiler import cache
from flowprof.profiler.errors import BpfError
from flowprof.profiler.kernel_side.bpf_object import BpfObject, Map, code_of, pack, unpack
from flowprof.profiler.untrusted_file import open_plain

SOURCES = Path(__file__).resolve().parents[2] / "probes" / "bpf"
DIST_PACKAGES = ("/usr/lib/python3/dist-packages", "/usr/local/lib/python3/dist-packages")
INSTALL = "apt-get install python3-bpfcc"
KEPT, MAX_KEPT, MAX_KEPT_BYTES = "bpf", 64, 1 << 23
_FORMAT = 1  # of what is kept
_FACTS = ("map_type", "key_size", "value_size", "max_entries", "map_flags")  # of a map, in /proc/PID/fdinfo
_IN_FRONT = ("event.bpf.c", "counters.bpf.c")  # bcc rewrites map accesses in one file only: all are made one


def import_bcc() -> ModuleType:
    """Return bcc's module. Raises BpfError when it is absent or is PyPI's unrelated package of that name."""
    try:
        module = importlib.import_module("bcc")
        if hasattr(module, "BPF"):
            return module
        del sys.modules["bcc"]  # PyPI's `bcc` is a crystal-lattice package
    except ImportError:
        pass
    for folder in DIST_PACKAGES:
        init = Path(folder) / "bcc" / "__init__.py"
        if not init.is_file():
            continue
        spec = importlib.util.spec_from_file_location("bcc", init, submodule_search_locations=[str(init.parent)])
        if spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        sys.modules["bcc"] = module
        try:
            spec.loader.exec_module(module)
        except (ImportError, OSError) as error:
            del sys.modules["bcc"]
            raise BpfError(f"bcc was found in {folder} but does not load: {error}", INSTALL) from error
        return module
    raise BpfError("bcc's Python module was not found: recording needs it, everything else works without.", INSTALL)


def compiled(sources: Sequence[str], flags: Sequence[str], anew: bool = False) -> BpfObject:
    """These files of probes/bpf/, compiled as one; `anew`: whatever is kept.

    Raises BpfError (bcc absent, not compiled) with the compiler's first line.
    """
    text = "\n".join(
        f'#line 1 "{name}"\n{(SOURCES / name).read_text(encoding="utf-8")}' for name in (*_IN_FRONT, *sources)
    )
    name = _name(text, flags)
    kept = None if anew else _kept(name)
    if kept is not None:
        return kept
    made = _compile(text, flags, sources[-1])
    _keep(name, pack(made))
    return made


def _compile(text: str, flags: Sequence[str], what: str) -> BpfObject:
    bcc = import_bcc()
    with _kernel_source(), _captured_stderr() as messages:
        try:
            program = bcc.BPF(text=text.encode(), cflags=["-Wno-everything", *flags])
        except Exception as error:
            raise BpfError(
                f"bcc could not compile {what}: {_first_error(messages(), error)}", "flowprof doctor"
            ) from error
    try:
        return _taken_out(bcc.libbcc.lib, program.module)
    finally:
        program.cleanup()  # it has made the maps, which are made again from what was taken out
        with contextlib.suppress(AttributeError):
            program.close()
        atexit.unregister(program.cleanup)


def _taken_out(lib: Any, module: int) -> BpfObject:
    def asked(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        """A function of libbcc, of which its Python side does not state all types in every version."""
        address = ctypes.cast(getattr(lib, name), ctypes.c_void_p).value or 0
        found: Callable[..., Any] = ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)(address)
        return lambda *given: found(module, *given)

    number, text = ctypes.c_size_t, ctypes.c_char_p
    table_name, table_fd = asked("bpf_table_name", text, number), asked("bpf_table_fd_id", ctypes.c_int, number)
    start, size = asked("bpf_function_start", ctypes.c_void_p, text), asked("bpf_function_size", number, text)
    fds = {table_fd(i): table_name(i).decode() for i in range(asked("bpf_num_tables", number)())}
    functions = [asked("bpf_function_name", text, number)(i) for i in range(asked("bpf_num_functions", number)())]
    programs = {name.decode(): code_of(ctypes.string_at(start(name), size(name)), fds) for name in functions}
    terms = asked("bpf_module_license", text)().decode()
    return BpfObject([_map(name, fd) for fd, name in fds.items()], programs, terms)


def _map(name: str, fd: int) -> Map:
    """As the kernel shows it: bcc's own figures leave out what it adds (sizes of ring buffers)."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    about = {key: int(value.strip(), 0) for key, _, value in (line.partition(":") for line in lines) if key in _FACTS}
    return Map(name, *(about[key] for key in _FACTS))


def _name(text: str, flags: Sequence[str]) -> str:
    made_of = [str(_FORMAT), platform.machine(), platform.release(), *_bcc_files(), *flags, text]
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:32]


def _bcc_files() -> Iterator[str]:
    """What tells one installation of bcc from another, without loading it."""
    for folder in (*sys.path, *DIST_PACKAGES):
        with contextlib.suppress(OSError):
            now = os.stat(Path(folder) / "bcc" / "__init__.py")
            yield f"{folder} {now.st_size} {now.st_mtime_ns}"


def _kept(name: str) -> BpfObject | None:
    try:
        with open(open_plain(cache.folder() / KEPT / name), "rb") as file:
            if not _own(os.fstat(file.fileno())):
                return None
            data = file.read(MAX_KEPT_BYTES)
    except OSError:
        return None
    return unpack(data)


def _keep(name: str, data: bytes) -> None:
    """Where that is not possible it is compiled again the next time."""
    with contextlib.suppress(OSError):
        folder = cache.made() / KEPT
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _own(folder.stat()):
            return
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:  # mode 0600
            part.write(data)
        Path(part.name).replace(folder / name)
        for old in sorted(folder.iterdir(), key=lambda path: -path.stat().st_mtime_ns)[MAX_KEPT:]:
            old.unlink(missing_ok=True)


def _own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _first_error(text: str, error: Exception) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if "error" in line.lower() or "not permitted" in line.lower():
            return line[:300]
    return lines[-1][:300] if lines else str(error)


@contextmanager
def _kernel_source() -> Iterator[None]:
    """Point bcc to the stub headers while it compiles: it wants a tree with `include/` in it."""
    old = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(SOURCES)
    try:
        yield
    finally:
        if old is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = old


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Catch what libbcc prints on file descriptor 2, so that it becomes one sentence instead of a screenful."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:

        def text() -> str:
            file.seek(0)
            return file.read(1 << 20).decode(errors="replace")

        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)
