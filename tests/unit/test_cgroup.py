"""Where a process's control group lies and its quota: versions 1 and 2, hybrid hosts, containers; a real group."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from flowprof.profiler.machine import cgroup
from flowprof.profiler.machine.cgroup import Quota
from flowprof.profiler.record import quota as quota_module
from flowprof.profiler.record.quota import QuotaCounts

PID = 4711
V2 = "35 24 0:30 {within} {where} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "36 24 0:31 {within} {where} rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = "37 24 0:32 / {where} rw - cgroup cgroup rw,cpuset\n38 24 0:33 / /tmp rw - tmpfs tmpfs rw\nbroken\n"


class Host:
    """A /proc and control groups made of plain files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = folder / "proc"
        for name in ("self", str(PID)):
            (self.proc / name).mkdir(parents=True)

    def member(self, text: str) -> None:
        (self.proc / str(PID) / "cgroup").write_text(text)

    def mounts(self, who: str, *mounts: tuple[str, str, str]) -> None:
        """Template, which part of the hierarchy, and where below the folder."""
        lines = [kind.format(within=part, where=str(self.folder / where)) for kind, part, where in mounts]
        (self.proc / who / "mountinfo").write_text("".join(lines))

    def group(self, path: str, **files: str) -> Path:
        made = self.folder / path
        made.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (made / name.replace("_", ".", 1)).write_text(text + "\n")
        return made

    def found(self) -> list[str]:
        return [str(path.relative_to(self.folder)) for path in cgroup.groups(PID, self.proc)]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_version_2_with_its_ancestors(host: Host) -> None:
    host.member("0::/system.slice/llama.service\n")
    host.mounts("self", (OTHER, "/", "old"), (V2, "/", "fs"))
    host.group("fs/system.slice/llama.service")
    assert host.found() == ["fs/system.slice/llama.service", "fs/system.slice", "fs"]


def test_a_container_seen_from_the_host_and_from_inside(host: Host) -> None:
    host.member("0::/docker/abc\n")
    host.mounts("self", (V2, "/", "fs"))
    host.group("fs/docker/abc")
    assert host.found() == ["fs/docker/abc", "fs/docker", "fs"]
    host.member("0::/\n")  # a cgroup namespace of its own
    assert host.found() == ["fs"]


def test_a_mount_of_a_part_of_the_hierarchy(host: Host) -> None:
    host.member("0::/docker/abc/worker\n")
    host.mounts("self", (V2, "/docker/abc", "fs"))
    host.group("fs/worker")
    assert host.found() == ["fs/worker", "fs"]
    host.member("0::/docker/other\n")
    assert host.found() == [], "what no mount shows is not known"
    host.member("0::/../outside\n")
    assert host.found() == [], "nor what lies outside of our namespace"


def test_the_mounts_of_the_process_where_ours_show_nothing(host: Host) -> None:
    host.member("0::/pod/one\n")
    host.mounts("self")
    (host.proc / str(PID) / "mountinfo").write_text(V2.format(within="/pod", where="/sys/fs/cgroup"))
    inside = host.proc / str(PID) / "root/sys/fs/cgroup/one"
    inside.mkdir(parents=True)
    assert cgroup.groups(PID, host.proc) == [inside, inside.parent]


def test_on_a_hybrid_host_the_controller_is_where_version_1_is(host: Host) -> None:
    host.member("4:memory:/m\n3:cpu,cpuacct:/a b\n0::/two\n")
    host.mounts("self", (V2, "/", "unified"), (V1, "/", "cpu\\040here"))
    host.group("unified/two")
    host.group("cpu here/a b")
    assert host.found() == ["cpu here/a b", "cpu here"]


def test_no_process_no_groups(host: Host) -> None:
    assert cgroup.groups(1 << 30) == [] and host.found() == []
    host.member("nonsense\n::::\n0::\n")
    host.mounts("self", (V2, "/", "fs"))
    assert isinstance(host.found(), list)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu_max": "50000 100000", "cpu_stat": "usage_usec 9\nnr_periods 40\nnr_throttled 31\nthrottled_usec 800"},
         Quota(50_000, 100_000, 40, 31, 800_000)),
        ({"cpu_max": "max 100000", "cpu_stat": "nr_periods 0\nnr_throttled 0\nthrottled_usec 0"},
         Quota(None, 100_000, 0, 0, 0)),
        ({"cpu_cfs_quota_us": "20000", "cpu_cfs_period_us": "50000",
          "cpu_stat": "nr_periods 2\nnr_throttled 1\nthrottled_time 777"}, Quota(20_000, 50_000, 2, 1, 777)),
        ({"cpu_cfs_quota_us": "-1", "cpu_cfs_period_us": "100000", "cpu_stat": "nr_periods 0\nnr_throttled 0"},
         Quota(None, 100_000, 0, 0, 0)),
        ({"cpu_stat": "usage_usec 9\nuser_usec 5"}, None),  # version 2 without the controller
        ({}, None),
    ],
)  # fmt: skip
def test_reading_a_quota(host: Host, files: dict[str, str], expected: Quota | None) -> None:
    assert cgroup.read(host.group("one", **files)) == expected
    if expected is not None and expected.quota_us:
        assert expected.processors == expected.quota_us / expected.period_us


def stat(periods: int, throttled: int, us: int) -> str:
    return f"nr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec {us}"


def test_counts_are_of_the_recording_and_of_the_group_that_was_held_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = host.group("pod", cpu_max="100000 100000", cpu_stat=stat(10, 1, 100))
    inner = host.group("pod/inner", cpu_max="200000 100000", cpu_stat=stat(5, 0, 0))
    monkeypatch.setattr(quota_module.cgroup, "groups", lambda _: [inner, pod])
    counts = QuotaCounts(PID)

    def told() -> dict[object, object]:
        columns = counts.columns()
        assert set(columns["pid"]) <= {PID} and set(columns["tid"]) <= {0}
        return dict(zip(columns["name"], columns["value"], strict=True))

    assert told() == {
        "quota_us": 100_000, "period_us": 100_000, "nr_periods": 0, "nr_throttled": 0, "throttled_ns": 0,
    }  # fmt: skip
    host.group("pod/inner", cpu_stat=stat(25, 4, 900))
    host.group("pod", cpu_stat=stat(30, 3, 300))
    counts.look()
    assert (told()["quota_us"], told()["nr_periods"], told()["nr_throttled"], told()["throttled_ns"]) == (
        200_000, 20, 4, 900_000,
    )  # fmt: skip
    monkeypatch.setattr(quota_module.cgroup, "groups", lambda _: [])  # the process has ended
    counts.look()
    assert told()["nr_throttled"] == 4


def test_without_a_quota_that_is_said_and_unknown_is_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    free = host.group("free", cpu_max="max 100000", cpu_stat=stat(0, 0, 0))
    monkeypatch.setattr(quota_module.cgroup, "groups", lambda _: [free])
    assert QuotaCounts(PID).columns()["name"] == ["nr_periods", "nr_throttled", "throttled_ns"]
    monkeypatch.setattr(quota_module.cgroup, "groups", lambda _: [])
    assert QuotaCounts(PID).columns() == {"pid": [], "tid": [], "name": [], "value": []}


@pytest.fixture
def version_2(tmp_path: Path) -> Iterator[Path]:
    """A group of version 2 with this process in it, in a mount of our own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    root = tmp_path / "unified"
    root.mkdir()
    if subprocess.run(["mount", "-t", "cgroup2", "none", root], check=False).returncode:
        pytest.skip("no control groups of version 2 can be mounted here")
    group = root / f"flowprof-{os.getpid()}"
    before = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield group
    finally:
        (root / before / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
        subprocess.run(["umount", root], check=True)


def test_a_real_group_of_version_2_is_found(version_2: Path) -> None:
    """Its quota is read where `cpu` belongs to version 2; on a hybrid host, where it does not, there is none."""
    path = Path("/proc/self/cgroup").read_text()
    assert f"/{version_2.name}\n" in path
    hybrid = any("cpu" in line.split(":")[1].split(",") for line in path.splitlines())
    found = cgroup.groups(os.getpid())
    assert found and all(one.is_dir() for one in found)
    assert (found[0].samefile(version_2)) == (not hybrid)
    if "cpu" in (version_2.parent / "cgroup.subtree_control").read_text().split():
        assert cgroup.read(version_2) == Quota(None, 100_000, 0, 0, 0)
    else:
        assert cgroup.read(version_2) is None and "usage_usec" in (version_2 / "cpu.stat").read_text()
