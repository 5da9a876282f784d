"""A resource manifest: which functions of an application wait for, get, use and give back what.

A TOML file. What is shipped lies in probes/resources; `flowprof resources scan` drafts others.

    name = "pool"                       # of the manifest
    about = "one sentence"
    modules = 'server|libserver\\.so.*'  # regular expression over names of files: only these are searched; default: all
    build_ids = ["4f3a…"]               # only these builds (beginnings do); default: any
    versions = ">= 13, < 18"            # only these versions (profiler/resources/versions.py); default: any
    version_text = 'PostgreSQL (\\d+)'   # regular expression: how the file's data tells its version

    [[resource]]
    name = "page"
    kind = "memory"                     # memory (pages, cells, buffers), state (locks, tables), queue (tasks, pools)
    about = "one sentence"              # also how the numbers of its instances are to be read: verdicts print it
    capacity = 64                       # units of one instance, if that is a constant; or an expression, which is read
                                        # when recording begins: "*(global(pool_size)):i32"
    shared = false                      # true: in memory that the processes of a family share, not one for each process

    [[resource.event]]
    event = "acquire"                   # wait, acquire, use, release
    function = 'pool_get\\(.*\\)|pool_get'  # regular expression over whole names, demangled; or
    # syscall = "futex"                 # a system call, by its name in the kernel's tracepoints; or
    # callee_of = 'PyEval_RestoreThread' # the only function that one of such a name calls, or ends in: it needs no name
    at = "return"                       # entry (default), return
    no_unwind = false                   # true: neither an exception nor a cancellation ever leaves the function
    when = "ret != 0"                   # only then: an expression, one of == != < > <= >=, and a number; or two of
                                        # these with `and` between
    unless = 'take_gil'                 # not where a function of such a name is there, which tells more
    unless_inner = false                # true: nor in one that calls another function of the same event
    instance = "arg1"                   # which one of several; default "0": there is one; of a release "all" that the
                                        # thread or task has, of all units or of one
    unit = "ret"                        # which part: joins an acquire with its release
    units = "1"                         # how many
    task = "*(arg2+8):i32"              # on whose behalf; default: the thread
    holder = "*(arg1+8):i32"            # wait: the thread that has it
    stack = true                        # take the stack of calls; default: of waits and acquires
    variables = { free = "*(arg1+16):u32" }   # worth sampling, four at most; one called capacity is the capacity

    [[variable]]                        # one that is read now and then, from the first file that knows its symbol
    name = "queued"
    expression = "*(global(queue_length)):u32"
    period_ms = 100                     # 10 … 60000

    [[variable]]                        # one that is read whenever a function is entered or left
    name = "limit"
    expression = "arg2"
    function = 'lookup'                 # as an event's; its arguments may be left out
    at = "entry"                        # entry (default), return

Expressions: profiler/resources/expression.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowprof.profiler.errors import UsageError
from flowprof.profiler.resources.versions import conditions
from flowprof.profiler.untrusted_file import open_named

SHIPPED = Path(__file__).resolve().parents[2] / "probes" / "resources"
KINDS = ("memory", "state", "queue")
EVENTS = ("wait", "acquire", "use", "release")
ALL = "all"  # instances at once
VARIABLE = -1  # in the place of a table of variables
MAX_BYTES = 1 << 20
MAX_VARIABLES = 4  # of an event
_EXPRESSIONS = ("when", "instance", "unit", "units", "task", "holder")
_TOP = ("name", "about", "modules", "build_ids", "versions", "version_text", "resource", "variable")
_VARIABLE = ("name", "expression", "period_ms", "function", "at")
_RESOURCE = ("name", "kind", "about", "capacity", "shared", "event")
_WHERE = ("function", "syscall", "callee_of")
_EVENT = ("event", *_WHERE, "at", "no_unwind", "stack", "unless", "unless_inner", "variables", *_EXPRESSIONS)


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to a resource in one function, or in several of like names. Expressions are as written; "": none."""

    event: str
    function: str = ""
    syscall: str = ""
    at: str = "entry"
    no_unwind: bool = False
    stack: bool = False
    when: str = ""
    instance: str = ""
    unit: str = ""
    units: str = ""
    task: str = ""
    holder: str = ""
    unless: str = ""
    callee_of: str = ""
    unless_inner: bool = False
    variables: tuple[tuple[str, str], ...] = ()  # name, expression
    line: int = 0  # of the manifest

    @property
    def where(self) -> str:
        """As the manifest names the place."""
        return self.function or self.syscall or f"callee of {self.callee_of}"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of thing that the application hands out."""

    name: str
    kind: str
    about: str
    capacity: int | None
    events: tuple[Event, ...]
    line: int = 0
    shared: bool = False
    capacity_read: str = ""  # an expression; "": none


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that is worth a look: every `period_ms`, or whenever a function (a pattern) is entered or left."""

    name: str
    expression: str
    period_ms: int
    line: int = 0
    function: str = ""
    at: str = "entry"


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that is known of one application's resources."""

    name: str
    about: str
    path: str
    modules: str
    build_ids: tuple[str, ...]
    resources: tuple[Resource, ...]
    variables: tuple[Variable, ...] = ()
    versions: str = ""
    version_text: str = ""
    build_ids_line: int = 0  # of the file; 0: not given
    versions_line: int = 0


class ManifestError(UsageError):
    """A manifest that cannot be used: file, line and field."""

    def __init__(self, path: str, line: int, field: str, why: str) -> None:
        at = f"{path}:{line}" if line else path
        super().__init__(f"{at}: {field}: {why}" if field else f"{at}: {why}", "flowprof resources show llama-server")


def shipped() -> dict[str, Path]:
    """The manifests that come with flowprof, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def load(name: str) -> Manifest:
    """The manifest in a file, or the shipped one of that name. Raises ManifestError, NotFoundError …"""
    path = shipped().get(name, Path(name))
    absent = f"shipped manifests are {', '.join(shipped())}"
    with open(open_named(path, UsageError, absent), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ManifestError(str(path), 0, "", f"a manifest has {MAX_BYTES >> 20} MiB at most")
    try:
        return parse(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ManifestError(str(path), data[: error.start].count(b"\n") + 1, "", "is no UTF-8 text") from error


def parse(text: str, path: str) -> Manifest:
    """Raises ManifestError."""
    try:
        read = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"at line (\d+)", str(error))
        raise ManifestError(path, int(line[1]) if line else 0, "", f"is no TOML: {error}") from error
    top = _Table(path, _Lines(text), (), read)
    top.known(_TOP)
    resources = []
    for i, one in enumerate(top.tables("resource")):
        table = _Table(path, top.lines, (i,), one)
        table.known(_RESOURCE)
        events = tuple(_event(_Table(path, top.lines, (i, j), e)) for j, e in enumerate(table.tables("event")))
        if not events:
            raise table.error("event", "a resource needs at least one [[resource.event]]")
        kind = table.one_of("kind", KINDS)
        read_it = table.read["capacity"] if isinstance(table.read.get("capacity"), str) else ""
        capacity = None if read_it else table.get("capacity", int, None)
        if capacity is not None and capacity <= 0:
            raise table.error("capacity", "is not positive")
        name, about, shared = table.text("name"), table.text("about", ""), table.get("shared", bool, False)
        resources.append(Resource(name, kind, about, capacity, events, table.line(), shared, read_it))
    if not resources:
        raise top.error("resource", "a manifest needs at least one [[resource]]")
    names = [resource.name for resource in resources]
    for at, resource in enumerate(resources):
        if resource.name in names[:at]:
            raise ManifestError(path, resource.line, "name", f"{resource.name!r} is there twice")
    build_ids = top.get("build_ids", list, [])
    if not all(isinstance(one, str) and re.fullmatch("[0-9a-f]{6,64}", one) for one in build_ids):
        raise top.error("build_ids", "are lists of hexadecimal digits, six at least")
    modules = top.pattern("modules", "")
    variables = tuple(
        _variable(_Table(path, top.lines, (VARIABLE, i), one)) for i, one in enumerate(top.tables("variable"))
    )
    versions, version_text = top.text("versions", ""), top.pattern("version_text", "")
    try:
        conditions(versions)
    except ValueError as error:
        raise top.error("versions", str(error)) from error
    if version_text and (not versions or not re.compile(version_text).groups):
        raise top.error("version_text", "needs a group (…) around the version, and `versions` to compare it with")
    return Manifest(
        top.text("name"), top.text("about", ""), path, modules, tuple(build_ids), tuple(resources), variables,
        versions, version_text, top.line("build_ids") if build_ids else 0, top.line("versions") if versions else 0,
    )  # fmt: skip


def _variable(table: _Table) -> Variable:
    table.known(_VARIABLE)
    period = table.get("period_ms", int, 100)
    if not 10 <= period <= 60_000:
        raise table.error("period_ms", "lies between 10 and 60000")
    return Variable(
        table.text("name"), table.text("expression"), period, table.line(), table.pattern("function", ""),
        table.one_of("at", ("entry", "return"), "entry"),
    )  # fmt: skip


def _event(table: _Table) -> Event:
    table.known(_EVENT)
    event = table.one_of("event", EVENTS)
    variables = table.get("variables", dict, {})
    if len(variables) > MAX_VARIABLES or not all(isinstance(one, str) for one in variables.values()):
        raise table.error("variables", f"are {MAX_VARIABLES} at most, each a name and an expression in quotes")
    syscall = table.text("syscall", "")
    if syscall and not re.fullmatch("[a-z0-9_]{1,40}", syscall):
        raise table.error("syscall", f"{syscall!r:.40} is no name of a system call")
    if syscall and "function" in table.read:
        raise table.error("syscall", "is seen in the kernel: there is no function beside it")
    if "callee_of" in table.read and (syscall or "function" in table.read):
        raise table.error("callee_of", "names a function by its caller: there is no other name beside it")
    if table.read.get("instance") == ALL and event != "release":
        raise table.error("instance", f"only a release is of {ALL!r} that its thread or task has")
    callee_of = table.pattern("callee_of", "")
    function = "" if syscall or callee_of else table.pattern("function")
    return Event(
        event, function, syscall, table.one_of("at", ("entry", "return"), "entry"),
        table.get("no_unwind", bool, False),
        table.get("stack", bool, event in ("wait", "acquire")),
        **{name: table.text(name, "") for name in _EXPRESSIONS}, 
        unless=table.pattern("unless", ""), callee_of=callee_of, 
        unless_inner=table.get("unless_inner", bool, False), variables=tuple(variables.items()), line=table.line(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the file with its place, for words about what is wrong in it."""

    path: str
    lines: _Lines
    place: tuple[int, ...]
    read: Mapping[str, Any]

    def line(self, field: str = "") -> int:
        return self.lines.of(self.place, field)

    def error(self, field: str, why: str) -> ManifestError:
        return ManifestError(self.path, self.line(field), field, why)

    def known(self, fields: tuple[str, ...]) -> None:
        for field in self.read:
            if field not in fields:
                raise self.error(field[:40], f"is no field here; fields are {', '.join(fields)}")

    def get(self, field: str, kind: type, default: Any) -> Any:
        value = self.read.get(field, default)
        if value is not default and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise self.error(field, f"must be a {kind.__name__}, not {value!r:.40}")
        return value

    def text(self, field: str, default: str | None = None) -> str:
        value: str | None = self.get(field, str, default)
        if value is None or (default is None and not value):
            raise self.error(field, "is missing")
        return value

    def one_of(self, field: str, values: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(field, default)
        if value not in values:
            raise self.error(field, f"{value!r:.40} is none of {', '.join(values)}")
        return value

    def pattern(self, field: str, default: str | None = None) -> str:
        value = self.text(field, default)
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise self.error(field, f"{value!r:.80} is no regular expression: {error}") from error
        return value

    def tables(self, field: str) -> list[Mapping[str, Any]]:
        value = self.get(field, list, [])
        if not all(isinstance(one, dict) for one in value):
            raise self.error(field, "is a list of tables")
        return list(value)


class _Lines:
    """Where tables and fields are in the text."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._starts: dict[tuple[int, ...], int] = {(): 0}
        resource, event, variable = -1, -1, -1
        for number, line in enumerate(self._lines):
            header = re.match(r"\s*\[\[\s*resource\s*(\.\s*event\s*)?\]\]", line)
            if re.match(r"\s*\[\[\s*variable\s*\]\]", line):
                variable += 1
                self._starts[VARIABLE, variable] = number
            if header and header[1]:
                event += 1
                self._starts[resource, event] = number
            elif header:
                resource, event = resource + 1, -1
                self._starts[(resource,)] = number

    def of(self, place: tuple[int, ...], field: str = "") -> int:
        """The line (from 1) of a field of the table, of the table itself where the field has none; 0: unknown."""
        start = self._starts.get(place)
        if start is None:
            return 0  # written another way, as inline tables
        for number in range(start if not place else start + 1, len(self._lines)):
            line = self._lines[number].strip()
            if line.startswith("[["):
                break
            if field and re.match(rf"[\"']?{re.escape(field)}[\"']?\s*[=.]", line):
                return number + 1
        return start + 1
