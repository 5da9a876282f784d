"""Which version of a program or library a file is, and whether a manifest is for it.

A range is conditions between commas, all of which hold: `>= 10.11, < 10.12`, `== 2.13`, `!= 17.0`. Versions are numbers
between dots, compared number by number; `==` and `!=` look at as many of them as they name.

A file tells its version by a text in it, where the manifest says how that looks (`version_text`: a regular expression
with one group over the file's read-only data); else by its package's note (`.note.package`, the systemd project's), by
the Python package that it lies in, by its own name or SONAME (libc-2.31.so, libfoo.so.1.13). None of these is looked
for in a file that has the one before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from flowprof.profiler.binaries.elf import ElfError, ElfFile
from flowprof.profiler.target import Module

Version = tuple[int, ...]

MAX_PARTS = 8
MAX_NEIGHBOURS = 10_000  # entries of a folder of Python packages
_NUMBER = r"\d{1,9}(?:\.\d{1,9}){0,7}"
_CONDITION = re.compile(rf"(==|!=|<=|>=|<|>)\s*({_NUMBER})")
_READ_ONLY = (".rodata", ".rdata")
_PACKAGES = ("site-packages", "dist-packages")
_COMPARE: dict[str, Callable[[Version, Version], bool]] = {
    "<": lambda one, other: _padded(one) < _padded(other),
    "<=": lambda one, other: _padded(one) <= _padded(other),
    ">": lambda one, other: _padded(one) > _padded(other),
    ">=": lambda one, other: _padded(one) >= _padded(other),
    "==": lambda one, other: _padded(one)[: len(other)] == other,
    "!=": lambda one, other: _padded(one)[: len(other)] != other,
}


def conditions(text: str) -> tuple[tuple[str, Version], ...]:
    """A range's parts. Raises ValueError, which says what is wrong."""
    found = []
    for part in text.split(",") if text else ():
        match = _CONDITION.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()[:40]!r} is no condition such as >= 10.11")
        found.append((match[1], _numbers(match[2])))
    return tuple(found)


def fits(version: str, wanted: str) -> bool:
    """Whether a version ("10.11.6-MariaDB": what follows its numbers does not count) lies in a range."""
    numbers = re.match(_NUMBER, version)
    return numbers is not None and all(_COMPARE[sign](_numbers(numbers[0]), than) for sign, than in conditions(wanted))


def version_of(module: Module, elf: ElfFile, text: str) -> str:
    """The version of a file; text: the manifest's `version_text`. "": it does not tell."""
    if text:
        return _in_text(elf, text)
    return _in_note(elf) or _of_package(module) or _in_name(Path(module.path).name) or _in_name(elf.soname)


def misfit(module: Module, elf: ElfFile, wanted: str, text: str) -> str:
    """Why a manifest for a range of versions is not for this file; "": it is."""
    if not wanted:
        return ""
    name, found = Path(module.path).name, version_of(module, elf, text)
    if not found:
        return f"{name} does not tell its version, the manifest is for {wanted}"
    return "" if fits(found, wanted) else f"{name} is version {found}, the manifest is for {wanted}"


def _numbers(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


def _padded(version: Version) -> Version:
    return version + (0,) * (MAX_PARTS - len(version))


def _in_text(elf: ElfFile, text: str) -> str:
    pattern = re.compile(text.encode())
    for name in _READ_ONLY:
        section = elf.section(name)
        try:
            match = pattern.search(elf.section_bytes(section)) if section else None
        except ElfError:
            continue
        if match is not None:
            return (match[1] or b"").partition(b"\0")[0].decode(errors="replace")[:80]
    return ""


def _in_note(elf: ElfFile) -> str:
    """https://systemd.io/PACKAGE_METADATA_FOR_EXECUTABLE_FILES: a note whose content is JSON."""
    section = elf.section(".note.package")
    try:
        note = elf.section_bytes(section)[:4096] if section else b""
        told = json.loads(note[note.index(b"{") : note.rindex(b"}") + 1])
    except (ElfError, ValueError, RecursionError):
        return ""
    version = told.get("version") if isinstance(told, dict) else None
    return _begins(version.partition(":")[2] or version) if isinstance(version, str) else ""  # epoch:version


def _of_package(module: Module) -> str:
    """By the folder that an installer left beside the package: torch-2.13.0+cpu.dist-info."""
    path = Path(module.open_path)
    folder = next((one for one in path.parents if one.name in _PACKAGES), None)
    if folder is None:
        return ""
    package = path.relative_to(folder).parts[0].partition(".")[0].lower()
    try:
        for number, beside in enumerate(folder.iterdir()):
            name, _, version = beside.name.removesuffix(".dist-info").partition("-")
            if beside.name.endswith(".dist-info") and name.lower() == package:
                return _begins(version)
            if number >= MAX_NEIGHBOURS:
                break
    except OSError:
        pass
    return ""


def _in_name(name: str) -> str:
    """libfoo.so.1.13 → 1.13, libc-2.31.so → 2.31, python3.11 → 3.11, libpython3.11.so.1.0 → 3.11."""
    dotted = re.search(r"[A-Za-z](\d{1,9}\.\d{1,9})\.so(?:\.|$)", name[-100:])
    if dotted:
        return dotted[1]
    match = re.search(rf"\.so\.({_NUMBER})$|-({_NUMBER})(?:\.so)?$|[A-Za-z]({_NUMBER})$", name[-100:])
    return next(filter(None, match.groups()), "") if match else ""


def _begins(text: str) -> str:
    """The text, where it begins with a version's numbers."""
    return text[:80] if re.match(_NUMBER, text) else ""
