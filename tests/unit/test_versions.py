"""Ranges of versions, and where files tell theirs."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.resources.versions import conditions, fits, misfit, version_of
from flowprof.profiler.target import Module


@pytest.mark.parametrize(
    ("version", "wanted", "expected"),
    [
        ("10.11.19-MariaDB", ">= 10.11, < 10.12", True), ("10.9.1", ">= 10.11", False), ("10.11", ">= 10.11.0", True),
        ("11.0", ">= 10.11, < 10.12", False), ("2.13.0+cpu", "== 2.13", True), ("2.13", "== 2.13.1", False),
        ("2.1", "== 2.13", False), ("17.0", "!= 17", False), ("16.9", "!= 17", True), ("3", "> 3.0", False),
        ("3.0.1", "> 3", True), ("2.36", "<= 2.36", True), ("2.36.1", "<= 2.36", False), ("stable", ">= 0", False),
        ("", ">= 0", False), ("9" * 40, ">= 1", True),
    ],
)  # fmt: skip
def test_ranges(version: str, wanted: str, expected: bool) -> None:
    assert fits(version, wanted) == expected


@pytest.mark.parametrize("text", [">= ", "13", "=> 13", ">= 13 < 18", ">= 13,", ">= 1.x", ">= " + "1." * 9 + "1"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="is no condition such as >= "):
        conditions(text)


def library(path: Path, code: str = "", *options: str) -> ElfFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_suffix(".c")
    source.write_text(code)
    subprocess.run(["gcc", "-shared", "-o", path, *options, source], check=True)
    return ElfFile(str(path))


def of(elf: ElfFile, text: str = "") -> str:
    return version_of(Module(1, elf.path, elf.path, 0, "", False, ()), elf, text)


def test_a_text_in_the_file(tmp_path: Path) -> None:
    code = 'const char help[] = "as in 9.9.9-Thing"; const char version[] = "10.11.19-Thing";'
    elf = library(tmp_path / "libthing-1.2.so", code)
    assert of(elf, r"\x00(\d+\.\d+\.\d+)-Thing") == "10.11.19"
    assert of(elf, r"Nothing (\d+)") == "", "what the manifest names is not there: its name may mean another thing"
    assert of(elf) == "1.2"


@pytest.mark.parametrize(
    ("name", "soname", "version"),
    [("libc-2.31.so", "", "2.31"), ("libfoo.so.1.13.0", "libfoo.so.1", "1.13.0"), ("libfoo.so", "libfoo.so.1", "1"),
     ("libc10.so", "libc10.so", ""), ("python3.11", "", "3.11"), ("server", "", ""),
     ("libpython3.11.so.1.0", "libpython3.11.so.1.0", "3.11"), ("libpython3.so", "", ""),
     ("libx.so." + "7" * 200, "", "")],
)  # fmt: skip
def test_names(tmp_path: Path, name: str, soname: str, version: str) -> None:
    elf = library(tmp_path / "lib" / "x.so", "", *([f"-Wl,-soname,{soname}"] if soname else []))
    assert elf.soname == soname
    module = Module(1, f"/usr/lib/{name}", elf.path, 0, "", False, ())
    assert version_of(module, elf, "") == version


@pytest.mark.parametrize(
    ("content", "version"),
    [({"type": "deb", "name": "x", "version": "2:1.4.3-1ubuntu2"}, "1.4.3-1ubuntu2"), ({"version": "5.1"}, "5.1"),
     ({"version": 5}, ""), ({"version": "x" * 999}, ""), ([1], "")],
)  # fmt: skip
def test_a_package_s_note(tmp_path: Path, content: object, version: str) -> None:
    told = json.dumps(content).encode()
    note = struct.pack("<III", 4, len(told), 0xCAFE1A7E) + b"FDO\0" + told
    (tmp_path / "note").write_bytes(note)
    code = f'__asm__(".section .note.package,\\"a\\"\\n.incbin \\"{tmp_path / "note"}\\"\\n.text");'
    assert of(library(tmp_path / "x.so", code)) == version


def test_a_python_package(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "site-packages"
    elf = library(packages / "torch" / "lib" / "libc10.so")
    assert of(elf) == ""
    for name in ("torchgen-9.9.dist-info", "torch-2.13.0+cpu.dist-info", "torch-x"):
        (packages / name).mkdir()
    assert of(elf) == "2.13.0+cpu"


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    elf = library(tmp_path / "libthing-1.2.so")
    module = Module(1, "/lib/libthing-1.2.so", elf.path, 0, "", False, ())
    assert misfit(module, elf, "", "") == misfit(module, elf, ">= 1.1, < 2", "") == ""
    assert misfit(module, elf, ">= 2", "") == "libthing-1.2.so is version 1.2, the manifest is for >= 2"
    unknown = "libthing-1.2.so does not tell its version, the manifest is for >= 2"
    assert misfit(module, elf, ">= 2", "Thing (.*)") == unknown
