"""What a probe is, as data. An engine's module declares its probes with these types; nothing here does anything.

A *ladder* is one question asked of an engine ("which operator runs?") with several ways to answer it, best first. The
plan takes the first rung for which the target has every required function, and the recording says which one it was.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing to observe in a function.

    kind: `entry` (on the cheapest valid instruction of the prologue), `return` (a return probe: never on a function
    that an exception may leave), `exit` (on instructions that every return passes), or `call` (on every direct call to
    `callee` inside the functions named).
    """

    id: str
    kind: str
    program: str  # function in the engine's .bpf.c
    args: int  # argument registers that the program reads: 0 … 6
    symbols: tuple[str, ...] = ()  # exact (mangled) names; every one that is found is probed
    pattern: str = ""  # regular expression over whole (mangled) names, in addition
    finder: str = ""  # or: found through the call graph (profiler/planning/callgraph.py): graph_thread, compute_forward
    callee: str = ""  # kind `call`: whose calls
    thread_program: str = ""  # takes the place of `program` in windows of the thread level
    required: bool = True  # its rung does not stand without it
    excluded: str = ""  # names matching this are left out of `pattern`


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to answer a ladder's question."""

    name: str
    meaning: str
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True)
class Ladder:
    """A level of detail and the ways to get it, best first. level: token, graph, op or thread."""

    level: str
    question: str
    rungs: tuple[Rung, ...]


@dataclass(frozen=True, slots=True)
class Engine:
    """What can be probed in one engine.

    marker: bytes that occur in the symbol or string tables of a binary that holds the engine (a cheap first look).
    files: regular expression over the names of files that may hold it; "" any. Large engines spare the look at others.
    """

    name: str
    marker: bytes
    source: str  # the .bpf.c with its programs: compiled when a target has the engine
    ladders: tuple[Ladder, ...]
    files: str = ""
