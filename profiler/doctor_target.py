"""Can flowprof record this process? The part of doctor that looks at one target; it reads /proc only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flowprof.probes import ENGINES
from flowprof.profiler.doctor import Check, Verdict
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.target import Target, describe_modules, open_target


def checks(pid: int) -> Iterator[Check]:
    """Visible, readable, 64-bit, and holding an engine that flowprof knows."""
    try:
        target = open_target(pid)
    except FlowprofError as error:
        yield Check("process", Verdict.FAIL, error.message, error.hint)
        return
    yield Check("process", Verdict.OK, f"{pid}: {target.exe}, uid {target.uid}, 64-bit")
    yield _memory(target)
    yield _engine(target)
    gone = [module.path for module in target.modules if module.deleted]
    if gone:
        found = f"replaced on disk since it was started: {', '.join(gone[:5])}"
        yield Check(
            "binaries",
            Verdict.WARN,
            found,
            "nothing to do: flowprof reads the ones that run, not the new ones",
        )


def _memory(target: Target) -> Check:
    mappings = [mapping for module in target.modules for mapping in module.mappings]
    if not mappings:
        return Check("memory", Verdict.FAIL, "the process executes no file", "is it a kernel thread, or ending?")
    try:
        with open(f"/proc/{target.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(mappings[0].start)
            if len(memory.read(16)) == 16:
                return Check("memory", Verdict.OK, "readable (never written)")
        found = "nothing could be read"
    except OSError as error:
        found = f"/proc/{target.pid}/mem: {error.strerror}"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    yama = f" (kernel.yama.ptrace_scope = {scope.read_text().strip()})" if scope.is_file() else ""
    return Check("memory", Verdict.FAIL, f"{found}{yama}", "needs CAP_SYS_PTRACE: sudo flowprof …")


def _engine(target: Target) -> Check:
    found = {engine.name: target.with_marker(engine.marker) for engine in ENGINES}
    named = [f"{name} in {Path(where[0].path).name}" for name, where in found.items() if where]
    if named:
        return Check("engine", Verdict.OK, ", ".join(named))
    looked = ", ".join(found)
    return Check(
        "engine",
        Verdict.FAIL,
        f"none of {looked} in {describe_modules(target.modules)}",
        "give the process that does the inference; an engine that is loaded later: flowprof run -- CMD",
    )
