"""Ceilings: files of users, the cache, the GPU table, and what is planned to be measured on which machine."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from flowprof.profiler import doctor
from flowprof.profiler.commands import recording
from flowprof.profiler.errors import FlowprofError, NotFoundError, PermissionDeniedError, RecordingError, UsageError
from flowprof.profiler.machine import calibrate, ceilings, ceilings_file, conditions, processor
from flowprof.profiler.machine.ceilings import ANY, DISTURBED, Ceiling, Ceilings
from flowprof.profiler.machine.processor import Processors

DRAM = Ceiling("dram_read", "", 2, 45.2e9, 43e9, 45.2e9, "measured")
GEMM = Ceiling("gemm", "f32", 2, 189e9, 180e9, 190e9, "measured")
HERE = Ceilings("some CPU", (DRAM, GEMM), (("gemm int8", "no library"),))
MIB = 1 << 20
MILAN = Processors((0, 1), 2, MIB // 2, 32 * MIB, 1, frozenset({"avx2", "f16c", "hypervisor"}), True)


def one(**fields: object) -> str:
    """A JSON file with one ceiling that is fine but for `fields`."""
    return json.dumps({"ceiling": [{"what": "dram_read", "threads": 2, "value": 45.2e9, **fields}]})


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "c.json"
    ceilings_file.save(HERE, path)
    read = ceilings_file.load(path)
    assert (read.machine, read.missing) == (HERE.machine, HERE.missing)
    assert read.items == tuple(replace(item, source="c.json: measured") for item in HERE.items)
    assert [path.name for path in path.parent.iterdir()] == ["c.json"]
    columns = ceilings.rows(HERE)
    assert list(columns) == list(ceilings.COLUMNS)
    back = ceilings.from_rows("some CPU", list(zip(*columns.values(), strict=True)))
    assert back.items == HERE.items


def test_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('machine = "M"\n[[ceiling]]\nwhat = "gemm"\ndtype = "int8"\nvalue = 3e11\nsource = "sheet"\n')
    assert ceilings_file.load(path) == Ceilings(
        "M", (Ceiling("gemm", "int8", ANY, 3e11, 3e11, 3e11, "mine.toml: sheet"),), ()
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not JSON"),
        ("\x00\x01", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ("[]", "not an object"),
        ("{}", "no list `ceiling`"),
        ('{"ceiling": {}}', "no list `ceiling`"),
        ('{"ceiling": []}', "holds no ceiling"),
        ('{"ceiling": [7]}', "ceiling 1 is not a table"),
        ('{"ceiling": [], "celing": 1}', "holds 'celing'"),
        (one()[:-1] + ', "conditions": 7}', "conditions is not a table"),
        (one()[:-1] + ', "conditions": {"kernel": 7}}', "conditions: kernel is not a line"),
        ('{"ceiling": [], "schema_version": 99}', "schema_version is 99"),
        (one(what="dram"), "what is 'dram'"),
        (one(what=["gemm"]), "what is ['gemm']"),
        (one(what="gemm"), "dtype is ''"),
        (one(what="gemm", dtype="f64"), "dtype is 'f64'"),
        (one(what="gemm", dtype={}), "dtype is {}"),
        (one(dtype="f32"), "a bandwidth has no dtype"),
        (one(threads=-1), "threads is -1"),
        (one(threads=True), "threads is True"),
        (one(threads=1.5), "threads is 1.5"),
        (one(threads=10**30), "threads is 1000"),
        (one(value=None), "value is None"),
        (one(value="45e9"), "value is '45e9'"),
        (one(value=float("nan")), "value is nan"),
        (one(value=float("inf")), "value is inf"),
        (one(value=10**400), "value is 1000"),
        (one(value=-45e9), "are meant, such as 45.2e9"),
        (one(value=45.2), "are meant, such as 45.2e9"),
        (one(low=50e9), "not low ≤ value ≤ high"),
        (one(source="\x1b[2J"), "source is not a line"),
        (one(source="two\nlines"), "source is not a line"),
        (one(source=""), "source is not a line"),
        (one(source="x" * 501), "source is not a line"),
        (one(source=3), "source is not a line"),
        (one(valeu=3), "ceiling 1 holds 'valeu'"),
        ('{"ceiling": [' + ",".join(['{"what": "l2_read", "threads": 1, "value": 1e9}'] * 2) + "]}", "twice"),
        (" " * (MIB + 1), "larger than 1 MiB"),
    ],
)
def test_hostile_files(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as caught:
        ceilings_file.load(path)
    assert said in caught.value.message and str(path) in caught.value.message and caught.value.hint
    assert len(caught.value.message) < 500


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        ceilings_file.load(tmp_path / "absent.json")
    for path in (tmp_path, Path("/dev/null"), Path("/dev/zero")):
        with pytest.raises(UsageError, match="not a plain file"):
            ceilings_file.load(path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="not a plain file"):
        ceilings_file.load(pipe)
    (tmp_path / "broken.toml").write_text("[[ceiling]\n")
    with pytest.raises(UsageError, match="is not TOML"):
        ceilings_file.load(tmp_path / "broken.toml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_not_permitted(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.touch(mode=0)
    with pytest.raises(PermissionDeniedError):
        ceilings_file.load(path)


@pytest.mark.parametrize(
    ("asked", "value", "said"),
    [(1, 10e9, ""), (2, 40e9, "; with 4 threads, not 2"), (4, 40e9, ""), (64, 40e9, "; with 4 threads, not 64")],
)
def test_the_next_higher_number_of_threads_bounds(asked: int, value: float, said: str) -> None:
    some = Ceilings("M", (replace(DRAM, threads=1, value=10e9), replace(DRAM, threads=4, value=40e9)))
    found = some.get("dram_read", asked)
    assert found is not None
    assert (found.value, found.source) == (value, f"measured{said}")


def test_any_number_of_threads_and_none() -> None:
    some = Ceilings("M", (replace(DRAM, threads=ANY), replace(DRAM, threads=8)))
    assert [getattr(some.get("dram_read", count), "threads", None) for count in (0, 3, 8)] == [ANY, ANY, 8]
    assert some.get("llc_read", 1) is None
    assert some.get("gemm", 1, "int8") is None
    assert HERE.get("gemm", 2) is None


def test_merging_keeps_the_undisturbed() -> None:
    worse = replace(DRAM, value=29e9, low=29e9, high=29e9, source=f"measured{DISTURBED}by others")
    better = replace(DRAM, value=50e9, high=50e9, source=worse.source)
    calm = replace(DRAM, value=30e9, low=30e9, high=30e9)
    for new, kept in ((worse, DRAM), (better, better), (calm, calm)):
        merged = HERE.merged(Ceilings("some CPU", (new,)))
        assert merged.items == (kept, GEMM)
        assert merged.missing == ()
    one_more = HERE.merged(Ceilings("some CPU", (replace(DRAM, threads=1),)))
    assert [(item.what, item.threads) for item in one_more.items] == [("dram_read", 1), ("dram_read", 2), ("gemm", 2)]


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPROF_CACHE", str(tmp_path))
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert ceilings_file.cached() is None
    ceilings_file.save(HERE, ceilings_file.cache_file())
    assert ceilings_file.cached() == HERE
    assert ceilings_file.cached([0, 1, 2, 3, 999]) is None  # other processors, other machine
    for damaged in ("", '{"schema_version": 0, "ceiling": []}', "[]"):
        ceilings_file.cache_file().write_text(damaged)
        assert ceilings_file.cached() is None


NOW = {"day": "2026-11-22", "kernel": "6.12.1", "microcode": "0x2b", "memory_gib": "62.7"}


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ({}, []),
        ({"day": "2026-08-24"}, []),
        ({"day": "2026-08-23"}, ["that was 91 days ago"]),
        ({"day": "2027-01-01"}, []),
        ({"day": "yesterday"}, []),
        ({"kernel": "6.1.0-28"}, ["the kernel was 6.1.0-28 and is 6.12.1"]),
        ({"microcode": "0x2a"}, ["the microcode was 0x2a and is 0x2b"]),
        ({"memory_gib": "60.0"}, []),
        ({"memory_gib": "31.3"}, ["there were 31.3 GiB of memory and are 62.7"]),
        ({"memory_gib": "much"}, []),
    ],
)
def test_what_has_changed_since(then: dict[str, str], said: list[str]) -> None:
    assert conditions.changes(NOW | then, NOW) == said
    assert conditions.changes(then, {}) == []


def test_ceilings_that_do_not_hold_any_more_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPROF_CACHE", str(tmp_path))
    monkeypatch.delenv("SUDO_UID", raising=False)
    here = replace(HERE, conditions=tuple(conditions.now().items()))
    assert {"day", "kernel", "memory_gib"} <= dict(here.conditions).keys()
    ceilings_file.save(here, ceilings_file.cache_file())
    assert ceilings_file.valid() == here == ceilings_file.doubted(here) and recording.ceilings_note() == ""
    assert doctor._ceilings().verdict == "OK"
    old = replace(HERE, conditions=(("kernel", "5.4"),))
    ceilings_file.save(old, ceilings_file.cache_file())
    assert ceilings_file.valid() is None and ceilings_file.cached() == old
    assert ceilings_file.doubted(old).items[0].source.startswith("measured; since then the kernel was 5.4 and is ")
    for words in (recording.ceilings_note(), doctor._ceilings().found + doctor._ceilings().remedy):
        assert "the kernel was 5.4" in words and "flowprof calibrate" in words
    assert old.merged(here).conditions == old.conditions, "the first measurement's age counts"


def test_without_ceilings_the_next_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPROF_CACHE", str(tmp_path))
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert recording.ceilings_note().endswith("flowprof calibrate")
    assert doctor._ceilings().verdict == "WARN" and "flowprof calibrate" in doctor._ceilings().remedy


def test_under_sudo_the_callers_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    caller, root = tmp_path / "caller", tmp_path / "root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("FLOWPROF_CACHE", str(root))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("u", "x", uid, uid, "", str(caller), "")))
    name = ceilings_file.cache_name()
    ceilings_file.save(HERE, caller / ".cache" / "flowprof" / name)
    assert ceilings_file.cached() == HERE
    assert ceilings_file.cache_file() == root / name  # root writes nothing in a user's folder
    newer = replace(HERE, machine="newer")
    ceilings_file.save(newer, root / name)
    os.utime(root / name, (2**31, 2**31))
    assert ceilings_file.cached() == newer


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError) as caught:
        ceilings_file.save(HERE, tmp_path / "file" / "c.json")
    assert "FLOWPROF_CACHE" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "gb_per_s", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 3350, 989.4e12),
        ("8 x NVIDIA H100 80GB HBM3", 3350, 989.4e12),
        ("NVIDIA H200", 4800, 989.4e12),
        ("nvidia a100-sxm4-80gb", 2039, 312e12),
        ("NVIDIA A100 80GB PCIe", 1935, 312e12),
        ("A100-PCIE-40GB", 1555, 312e12),
        ("NVIDIA A100-PG509-200", 1555, 312e12),
        ("Tesla T4", 320, None),
        ("GeForce RTX 4090", 1008, 165.2e12),
        ("AMD Instinct MI300X", 5300, 1307.4e12),
    ],
)
def test_gpus(name: str, gb_per_s: float, bf16: float | None) -> None:
    found = ceilings.gpu_ceilings(name)
    assert found is not None and found.machine == name
    memory, product = found.get("dram_read", 1), found.get("gemm", 0, "bf16")
    assert memory is not None and memory.value == gb_per_s * 1e9
    assert (product.value if product else None) == bf16
    assert "https://" in memory.source and "2026-" in memory.source
    assert ("gemm bf16" in dict(found.missing)) == (bf16 is None)


@pytest.mark.parametrize("name", ["", "NVIDIA", "NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 3090 Ti", "H100", "\x1b"])
def test_another_gpu(name: str) -> None:
    assert ceilings.gpu_ceilings(name) is None


def test_the_gpu_table_is_whole() -> None:
    import tomllib

    table = tomllib.loads((Path(ceilings.__file__).parents[1] / "data" / "gpus.toml").read_text())
    names = [name for gpu in table["gpu"] for name in gpu["names"]]
    assert len(names) == len({ceilings.plain_name(name) for name in names})
    for gpu in table["gpu"]:
        found = ceilings.gpu_ceilings(gpu["names"][0])
        assert found is not None and found.get("dram_read", 0)
        assert gpu["url"].startswith("https://")
        assert set(gpu["tera"]) <= set(ceilings.DTYPES) and "f32" in gpu["tera"]
        assert gpu["tera"]["f32"] < gpu["tera"]["f16"] <= gpu["tera"].get("int8", 1e9)
        assert set(gpu) <= {"names", "gb_per_s", "memory_gb", "link_gb_per_s", "tera", "note", "url", "checked"}


@pytest.mark.parametrize(
    ("cpus", "cores", "counts"),
    [(1, 1, (1,)), (2, 2, (1, 2)), (12, 6, (1, 2, 4, 6, 8, 12)), (3, 5, (1, 2, 3)), (192, 96, (1, 2, 4, 8, 16, 32,
                                                                                              64, 96, 128, 192))],
)  # fmt: skip
def test_thread_counts(cpus: int, cores: int, counts: tuple[int, ...]) -> None:
    assert processor.thread_counts(cpus, cores) == counts


@pytest.mark.parametrize(
    ("arch", "flags", "installed", "can", "why"),
    [
        ("x86_64", "avx2 f16c", True, ("f32", "int8"), {"gemm f16": "no instructions", "gemm bf16": "no instructions"}),
        ("x86_64", "avx2 avx512_bf16 amx_bf16", True, ("f32", "int8"), {"gemm bf16": "pip install torch"}),
        ("x86_64", "avx2 avx512_bf16", "torch", ("f32", "bf16", "int8"), {"gemm f16": "no instructions"}),
        ("x86_64", "avx2 avx512_fp16", "torch", ("f32", "int8"), {"gemm f16": "avx512_fp16"}),
        ("x86_64", "avx2", False, ("f32",), {"gemm int8": "flowprof[calibrate]"}),
        ("x86_64", "sse2", True, ("f32",), {"gemm int8": "no instructions"}),
        ("aarch64", "asimd asimdhp asimddp bf16 i8mm", True, ("f32", "bf16", "f16", "int8"), {}),
        ("aarch64", "asimd", True, ("f32", "int8"), {"gemm f16": "no instructions"}),
        ("riscv64", "", True, ("f32",), {"gemm int8": "no instructions"}),
    ],
)
def test_which_gemms(arch: str, flags: str, installed: object, can: tuple[str, ...], why: dict[str, str]) -> None:
    """installed: "torch" too, or only what flowprof[calibrate] brings, or not even that."""
    machine = replace(MILAN, flags=frozenset(flags.split()))
    found, missing = calibrate.gemms(machine, arch, bool(installed), installed == "torch")
    assert found == can
    assert {"f32", "bf16", "f16", "int8"} == {*can, *(what.removeprefix("gemm ") for what, _ in missing)}
    for what, word in why.items():
        assert word in dict(missing)[what]


def sizes(machine: Processors, threads: tuple[int, ...], spare: int = 1 << 40) -> dict[tuple[str, int], float]:
    items, _ = calibrate.plan(machine, threads, ("f32",), spare)
    return {(item.what, item.threads): item.size_bytes / MIB for item in items}


def test_working_sets() -> None:
    assert sizes(MILAN, (1, 2)) == {
        ("dram_read", 2): 128, ("llc_read", 2): 17, ("l2_read", 2): 0.5, ("gemm", 2): 0,
        ("dram_read", 1): 128, ("llc_read", 1): 16.5, ("l2_read", 1): 0.25, ("gemm", 1): 0,
    }  # fmt: skip
    chiplets = replace(MILAN, cpus=tuple(range(64)), llc_count=8)
    assert sizes(chiplets, (64,))["dram_read", 64] == 4 * 8 * 32
    assert sizes(chiplets, (1,))["dram_read", 1] == 4 * 32
    assert sizes(chiplets, (64,))["llc_read", 64] == 64 * (0.5 + 32 / 8 / 2)
    bare = replace(MILAN, l2_bytes=0, llc_bytes=0, llc_count=0)
    assert sizes(bare, (1,)) == {("dram_read", 1): 256, ("gemm", 1): 0}


def test_no_room() -> None:
    assert ("dram_read", 1) not in sizes(MILAN, (1,), spare=200 * MIB)
    items, missing = calibrate.plan(MILAN, (1,), ("f32",), 200 * MIB)
    assert "128 MiB are needed" in dict(missing)["dram_read with 1 thread"]
    crowded = replace(MILAN, cpus=tuple(range(80)), l2_bytes=2 * MIB, llc_bytes=32 * MIB)
    items, missing = calibrate.plan(crowded, (1, 80), ("f32",), 1 << 40)
    assert [item.threads for item in items if item.what == "llc_read"] == [1]
    assert "no room beyond L2" in dict(missing)["llc_read with 80 threads"]


def test_what_is_still_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "libraries", lambda: True)
    assert calibrate.open_counts(None, (1, 2)) == (1, 2)
    assert calibrate.open_counts(HERE, (1, 2)) == (1,)
    disturbed = replace(HERE, items=(replace(DRAM, source=f"x{DISTURBED}y"), GEMM))
    assert calibrate.open_counts(disturbed, (2,)) == (2,)
    assert calibrate.open_counts(replace(HERE, missing=(("gemm int8", calibrate._LIBRARY_HINT),)), (2,)) == (2,)
    without_torch = replace(HERE, missing=(("gemm bf16", calibrate._TORCH_HINT),))
    for there in (False, True):
        monkeypatch.setattr(calibrate, "pytorch", lambda there=there: there)
        assert calibrate.open_counts(without_torch, (2,)) == ((2,) if there else ())


def test_reading_processors(tmp_path: Path) -> None:
    def put(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")

    for cpu in range(4):  # two cores of two threads; an L3 for each core
        pair = f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"
        put(f"cpu{cpu}/topology/thread_siblings_list", pair)
        for index, (level, kind, size) in enumerate(
            [("1", "Data", "32K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K"), ("3", "Unified", "16M")]
        ):
            put(f"cpu{cpu}/cache/index{index}/level", level)
            put(f"cpu{cpu}/cache/index{index}/type", kind)
            put(f"cpu{cpu}/cache/index{index}/size", size)
            put(f"cpu{cpu}/cache/index{index}/shared_cpu_list", pair)
    found = processor.read(tmp_path, "flags\t: avx2 hypervisor\n", [0, 1, 2, 3])
    assert found == Processors((0, 1, 2, 3), 2, MIB, 16 * MIB, 2, frozenset({"avx2", "hypervisor"}), True)
    half = processor.read(tmp_path, "Features : asimd\n", [0, 1])
    assert (half.cores, half.llc_count, half.guest) == (1, 1, False)
    nothing = processor.read(tmp_path / "absent", "", [7])
    assert nothing == Processors((7,), 1, 0, 0, 0, frozenset(), False)


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError):
        calibrate.measure([10**6])
    with pytest.raises(UsageError):
        calibrate.measure([0])


@pytest.mark.parametrize("text", ["", "a", "1,,2", "-1", "1.5", "²", ",".join("1" * 99), "9999999"])
def test_wrong_threads(text: str) -> None:
    from flowprof.profiler.commands import calibrate as command

    with pytest.raises(FlowprofError) as caught:
        command._threads(text)
    assert caught.value.exit_code == 2
    assert command._threads("2, 1,2") == (2, 1)
