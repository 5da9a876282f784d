"""doctor: checks are data, nothing raises, every failure has a remedy; on a capable host everything needed is OK."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import capstone
import pytest
from flowprof.profiler import doctor, doctor_target
from flowprof.profiler.doctor import Verdict
from flowprof.profiler.errors import BpfError, PermissionDeniedError
from flowprof.profiler.kernel_side import bpf, hitcost, tracepoints
from flowprof.profiler.kernel_side.attach import AttachPoint, attach
from flowprof.profiler.kernel_side.ring import Rings
from flowprof.profiler.machine import kernel, rights
from flowprof.profiler.machine.rights import Rights
from unprivileged import as_nobody

NAMES = ["kernel", "bpf", "capabilities", "lockdown", "tracefs", "bcc", "event ring", "uprobe_multi", "hit cost", "pmu",
         "ceilings"]  # fmt: skip
ALL = (1 << 41) - 1


def unprivileged(*command: str) -> subprocess.CompletedProcess[str]:
    """Run as `nobody` when we are root, so that the words for users without rights are seen in CI as well."""
    return subprocess.run(as_nobody(*command), capture_output=True, text=True, check=False)


@pytest.mark.bpf
def test_a_capable_host_passes() -> None:
    checks = list(doctor.host())
    assert [check.name for check in checks] == NAMES
    assert doctor.failures(checks) == []
    found = {check.name: check for check in checks}
    for name in ("kernel", "bpf", "capabilities", "bcc", "event ring", "hit cost"):
        assert found[name].verdict is Verdict.OK, found[name]


def test_without_rights_every_failure_has_a_remedy() -> None:
    script = (
        "import json, dataclasses; from flowprof.profiler import doctor\n"
        "print(json.dumps([dataclasses.asdict(c) for c in doctor.host()]))"
    )
    done = unprivileged(sys.executable, "-c", script)
    if "Permission denied" in done.stderr or "No module" in done.stderr:
        pytest.skip("this checkout is not readable for an unprivileged user")
    checks = json.loads(done.stdout)
    assert [check["name"] for check in checks] == NAMES
    failed = [check for check in checks if check["verdict"] == "FAIL"]
    assert {"capabilities"} <= {check["name"] for check in failed}
    assert all(check["remedy"] for check in failed)
    capabilities = next(check for check in checks if check["name"] == "capabilities")
    assert "CAP_BPF" in capabilities["found"] and "effective 0x0" in capabilities["found"]


def test_without_bcc(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise BpfError("bcc's Python module was not found", "apt-get install python3-bpfcc")

    monkeypatch.setattr(doctor, "import_bcc", absent)
    found = {check.name: check for check in doctor.host()}
    assert found["bcc"].verdict is Verdict.FAIL and "python3-bpfcc" in found["bcc"].remedy
    assert {found[name].verdict for name in ("event ring", "uprobe_multi", "hit cost")} == {Verdict.SKIP}


@pytest.mark.parametrize(
    ("release", "verdict"),
    [
        ("6.18.0", "OK"),
        ("6.1.0-50-amd64", "OK"),
        ("5.15.0-91-generic", "WARN"),
        ("5.10.0-8-amd64", "FAIL"),
        ("unknown", "FAIL"),
    ],
)
def test_kernel_versions(monkeypatch: pytest.MonkeyPatch, release: str, verdict: str) -> None:
    monkeypatch.setattr("platform.release", lambda: release)
    assert doctor._kernel().verdict == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("[none] integrity confidentiality", "OK"), ("none integrity [confidentiality]", "FAIL"), ("", "SKIP")],
)
def test_lockdown(monkeypatch: pytest.MonkeyPatch, text: str, verdict: str) -> None:
    monkeypatch.setattr(kernel, "text", lambda path: text)
    assert doctor._lockdown().verdict == verdict


@pytest.mark.parametrize(
    ("mine", "missing", "word"),
    [
        (Rights(0, ALL, False, ""), (), ""),
        (Rights(1000, 0, False, ""), ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"), "sudo flowprof"),
        (Rights(1000, 1 << 39 | 1 << 38, False, ""), ("CAP_SYS_PTRACE",), "sudo flowprof"),
        (Rights(0, 1 << 21, False, "docker"), ("CAP_SYS_PTRACE",), "docker run --pid=host --cap-add SYS_PTRACE"),
        (Rights(0, 0, False, "kubernetes"), ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"), 'add: ["BPF"'),
        (Rights(0, ALL, True, "podman"), ("CAP_BPF", "CAP_PERFMON"), "user namespace"),
    ],
)
def test_rights(mine: Rights, missing: tuple[str, ...], word: str) -> None:
    assert mine.missing == missing
    assert word in rights.remedy(mine)


def test_require_names_what_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "read", lambda: Rights(1000, 0, False, ""))
    with pytest.raises(PermissionDeniedError) as caught:
        rights.require()
    assert "CAP_PERFMON (to attach uprobes)" in caught.value.message
    assert "effective capabilities now: 0x0, uid 1000" in caught.value.message
    assert caught.value.hint == "sudo flowprof …"


@pytest.mark.bpf
def test_why_a_program_is_refused() -> None:
    """The last word of the verifier, not its figures: this program ends without a result."""
    with pytest.raises(BpfError, match=r"refused the BPF program idle: .*R0 !read_ok"):
        bpf._load("idle", b"\x95" + bytes(7), "GPL", 2, 0)


@pytest.mark.bpf
def test_in_a_pid_namespace_of_its_own() -> None:
    """There processes have numbers that the kernel's events do not know."""
    script = (
        "from flowprof.profiler import doctor\n"
        "from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace\n"
        "print(doctor._capabilities()); print(ProbesInPlace().attach_sched({}))"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check, refused = done.stdout.splitlines()
    assert "WARN" in check and "in a PID namespace of its own" in check
    assert refused.count("--pid=host") == 3


def test_processors_without_sysfs(monkeypatch: pytest.MonkeyPatch) -> None:
    known = tracepoints.online()
    monkeypatch.setattr(kernel, "text", lambda path: "")
    assert known and tracepoints.online() == list(range(os.cpu_count() or 1))


@pytest.mark.bpf
@pytest.mark.parametrize("multi", [True, False])
def test_hits_are_counted_and_measured(multi: bool) -> None:
    if multi and kernel.version() < kernel.UPROBE_MULTI:
        multi = False
    module = bpf.Module("doctor.bpf.c", ring_shift=12, multi=multi)

    def put(name: str) -> hitcost.Attach:
        program = module.program(name)
        return lambda path, offsets: attach(
            program, [AttachPoint(path, offset, number) for number, offset in enumerate(offsets)], os.getpid(), multi
        )

    with hitcost.probed_function(put("ring_event")) as call:
        call(23)
    rings = Rings(module.map_fd("ring_heads"), module.map_fd("ring_events"), module.cpus, module.ring_shift)
    assert len(rings.read()) == 23
    cost = hitcost.measure(put("nothing"))
    assert 20 < cost.cheap_ns < 100_000
    assert cost.stepped_ns > cost.cheap_ns


@pytest.mark.parametrize(("machine", "mnemonics"), [("x86_64", ["push", "mov"]), ("aarch64", ["adr", "mov"])])
def test_machine_code(machine: str, mnemonics: list[str]) -> None:
    mode = {
        "x86_64": (capstone.CS_ARCH_X86, capstone.CS_MODE_64),
        "aarch64": (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM),
    }[machine]
    code = hitcost.machine_code(machine)
    reader = capstone.Cs(*mode)
    firsts = [next(reader.disasm(code[at : at + 16], at)).mnemonic for at in (hitcost.CHEAP, hitcost.STEPPED)]
    assert firsts == mnemonics
    for entry, at in hitcost._LOOPS.items():
        loop = list(reader.disasm(code[at : at + 48], at))
        calls = [i for i in loop if i.mnemonic in ("call", "bl")]
        jumps = [i for i in loop if i.mnemonic in ("jne", "b.ne")]
        assert calls[0].op_str.lstrip("#") in (hex(entry), str(entry))
        assert jumps[0].op_str.lstrip("#") == hex(calls[0].address)


def test_no_such_machine() -> None:
    with pytest.raises(BpfError):
        hitcost.machine_code("riscv64")


def test_this_process_as_a_target() -> None:
    found = {check.name: check for check in doctor_target.checks(os.getpid())}
    assert found["process"].verdict is Verdict.OK
    assert found["memory"].verdict is Verdict.OK


def test_a_process_without_an_engine() -> None:
    with subprocess.Popen(["sleep", "30"]) as sleeping:
        while "libc" not in Path(f"/proc/{sleeping.pid}/maps").read_text():
            time.sleep(0.01)  # not loaded yet
        found = {check.name: check for check in doctor_target.checks(sleeping.pid)}
        sleeping.terminate()
    assert found["engine"].verdict is Verdict.FAIL
    assert "ggml" in found["engine"].found and "libc" in found["engine"].found


def test_no_such_process() -> None:
    (check,) = doctor_target.checks(2**22 + 1)
    assert check.verdict is Verdict.FAIL and check.remedy


def test_command(flowprof, tmp_path: Path) -> None:
    done = flowprof("doctor", "--json")
    shown = json.loads(done.stdout)
    assert [check["name"] for check in shown["checks"]] == NAMES
    assert shown["ok"] == (done.returncode == 0)
    gone = flowprof("doctor", "--pid", 2**22 + 1)
    assert gone.returncode != 0 and "FAIL  process" in gone.stdout and "Traceback" not in gone.stderr


@pytest.mark.engine
def test_a_server_as_a_target(shared_server) -> None:
    found = {check.name: check for check in doctor_target.checks(shared_server("tiny").pid)}
    assert found["engine"].verdict is Verdict.OK and "ggml in" in found["engine"].found
