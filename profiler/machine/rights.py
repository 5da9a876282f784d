"""What this process may do: effective capabilities, user namespace, container; and the words that mend a lack."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowprof.profiler.errors import PermissionDeniedError
from flowprof.profiler.machine import kernel

CAPABILITIES = {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
NEEDED = {
    "CAP_BPF": "load BPF programs",
    "CAP_PERFMON": "attach uprobes",
    "CAP_SYS_PTRACE": "read another user's process",
}
_WHOLE_NAMESPACE = ["0", "0", "4294967295"]
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of the kernel's proc_ns.h
OTHER_NUMBERS = "in this PID namespace processes have other numbers than in the kernel's events: --pid=host mends it"


@dataclass(frozen=True, slots=True)
class Rights:
    """`effective` is the CapEff word of /proc/self/status; `container` names the kind, or is empty."""

    uid: int
    effective: int
    user_namespace: bool
    container: str
    pid_namespace: bool = False  # one of its own, not the host's

    def has(self, capability: str) -> bool:
        """Whether it is effective where it matters: CAP_BPF and CAP_PERFMON count in the host's user namespace only,
        and there CAP_SYS_ADMIN holds them as well."""
        mask = 1 << CAPABILITIES[capability]
        if capability in ("CAP_BPF", "CAP_PERFMON"):
            if self.user_namespace:
                return False
            mask |= 1 << CAPABILITIES["CAP_SYS_ADMIN"]
        return bool(self.effective & mask)

    @property
    def missing(self) -> tuple[str, ...]:
        """The capabilities that recording needs and that are not effective."""
        return tuple(name for name in NEEDED if not self.has(name))


def read() -> Rights:
    """The rights of this process."""
    effective = 0
    for line in kernel.text("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    mapping = kernel.text("/proc/self/uid_map").split()
    in_user_namespace = bool(mapping) and mapping != _WHOLE_NAMESPACE
    return Rights(os.geteuid(), effective, in_user_namespace, container(), own_pid_namespace())


def own_pid_namespace() -> bool:
    """Whether this process is in another PID namespace than the host's: `OTHER_NUMBERS` then."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE
    except OSError:
        return False


def container() -> str:
    """`docker`, `podman`, `kubernetes`, … when this process runs in a container; else an empty string."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    named = kernel.text("/run/systemd/container").strip() or os.environ.get("container", "")  # noqa: SIM112 (systemd and lxc spell it so)
    if named:
        return named
    control_groups = kernel.text("/proc/self/cgroup") + kernel.text("/proc/1/cgroup")
    for word, name in (
        ("kubepods", "kubernetes"),
        ("docker", "docker"),
        ("libpod", "podman"),
        ("lxc", "lxc"),
    ):
        if word in control_groups:
            return name
    return ""


def remedy(rights: Rights) -> str:
    """The command, or the lines for a container, that give the missing capabilities."""
    if rights.user_namespace:
        return "run flowprof as the host's root: the kernel grants BPF to no root of a user namespace"
    names = rights.missing or tuple(NEEDED)
    if rights.container == "kubernetes":
        wanted = ", ".join(f'"{name.removeprefix("CAP_")}"' for name in names)
        return f"in the pod's container: securityContext: {{capabilities: {{add: [{wanted}]}}}}, and hostPID: true"
    if rights.container in ("docker", "podman"):
        wanted = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in names)
        command = f"{rights.container} run --pid=host {wanted} --security-opt seccomp=unconfined …"
        return command if rights.uid == 0 else f"as root, in a container started with: {command}"
    return "sudo flowprof …"


def require(names: Sequence[str] = tuple(NEEDED)) -> None:
    """Raises PermissionDeniedError, naming what lacks, its current value and the remedy."""
    rights = read()
    missing = [name for name in names if not rights.has(name)]
    if missing:
        purpose = ", ".join(f"{name} (to {NEEDED[name]})" for name in missing)
        value = f"effective capabilities now: {rights.effective:#x}, uid {rights.uid}"
        raise PermissionDeniedError(f"recording needs {purpose}; {value}", remedy(rights))
