"""Candidates as a manifest's draft (TOML, each with its evidence in comments) and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flowprof.profiler.messages import printable
from flowprof.profiler.scan.candidates import Candidate, Role
from flowprof.profiler.scan.material import Function, Material, words
from flowprof.profiler.scan.vocabulary import DRAFTED, POP, POP_MAYBE, PUSH, PUSH_MAYBE

MOST = 60  # resources in a draft
_WIDTH = 116
_HEAD = """\
Drafted by `flowprof resources scan`: candidates by name, call structure and types, the best first, each with the
points that its evidence got. Nothing here was observed in a running process. Before use: delete what is no resource of
interest, see which of several functions is the one, and give `unit` and `instance` where they are missing."""


def as_toml(material: Material, candidates: Sequence[Candidate], remarks: Iterable[str] = ()) -> str:
    """A manifest that `manifest.parse` reads; without a candidate of `DRAFTED` points, comments alone."""
    lines = [f"# {line}" for line in _HEAD.splitlines()]
    for note in (f"scanned: {material.path} ({material.about})", *material.notes, *remarks):
        lines += _comment(note)
    chosen = chosen_of(candidates)
    left = len(candidates) - len(chosen)
    lines += _comment(f"{len(chosen)} resources; {left} more candidates were too weak (--json has them)")
    lines += ["", f"name = {_quoted(Path(material.path).name)}", 'about = "a draft"']
    if material.modules:
        lines.append(f"modules = {_pattern(material.modules)}")
    if re.fullmatch("[0-9a-f]{6,64}", material.build_id):
        lines.append(f'build_ids = ["{material.build_id}"]')
    for candidate in chosen:
        lines += _resource(candidate)
    for candidate in [c for c in candidates if c.score >= DRAFTED and c.drafted and c not in chosen][:MOST]:
        lines += [
            "",
            *_comment(f"{candidate.name}: {candidate.score:g} points, not drafted: too many, or not to be probed"),
        ]
        lines += [line for points, what in candidate.evidence for line in _comment(f"{points:+g} {what}")]
    return "\n".join(lines) + "\n"


def chosen_of(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that are drafted."""
    return [c for c in candidates if c.score >= DRAFTED and any(r.function.probed for r in c.drafted)][:MOST]


def as_json(material: Material, candidates: Sequence[Candidate], remarks: Iterable[str] = ()) -> str:
    """All candidates, also those too weak to be drafted."""
    drafted = {id(candidate) for candidate in chosen_of(candidates)}
    return json.dumps(
        {
            "scanned": material.path, "from": material.about, "build_id": material.build_id,
            "notes": [*material.notes, *remarks], "drafted_from_score": DRAFTED,
            "candidates": [{"drafted": id(c) in drafted, **_told(c)} for c in candidates],
        },
        indent=1,
    ) + "\n"  # fmt: skip


def _told(candidate: Candidate) -> dict[str, Any]:
    return {
        "resource": candidate.name, "kind": candidate.kind, "score": candidate.score,
        "evidence": [{"points": points, "what": what} for points, what in candidate.evidence],
        "members": dict(candidate.members),
        "events": [
            {
                "event": role.event, "function": role.function.name, "pattern": pattern_of(role.function),
                "where": role.function.where, "drafted": role.drafted and role.function.probed, "why": role.why,
                "holds": role.check.holds, "checks": list(role.check.said),
            }
            for role in candidate.roles
        ],
    }  # fmt: skip


def _resource(candidate: Candidate) -> list[str]:
    lines = ["", "", *_comment(f"{candidate.name}: {candidate.score:g} points")]
    for points, what in candidate.evidence:
        lines += _comment(f"{points:+g} {what}")
    for role in candidate.roles:
        if not role.drafted:
            lines += _comment(f"not drafted: {role.event} {role.function.qualified}: {_reasons(role)}")
    lacking = [event for event in ("acquire", "release") if not any(role.event == event for role in candidate.drafted)]
    if len(lacking) == 1:
        lines += _comment(f"no function was found that would be its {lacking[0]}: without one nothing is held")
    lines += ["[[resource]]", f"name = {_quoted(candidate.name)}", f'kind = "{candidate.kind}"']
    seen: set[tuple[str, str]] = set()
    units, instances = _units(candidate), _instances(candidate)
    also_acquires = {role.function.qualified for role in candidate.drafted if role.event == "acquire"}
    for role in candidate.drafted:
        pattern = pattern_of(role.function)
        if not role.function.probed or (role.event, pattern) in seen:
            continue
        seen.add((role.event, pattern))
        about = [*_comment(_reasons(role), "    "), *_comment(f"at {role.function.where}", "    ")]
        instance = {"instance": "arg1"} if instances else {}
        unit = {"unit": units[role]} if role in units else {}
        if units.get(role) == "ret":
            unit = {"when": "ret != 0", **unit}
        if role.event == "wait":
            lines += _event(about, event="wait", function=pattern, **instance)
            if role.function.qualified not in also_acquires:
                ended = ["    # the wait ends when it returns; nothing is held after it"]
                lines += _event(ended, event="acquire", function=pattern, at="return", **instance)
                lines += _event([], event="release", function=pattern, at="return", **instance)
        elif role.event == "acquire" and _of_a_queue(candidate, role) and not role.function.waits:
            # at the entry: what is pushed may be popped before the push returns
            lines += _event(about, event="acquire", function=pattern, **unit, **instance)
        elif role.event == "acquire":
            lines += _event(about, event="acquire", function=pattern, at="return", **unit, **instance)
        elif _of_a_queue(candidate, role):  # what waits in there is in the queue until then
            lines += _event(about, event=role.event, function=pattern, at="return", **unit, **instance)
        else:
            lines += _event(about, event=role.event, function=pattern, **unit, **instance)
    return lines


def _reasons(role: Role) -> str:
    return "; ".join((role.why, *role.check.said))


def _event(about: list[str], **fields: str) -> list[str]:
    found = ["", *about, "[[resource.event]]"]
    for name, value in fields.items():
        found.append(f"{name} = {_pattern(value) if name == 'function' else _quoted(value)}")
    return found


def pattern_of(function: Function) -> str:
    """A regular expression for the function's whole demangled name: its overloads, too, but no lambda inside it."""
    name = re.escape(function.qualified)
    if "(" not in function.name:
        return name
    pattern = rf"{name}\([^{{}}]*\)( const)?"
    if function.where.startswith("0x"):
        return pattern if re.fullmatch(pattern, function.name) else re.escape(function.name).replace(r"\ ", " ")
    return pattern if function.scope else rf"{name}(\([^{{}}]*\))?"


def _units(candidate: Candidate) -> dict[Role, str]:
    """Role → the expression for its unit, where both an acquire and a release have one."""
    found: dict[Role, str] = {}
    for role in candidate.drafted:
        function = role.function
        if _of_a_queue(candidate, role):
            taken = role.event == "release"
            unit = ("ret" if function.returns.endswith("*") else "") if taken else _last_pointer(function)
            if unit and (taken or (function.parameters or ("",))[-1].endswith("*")):
                found[role] = unit
        elif role.event == "acquire" and role.check.holds:
            found[role] = "ret"
        elif role.event in ("release", "use") and _last_pointer(function):
            found[role] = _last_pointer(function)
    events = {role.event for role in found}
    return found if {"acquire", "release"} <= events and candidate.kind != "state" else {}


def _of_a_queue(candidate: Candidate, role: Role) -> bool:
    """Whether it pushes to, or pops from, a queue: the unit is what is pushed, not what is returned."""
    verbs = PUSH | PUSH_MAYBE if role.event == "acquire" else POP | POP_MAYBE
    return candidate.kind == "queue" and bool(verbs & set(words(role.function.base)))


def _last_pointer(function: Function) -> str:
    """The argument that is most likely the unit: the last pointer or reference, in a method without one the object."""
    if function.parameters is None:
        return ""
    method = bool(function.scope)
    for at in range(len(function.parameters) - 1, -1, -1):
        if function.parameters[at].rstrip().endswith(("*", "&")) and at + method < 6:
            return f"arg{at + 1 + method}"
    return "arg1" if method else ""


def _instances(candidate: Candidate) -> bool:
    """Whether the first argument of every event is the object that is the resource."""
    functions = [role.function for role in candidate.drafted if role.function.probed]
    if all("::".join(f.scope) == candidate.name for f in functions):
        return any(f.parameters for f in functions)
    firsts = {f.parameters[0] if f.parameters else "" for f in functions if not f.scope}
    return len(firsts) == 1 and not any(f.scope for f in functions) and firsts.pop().endswith("*")


def _comment(text: str, indent: str = "") -> list[str]:
    """Lines of comment; whatever the text holds, it stays in them."""
    flat = printable(" ".join(text.split()))
    lines = []
    while flat:
        cut = len(flat) if len(flat) <= _WIDTH else max(flat.rfind(" ", 0, _WIDTH), _WIDTH // 2)
        lines.append(f"{indent}# {flat[:cut].rstrip()}")
        flat = flat[cut:].lstrip()
    return lines


def _quoted(text: str) -> str:
    return json.dumps(text)


def _pattern(text: str) -> str:
    """A literal string, without the escapes that regular expressions would need in the other kind."""
    return f"'{text}'" if "'" not in text and text.isprintable() else _quoted(text)
