"""Ceilings as a file: one that a user gives, and the one in which this machine's are kept.

The file is JSON or TOML:

    machine = "two-socket server"
    [[ceiling]]
    what = "dram_read"     # or llc_read, l2_read: bytes/s;  gemm: operations/s, a multiply-add is two
    threads = 16           # left out: holds for every number of threads
    value = 204.8e9
    source = "DDR4-3200, 8 channels, data sheet"

and for `what = "gemm"` also `dtype = "f32"` (bf16, f16, int8, f8). `low` and `high` are optional. `flowprof calibrate
--json` prints such a file, and the cache holds the same. Of the cache's file `conditions` are compared with the machine
(conditions.py): where they do not hold any more every source says so, and `flowprof calibrate` measures again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast, get_args

from flowprof.profiler import cache
from flowprof.profiler.errors import FlowprofError, RecordingError, UsageError
from flowprof.profiler.machine import conditions, kernel
from flowprof.profiler.machine.ceilings import ANY, COLUMNS, DTYPES, Ceiling, Ceilings, What, machine
from flowprof.profiler.untrusted_file import content
from flowprof.profiler.whole_file import write_whole

SCHEMA_VERSION = 1
MAX_FILE_BYTES = 1 << 20
_MAX_THREADS = 1 << 16
_MAX_TEXT = 500
_MAX_CONDITIONS = 20
_PLAUSIBLE = (1e8, 1e18)  # bytes/s and operations/s: below lies who wrote GB/s


def load(path: str | Path) -> Ceilings:
    """A user's file. Every source then begins with its name.

    Raises NotFoundError (no such file), PermissionDeniedError, or UsageError that names the mistake.
    """
    read = _parse(_content(Path(path)), Path(path))
    named = tuple(replace(item, source=f"{Path(path).name}: {item.source}") for item in read.items)
    return replace(read, items=named)


def save(ceilings: Ceilings, path: Path) -> None:
    """Write the file whole or not at all. Raises RecordingError when it cannot be written."""
    hint = "set FLOWPROF_CACHE to a folder that you may write"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"cannot write {path}: {error.strerror}", hint) from error
    write_whole(path, as_json(ceilings), hint)


def as_json(ceilings: Ceilings) -> str:
    """The file's text, which `load` reads."""
    shown = {
        "schema_version": SCHEMA_VERSION,
        "machine": ceilings.machine,
        "ceiling": [asdict(item) for item in ceilings.items],
        "missing": [{"what": what, "why": why} for what, why in ceilings.missing],
        "conditions": dict(ceilings.conditions),
    }
    return json.dumps(shown, indent=1, ensure_ascii=False) + "\n"


def cached(cpus: Sequence[int] | None = None) -> Ceilings | None:
    """What was measured on this machine with these CPUs allowed (default: those of this process), or None.

    Under sudo the file of the user who called it counts, too: the newer of the two. A file that is damaged or of
    another version is none.
    """
    files = [folder / cache_name(cpus) for folder in _cache_folders()]
    there = [(path.stat().st_mtime, path) for path in files if path.is_file()]
    for _, path in sorted(there, reverse=True):
        with contextlib.suppress(FlowprofError):
            return _parse(_content(path), path)
    return None


def doubts(ceilings: Ceilings) -> str:
    """In words what has changed on this machine since they were measured; "": nothing that is known."""
    return "; ".join(conditions.changes(dict(ceilings.conditions), conditions.now()))


def doubted(ceilings: Ceilings) -> Ceilings:
    """The same, with what has changed since in every source."""
    changed = doubts(ceilings)
    if not changed:
        return ceilings
    return replace(ceilings, items=tuple(replace(one, source=f"{one.source}; since then {changed}"[:_MAX_TEXT])
                                         for one in ceilings.items))  # fmt: skip


def valid(cpus: Sequence[int] | None = None) -> Ceilings | None:
    """What is cached, unless something has changed since: then it has to be measured again."""
    known = cached(cpus)
    return None if known is None or doubts(known) else known


def cache_file(cpus: Sequence[int] | None = None) -> Path:
    """Where this process keeps what it measures here."""
    return _cache_folders()[0] / cache_name(cpus)


def cache_name(cpus: Sequence[int] | None = None) -> str:
    """One file per machine, CPU model, CPUs allowed, processor quota and version of the file."""
    allowed = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
    identity = kernel.text("/etc/machine-id").strip() or os.uname().nodename
    quota = kernel.text("/sys/fs/cgroup/cpu.max").strip()
    key = json.dumps([SCHEMA_VERSION, machine(), identity, allowed, quota])
    return f"ceilings-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _cache_folders() -> list[Path]:
    """Ours, which is written; and under sudo the caller's, which is only read: root writes nothing where a user
    could have put a link."""
    folders = [cache.folder()]
    caller = os.environ.get("SUDO_UID", "") if os.geteuid() == 0 else ""
    if caller.isdigit():
        import pwd

        with contextlib.suppress(KeyError):
            folders.append(Path(pwd.getpwuid(int(caller)).pw_dir) / ".cache" / "flowprof")
    return folders


def _content(path: Path) -> bytes:
    absent = "flowprof calibrate --json > FILE writes one"
    return content(path, MAX_FILE_BYTES, UsageError, absent, "give --ceilings a JSON or TOML file")


def _parse(written: bytes, path: Path) -> Ceilings:
    try:
        text = written.decode("utf-8")
        read = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix.lower() == ".toml" else "JSON"
        said = str(error)[:200] or type(error).__name__
        raise UsageError(f"{path} is not {kind}: {said}", "a TOML file's name must end in .toml") from error
    try:
        return _ceilings(read)
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "flowprof calibrate --json shows what the file looks like") from error


def _ceilings(read: object) -> Ceilings:
    """Raises ValueError with the words for the user."""
    if not isinstance(read, dict):
        raise ValueError("not an object with a list `ceiling`")
    _known(read, ("schema_version", "machine", "ceiling", "missing", "conditions"), "the file")
    if read.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {read['schema_version']!r:.20}, this flowprof reads {SCHEMA_VERSION}")
    items = [_ceiling(one, f"ceiling {number}") for number, one in enumerate(_list(read, "ceiling"), 1)]
    if not items:
        raise ValueError("it holds no ceiling")
    seen = set()
    for item in items:
        key = (item.what, item.dtype, item.threads)
        if key in seen:
            raise ValueError(f"{item.what} {item.dtype} with {item.threads} threads stands there twice")
        seen.add(key)
    missing = [
        (_words(one, "what", "missing"), _words(one, "why", "missing")) for one in _list(read, "missing", needed=False)
    ]
    made = read.get("conditions", {})
    if not isinstance(made, dict) or len(made) > _MAX_CONDITIONS:
        raise ValueError("conditions is not a table")
    under = tuple((name[:_MAX_TEXT], _words(made, name, "conditions")) for name in made)
    return Ceilings(_words(read, "machine", "the file", "a machine that the file does not name"), tuple(items),
                    tuple(missing), under)  # fmt: skip


def _ceiling(one: object, where: str) -> Ceiling:
    if not isinstance(one, dict):
        raise ValueError(f"{where} is not a table of what, threads, value …")
    _known(one, COLUMNS, where)
    what, dtype = one.get("what"), one.get("dtype", "")
    if what not in get_args(What):
        raise ValueError(f"{where}: what is {what!r:.40}, not one of {', '.join(get_args(What))}")
    if what == "gemm" and dtype not in DTYPES:
        raise ValueError(f"{where}: a gemm's dtype is {dtype!r:.40}, not one of {', '.join(DTYPES)}")
    if what != "gemm" and dtype != "":
        raise ValueError(f"{where}: a bandwidth has no dtype")
    threads = one.get("threads", ANY)
    if isinstance(threads, bool) or not isinstance(threads, int) or not 0 <= threads <= _MAX_THREADS:
        raise ValueError(f"{where}: threads is {threads!r:.40}, not an integer of 0 … {_MAX_THREADS}")
    value = _figure(one, "value", where)
    low, high = (_figure(one, name, where) if name in one else value for name in ("low", "high"))
    if not low <= value <= high:
        raise ValueError(f"{where}: not low ≤ value ≤ high ({low:g}, {value:g}, {high:g})")
    return Ceiling(
        cast(What, what), dtype, threads, value, low, high, _words(one, "source", where, "given by the user")
    )


def _figure(one: Mapping[str, object], name: str, where: str) -> float:
    value = one.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        raise ValueError(f"{where}: {name} is {value!r:.40}, not a number")
    if not _PLAUSIBLE[0] <= value <= _PLAUSIBLE[1]:
        raise ValueError(f"{where}: {name} is {value:g}; bytes/s or operations/s are meant, such as 45.2e9")
    return float(value)


def _words(one: object, name: str, where: str, default: str | None = None) -> str:
    text = one.get(name, default) if isinstance(one, dict) else None
    if not isinstance(text, str) or not text or len(text) > _MAX_TEXT or not text.isprintable():
        raise ValueError(f"{where}: {name} is not a line of 1 … {_MAX_TEXT} printable characters")
    return text


def _list(read: Mapping[str, object], name: str, needed: bool = True) -> list[object]:
    found = read.get(name, None if needed else [])
    if not isinstance(found, list):
        raise ValueError(f"it has no list `{name}`")
    return found


def _known(one: Mapping[str, object], names: Sequence[str], where: str) -> None:
    unknown = next((name for name in one if name not in names), None)
    if unknown is not None:
        raise ValueError(f"{where} holds {unknown!r:.40}; known are {', '.join(names)}")
