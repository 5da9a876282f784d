"""Packages from PyPI whose shared libraries tests look at: downloaded once into the cache folder, installed nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from functools import cache as cached
from pathlib import Path

import pytest
from flowprof.profiler import cache

X86 = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
A64 = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


def run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        pytest.skip(f"{what} cannot be had: {e}")
    if done.returncode:
        pytest.skip(f"{what} cannot be had: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")


@cached
def wheel(package: str, platforms: tuple[str, ...] = X86, member: str = ".so") -> Path:
    """The folder with a wheel's shared libraries, those with `member` in their name. Skips where it cannot be had."""
    suffix = "-aarch64" if platforms is A64 else ""
    folder = cache.made() / "wheels" / (package.replace("==", "-") + suffix)
    if folder.is_dir():
        return folder
    downloads = folder.parent / "downloads" / folder.name
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-d",
        str(downloads),
    ]
    command += [
        "--python-version",
        "3.11",
        "--implementation",
        "cp",
        "--abi",
        "cp311",
        "--abi",
        "abi3",
        "--abi",
        "none",
    ]
    run([*command, *(word for p in platforms for word in ("--platform", p)), package], package)
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    with zipfile.ZipFile(next(downloads.glob("*.whl"))) as archive:
        archive.extractall(part, [name for name in archive.namelist() if member in name])
    part.rename(folder)
    return folder
