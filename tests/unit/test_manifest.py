"""Resource manifests: what is read from them, and where an error is said to be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.resources.manifest import (
    MAX_BYTES,
    Event,
    Manifest,
    ManifestError,
    Resource,
    Variable,
    load,
    parse,
    shipped,
)

POOL = """
name = "db"
modules = 'db|libdb\\.so'
build_ids = ["4f3a00"]

[[resource]]
name = "page"
kind = "memory"
capacity = 64

[[resource.event]]
event = "acquire"
function = 'pool_get'
at = "return"
when = "ret != 0"
unit = "ret"

[[resource.event]]
event = "release"
function = 'pool_put'
unit = "arg2"
variables = { free = "*(arg1+16):u32" }

[[resource]]
name = "table"
kind = "state"
[[resource.event]]
event = "wait"
function = 'lock'
"""


def test_everything_is_read() -> None:
    acquire = Event("acquire", "pool_get", at="return", stack=True, when="ret != 0", unit="ret", line=11)
    release = Event("release", "pool_put", unit="arg2", variables=(("free", "*(arg1+16):u32"),), line=18)
    wait = Event("wait", "lock", stack=True, line=27)
    assert parse(POOL, "db.toml") == Manifest(
        "db", "", "db.toml", r"db|libdb\.so", ("4f3a00",),
        (
            Resource("page", "memory", "", 64, (acquire, release), 6),
            Resource("table", "state", "", None, (wait,), 24),
        ),
        build_ids_line=4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ('kind = "memory"', 'kind = "pages"', 8, "kind"),
        ("capacity = 64", "capacity = 0", 9, "capacity"),
        ("capacity = 64", "capacity = true", 9, "capacity"),
        ("capacity = 64", 'size = "x"', 9, "size"),
        ("capacity = 64", "capacity = 6.4", 9, "capacity"),
        ("'pool_put'", "'pool_put('", 20, "function"),
        ('event = "release"', 'event = "free"', 19, "event"),
        ("function = 'lock'", "", 27, "function"),
        ("function = 'lock'", "function = 'lock'\ncallee_of = 'f'", 30, "callee_of"),
        ("function = 'lock'", "syscall = 'futex'\ncallee_of = 'f'", 30, "callee_of"),
        ("function = 'lock'", "function = 'lock'\nunless_inner = 1", 30, "unless_inner"),
        ('name = "table"', 'name = "page"', 24, "name"),
        ('unit = "ret"', "unit = 3", 16, "unit"),
        ('at = "return"', 'at = "exit"', 14, "at"),
        ('{ free = "*(arg1+16):u32" }', "{ free = 16 }", 22, "variables"),
        ('["4f3a00"]', '["x"]', 4, "build_ids"),
        ('build_ids = ["4f3a00"]', "versions = '13'", 4, "versions"),
        ('build_ids = ["4f3a00"]', "version_text = 'v(.*)'", 4, "version_text"),
        ('build_ids = ["4f3a00"]', "versions = '> 1'\nversion_text = 'v.*'", 5, "version_text"),
        ('name = "db"', 'name = "db', 2, ""),
        ('name = "db"', "", 1, "name"),
    ],
)  # fmt: skip
def test_an_error_names_its_line_and_field(old: str, new: str, line: int, field: str) -> None:
    with pytest.raises(ManifestError, match=rf"^db\.toml:{line}: {re.escape(field)}") as raised:
        parse(POOL.replace(old, new, 1), "db.toml")
    assert "\n" not in raised.value.message and raised.value.hint


@pytest.mark.parametrize("text", ["", "resource = 3", "resource = [1]", 'name = "x"\nresource = [{name="a"}]', "[[[["])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        parse(text, "x.toml")


def test_files_of_others(tmp_path: Path) -> None:
    large, binary = tmp_path / "large.toml", tmp_path / "binary.toml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    binary.write_bytes(b"name = 1\n\xff")
    for path, why in ((large, "1 MiB"), (binary, "binary.toml:2: is no UTF-8"), (tmp_path / "none.toml", "none")):
        with pytest.raises(FlowprofError, match=why):
            load(str(path))


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_manifests_can_be_read(name: str) -> None:
    assert load(name).name == name


def test_a_capacity_that_is_read() -> None:
    manifest = parse(POOL.replace("capacity = 64", 'capacity = "*(global(size)):i32"'), "db.toml")
    assert [(one.capacity, one.capacity_read) for one in manifest.resources] == [
        (None, "*(global(size)):i32"), (None, ""),
    ]  # fmt: skip


def test_versions() -> None:
    found = parse(POOL.replace('build_ids = ["4f3a00"]', "versions = '>= 2, < 3'\nversion_text = 'v(.*)'"), "db.toml")
    assert (found.versions, found.version_text, found.versions_line) == (">= 2, < 3", "v(.*)", 4)


def test_variables() -> None:
    text = POOL + '\n[[variable]]\nname = "queued"\nexpression = "*(global(length)):u32"\n'
    assert parse(text, "db.toml").variables == (Variable("queued", "*(global(length)):u32", 100, 31),)
    for wrong, line in (("period_ms = 9", 34), ('kind = "x"', 34), ("period_ms = 1.5", 34)):
        with pytest.raises(ManifestError, match=rf"db\.toml:{line}: "):
            parse(text + wrong, "db.toml")
