"""Every package of the tree is named in pyproject.toml: setuptools leaves out the others without a word."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_package_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = [init.parent for top in ("profiler", "probes", "viewers", "examples")
               for init in (ROOT / top).rglob("__init__.py")]  # fmt: skip
    assert sorted(setuptools["packages"]) == sorted(
        ".".join(("flowprof", *folder.relative_to(ROOT).parts)) for folder in folders
    )
