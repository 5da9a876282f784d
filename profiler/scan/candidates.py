"""From material to candidates: which types look like managed resources, which functions are their events, and why.

A function belongs to the class that it is a method of; in C to the words before its verb (`pool_get`, `lock_table`).
Each kind of evidence gives points (`vocabulary.py`); the static checks of the chosen functions give or take some.
Roles, by the verbs of names: a pool, cache, slot or lock is *acquired* and *released* by pairs; of a queue a place is
acquired by who pushes and released by who pops, so that cumulative acquires less releases are its length. *wait* is
where a condition, a semaphore or a futex is waited for, in a loop. Who takes from a queue and waits there for something
to come is no waiting for a place: such waits are in the evidence and not among the events.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from flowprof.profiler.scan import vocabulary as v
from flowprof.profiler.scan.checks import Check, check
from flowprof.profiler.scan.material import UNKNOWN, Function, Material, Shape, around, words

MAX_EVENTS = 8  # functions of one role
MAX_CANDIDATES = 400
NAMESPACE = 5  # classes inside: what has so many, and no telling name, is a namespace
BLOCKING = ("condition", "semaphore", "futex", "spin", "barrier")


@dataclass(frozen=True, slots=True)
class Role:
    """One function's part. why: the evidence in words. drafted: among the manifest's events, or only told."""

    event: str  # wait, acquire, use, release
    function: Function
    why: str
    check: Check
    drafted: bool = True


@dataclass(frozen=True, slots=True)
class Candidate:
    """A type or family of functions that may be a resource. evidence: (points, words), the weightiest first."""

    name: str
    kind: str
    score: float
    evidence: tuple[tuple[float, str], ...]
    roles: tuple[Role, ...]
    members: tuple[tuple[str, str], ...] = ()
    others: tuple[Function, ...] = ()  # of the same family, without a role
    shape: Callable[[Function], Shape] = lambda function: UNKNOWN

    def check(self, event: str, function: Function) -> Check:
        """What its code says of a role that somebody else gave it."""
        if event not in ("acquire", "release"):
            return Check(None, ())
        return check(event, function, self.shape(function), self.kind)

    @property
    def drafted(self) -> tuple[Role, ...]:
        """The roles that the manifest gets."""
        return tuple(role for role in self.roles if role.drafted)


def find(material: Material) -> list[Candidate]:
    """All candidates with at least one event, the best first, those below `DRAFTED` points too."""
    families = _families(material.functions)
    rough = sorted(
        ((_weigh(material, owner, functions), functions) for owner, functions in families.items()),
        key=lambda pair: (-pair[0].score, pair[0].name),
    )  # fmt: skip
    found = [_checked(material, candidate) for candidate, _ in rough[:MAX_CANDIDATES] if candidate.roles]
    return sorted(found, key=lambda candidate: (-candidate.score, candidate.name))


# which functions belong together


def _families(functions: Sequence[Function]) -> dict[str, list[Function]]:
    """Owner → its functions; a method that hands out another's units (`get_available_slot`) is with those."""
    found: dict[str, list[Function]] = defaultdict(list)
    inside: dict[str, set[str]] = defaultdict(set)
    without = []
    for function in functions:
        owner = _owner(function)
        if not owner:
            without.append(function)
        else:
            found[owner].append(function)
            if len(function.scope) > 1:
                inside["::".join(function.scope[:-1])].add(function.scope[-1])
    for function in without:  # `pool_new`, `pool_size`: of the family that is there
        parts = function.base.split("_")
        family = next((name for n in range(len(parts) - 1, 0, -1) if (name := "_".join(parts[:n])) in found), None)
        if family is not None:
            found[family].append(function)
    heads: dict[str, list[str]] = defaultdict(list)
    for owner in sorted(found, key=len):
        kind = v.kind_of(words(owner.rsplit("::", 1)[-1]))
        if kind is None and len(inside[owner]) >= NAMESPACE:
            del found[owner]  # a namespace
        elif kind is not None and kind[2]:
            heads[kind[1]].append(owner)
    for function in functions:
        parts = words(function.base)
        if function.inner or not function.scope or not _units_of_another(parts):
            continue
        for word in {part.removesuffix("s") for part in parts}:
            near = [other for other in heads.get(word, ()) if _near(function, other)]
            if near and near[0] != "::".join(function.scope):
                found[near[0]].append(function)
                found["::".join(function.scope)] = [f for f in found["::".join(function.scope)] if f is not function]
    return found


def _near(function: Function, owner: str) -> bool:
    """Whether the two are of one program part: their names share the first word, or a parameter is of the type."""
    last = owner.rsplit("::", 1)[-1]
    shared = words(function.scope[-1])[:1] == words(last)[:1] and len(words(last)) > 1
    return shared or any(last in words_of_type(p) for p in function.parameters or ())


def words_of_type(text: str) -> list[str]:
    """The identifiers in a type."""
    return [part for part in "".join(c if c.isalnum() or c == "_" else " " for c in text).split() if part]


def _owner(function: Function) -> str:
    if function.scope:
        return "::".join(function.scope)
    parts = function.base.strip("_").split("_")
    at = next((i for i in range(len(parts) - 1, 0, -1) if _strong(parts[i])), 0)
    at = at or next((i for i in range(len(parts) - 1, 0, -1) if parts[i].lower() in v.VERBS), 0)
    if at:
        return "_".join(parts[:at])
    if len(parts) > 1 and parts[0].lower() in v.VERBS:
        return "_".join(parts[1:])
    spoken = words(function.base)
    if len(parts) == 1 and len(spoken) > 1:
        for i in (len(spoken) - 1, 0):
            if spoken[i] in v.VERBS:
                return around(function.base, i)
    return function.base if any(w.on in BLOCKING and w.on != "spin" for w in function.waits) else ""


def _strong(word: str) -> bool:
    return word.lower() in v.ACQUIRE or word.lower() in v.RELEASE


def _units_of_another(parts: Sequence[str]) -> bool:
    return bool(set(parts[:1]) & (v.ACQUIRE | v.RELEASE)) or _event(list(parts), False, set())[1] > 1


# what speaks for a family


def _weigh(material: Material, owner: str, functions: list[Function]) -> Candidate:
    parts = words(owner.rsplit("::", 1)[-1])
    kind = v.kind_of(parts)
    evidence: list[tuple[float, str]] = []
    if kind is not None:
        evidence.append((v.NOUN if kind[2] else v.NOUN_WITHIN, f"its name says {kind[1]}"))
    if parts and parts[-1] in v.NOT_MANAGED:
        evidence.append((v.NOT_A_RESOURCE, f"a {parts[-1]} is seldom one"))
    members = material.types.get(owner.rsplit("::", 1)[-1]) or _first_parameter(material, functions)
    evidence += _member_evidence(members)
    waits = [(f, w) for f in functions for w in f.waits if w.on in BLOCKING]
    looped = [(f, w) for f, w in waits if w.looped]
    if looped:
        spins = all(w.on == "spin" for _, w in looped)
        points = v.WAIT_SPIN if spins else v.WAIT_LOOP
        evidence.append((points, f"waits in a loop: {_some(f'{f.qualified} ({w.call})' for f, w in looped)}"))
    elif waits:
        evidence.append((v.WAIT_ONCE, f"waits: {_some(f'{f.qualified} ({w.call})' for f, w in waits)}"))
    wakers = [f for f in functions if f.wakes and not _lifetime(f)]
    if wakers:
        evidence.append((v.WAKES, f"wakes waiters: {_some(f.qualified for f in wakers)}"))
    if any(f.locks for f in functions):
        evidence.append((v.LOCKED, f"takes a lock: {_some(f.qualified for f in functions if f.locks)}"))
    chosen = kind[0] if kind is not None else _kind_by(members, bool(looped))
    queue = chosen == "queue" and (kind is None or kind[1] not in v.PLACES)
    if bool(looped) and any((f.wakes or f.waits) and words(f.base)[:1] and _pushes(f) for f in functions):
        chosen, queue = "queue", True
    roles, more = _roles(owner, functions, queue)
    evidence += more
    evidence.sort(key=lambda one: -one[0])
    with_role = {role.function for role in roles}
    others = tuple(f for f in functions if f not in with_role and not f.inner)
    return Candidate(
        owner, chosen, sum(points for points, _ in evidence), tuple(evidence), tuple(roles), tuple(members.items()),
        others, material.shape,
    )  # fmt: skip


def _pushes(function: Function) -> bool:
    return not function.inner and words(function.base)[0] in v.PUSH | v.PUSH_MAYBE


def _first_parameter(material: Material, functions: list[Function]) -> dict[str, str]:
    """In C: the members of the struct that most of the functions take first."""
    counts: dict[str, int] = defaultdict(int)
    for function in functions:
        if not function.scope and function.parameters:
            for name in words_of_type(function.parameters[0]):
                counts[name] += name in material.types
    best = max(counts, key=lambda name: counts[name], default="")
    return material.types[best] if best and counts[best] else {}


def _member_evidence(members: dict[str, str]) -> list[tuple[float, str]]:
    found = []
    for what, mark in (
        ("condition", ("condition_variable", "pthread_cond_t", "sem_t", "counting_semaphore", "cnd_t")),
        ("lock", ("mutex", "pthread_rwlock_t", "spinlock", "mtx_t")),
        ("container", ("deque", "queue", "list", "vector", "free_list", "freelist", "unordered_map", "map<")),
    ):
        named = [f"{name}: {kind}" for name, kind in members.items() if any(m in kind for m in mark)]
        if what == "container":
            named += [name for name in members if re.match("free(?!d)|avail|idle", name) and not named]
        if named:
            evidence = f"has a {'free list or container' if what == 'container' else what}: {_some(named)}"
            found.append((v.MEMBERS[what], evidence))
    return found


def _kind_by(members: dict[str, str], waits: bool) -> str:
    kinds = " ".join(members.values())
    return "queue" if waits and any(word in kinds for word in ("deque", "queue", "list")) else "state"


def _lifetime(function: Function) -> bool:
    parts = words(function.base)
    last = function.scope[-1] if function.scope else ""
    return function.base in (last, f"~{last}") or function.base[:1] == "~" or bool(v.LIFETIME & set(parts[-1:]))


def _roles(owner: str, functions: list[Function], queue: bool) -> tuple[list[Role], list[tuple[float, str]]]:
    """The events of a family, and what their being there says."""
    named = set(words(owner.rsplit("::", 1)[-1]))
    found: dict[str, list[tuple[int, Function, str, bool]]] = defaultdict(list)
    built = any(words(f.base)[-1:] and words(f.base)[-1] in v.LIFETIME for f in functions if not f.scope)
    ends = any(set(words(f.base)) & {"end", "finish"} for f in functions)
    for function in functions:
        if function.inner or _lifetime(function):
            continue
        blocking = next((w for w in function.waits if w.on in BLOCKING), None)
        own = set[str]() if function.scope and "::".join(function.scope) != owner else named
        spoken = words(function.base)
        parts = spoken if function.scope else _without(spoken, words(owner))
        event, certainty, verb = _event(parts, queue, own)
        if verb in ("start", "begin") and not ends:
            event = ""  # of a thread, as a rule
        if verb == "free" and built and not function.scope and set(spoken[:-1]) <= own:
            event = ""  # the end of the whole, as `_new` was its beginning
        if blocking is not None and not _waits_for_work(function, event, queue):
            found["wait"].append((3 if blocking.looped else 1, function, f"waits for {blocking.call}", True))
        elif blocking is not None:
            found["wait"].append((2, function, f"waits for {blocking.call} until there is something to do", False))
        if event:
            found[event].append((certainty, function, f"named {verb}", True))
    return _chosen(found), _pair_evidence(found, queue, owner)


def _without(spoken: list[str], owner: list[str]) -> list[str]:
    """The words of a C function's name without its owner's: `lock_release` of `lock` releases."""
    n = len(owner)
    for start in range(len(spoken) - n + 1):
        if spoken[start : start + n] == owner and len(spoken) > n:
            return spoken[:start] + spoken[start + n :]
    return spoken


def _pair_evidence(
    found: dict[str, list[tuple[int, Function, str, bool]]], queue: bool, owner: str
) -> list[tuple[float, str]]:
    evidence: list[tuple[float, str]] = []
    acquires, releases = (found.get(event, []) for event in ("acquire", "release"))
    most = max((certainty for certainty, *_ in (*acquires, *releases)), default=0)
    if acquires and releases:
        both = min(max(c for c, *_ in acquires), max(c for c, *_ in releases))
        points = v.PAIR_QUEUE if queue else v.PAIR if both >= 2 else v.PAIR_MAYBE
        pair = f"{_best(acquires).qualified} / {_best(releases).qualified}"
        evidence.append((points, f"{'push and pop' if queue else 'acquire and release'}: {pair}"))
    elif most >= 2:
        named = _best([*acquires, *releases]).qualified
        evidence.append((v.HALF_QUEUE if most == 3 else v.HALF, f"one half of a pair: {named}"))
    lookups = [function for _, function, *_ in acquires if _looks_up(function, owner)]
    if lookups:
        evidence.append((v.LOOKS_UP, f"looks units up: {_some(f.qualified for f in lookups)}"))
    return evidence


def _chosen(found: dict[str, list[tuple[int, Function, str, bool]]]) -> list[Role]:
    """Of each event those whose names are the clearest; all waits."""
    roles = []
    for event in ("wait", "acquire", "use", "release"):
        entries = found.get(event, [])
        best = max((certainty for certainty, *_ in entries), default=0)
        kept = [entry for entry in entries if entry[0] == best or event == "wait"]
        for _, function, why, drafted in sorted(kept, key=lambda entry: -entry[0])[:MAX_EVENTS]:
            roles.append(Role(event, function, why, Check(None, ()), drafted))
    return roles


def _best(entries: list[tuple[int, Function, str, bool]]) -> Function:
    return max(entries, key=lambda entry: entry[0])[1]


def _event(parts: list[str], queue: bool, own: set[str]) -> tuple[str, int, str]:
    """(event, certainty 1 … 3, verb) by the words of a function's name; ("", 0, "") where they say nothing."""
    told: tuple[tuple[str, int, frozenset[str]], ...]
    if queue:
        told = (
            ("acquire", 3, v.PUSH), ("release", 3, v.POP), ("acquire", 2, v.ACQUIRE), ("release", 2, v.RELEASE),
            ("acquire", 1, v.PUSH_MAYBE), ("release", 1, v.POP_MAYBE),
        )  # fmt: skip
    else:
        told = (
            ("acquire", 2, v.ACQUIRE), ("release", 2, v.RELEASE),
            ("release", 1, v.RELEASE_MAYBE), ("acquire", 1, v.ACQUIRE_MAYBE),
        )  # fmt: skip
    for word in parts[:1] + parts[:0:-1]:
        if word in v.LOOKUPS:
            unit = _ends_in_unit(parts, own)
            if unit and (v.FREE & set(parts) or word in ("find", "lookup", "alloc", "allocate")):
                return "acquire", 2, " ".join(parts)
            if not unit and word in ("get", "find", "lookup") and word != parts[-1]:
                continue  # a getter, or a search in data
        for event, certainty, verbs in told:
            if word in verbs:
                return event, certainty, word
    return ("use", 1, parts[0]) if parts and parts[0] in v.USES else ("", 0, "")


def _ends_in_unit(parts: Sequence[str], own: set[str]) -> bool:
    """Whether the name is of a look-up of units: `find_slot`, `get_cell_by_id`, not `get_cell_size`."""
    spoken = list(parts)[: parts.index("by")] if "by" in parts else list(parts)
    spoken = [word for word in spoken if word not in ("locked", "unlocked", "nowait", "impl", "ext")]
    rest = [word for word in spoken if word not in v.VERBS and word not in own]
    kind = v.kind_of(rest)
    return kind is not None and kind[2] and spoken[-1] == rest[-1]


def _looks_up(function: Function, owner: str) -> bool:
    parts = words(function.base)
    own = set(words(owner.rsplit("::", 1)[-1])) if not function.scope or "::".join(function.scope) == owner else set()
    return bool(set(parts) & v.LOOKUPS) and _ends_in_unit(parts, own)


def _waits_for_work(function: Function, event: str, queue: bool) -> bool:
    """A thread that has nothing to do waits for no resource."""
    parts = set(words(function.base))
    if parts & {"loop", "worker", "main", "run", "thread"}:
        return True
    return queue and event != "acquire" and bool(parts & (v.POP | v.POP_MAYBE))


def _checked(material: Material, candidate: Candidate) -> Candidate:
    """With what the static checks say of its events. A refuted one is told and not drafted."""
    roles, evidence = [], list(candidate.evidence)
    for role in candidate.roles:
        if role.event in ("acquire", "release"):
            checked = check(role.event, role.function, material.shape(role.function), candidate.kind)
            role = replace(role, check=checked, drafted=role.drafted and checked.holds is not False)
        roles.append(role)
    holds = [r for r in roles if r.check.holds]
    refuted = [r for r in roles if r.check.holds is False]
    if holds:
        evidence.append((v.CHECKED, f"the code agrees: {_some(r.function.qualified for r in holds)}"))
    if refuted and not holds:
        evidence.append((v.REFUTED, f"the code disagrees: {_some(r.function.qualified for r in refuted)}"))
    score = sum(points for points, _ in evidence)
    if not any(role.drafted for role in roles):
        score = min(score, 0.0)
    return replace(candidate, roles=tuple(roles), evidence=tuple(evidence), score=score)


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(dict.fromkeys(names))
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
