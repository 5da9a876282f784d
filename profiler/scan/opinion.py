"""What a language model says of the candidates, in two steps, and which of its answers hold.

First: is this type a managed resource, of which kind? Then, of each that is: which of its functions WAIT for it,
ACQUIRE, USE or RELEASE it? (gigiProfiler's two questions, arXiv 2507.06452.) Models get 45 to 60 % of such answers
wrong, so each is validated: a name that was not in the question, a resource for which nothing but its name speaks, a
role that the code or the name contradicts, one function in two opposite roles, are rejected with the reason. What was
asked and answered is kept by its content and the model's name: what a scan had no time for, the next one asks.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from flowprof.profiler import cache
from flowprof.profiler.messages import printable
from flowprof.profiler.scan import vocabulary as v
from flowprof.profiler.scan.candidates import BLOCKING, Candidate, Role
from flowprof.profiler.scan.endpoint import ALL_S, MAX_ANSWER, TIMEOUT_S, EndpointError, ask
from flowprof.profiler.scan.material import words

KINDS = ("memory", "state", "queue")
EVENTS = ("wait", "acquire", "use", "release")
ASKED_FROM = 2.0  # points: what has fewer is not asked about
MOST = 48  # candidates
TOGETHER = 8  # types in a question
MAX_FUNCTIONS = 40  # of a type
MAX_WHY = 200
MAX_REMARKS = 100
YES, NO = 1.5, -2.0  # points

_SYSTEM = (
    "You review a program's types for a profiler of application-level resources. A managed resource is something of "
    "which there is a limited amount, that the application itself hands out to threads or requests, and that they may "
    "have to wait for: slots, pages, cells, buffers, pools, caches, tables, locks, queues. Parsers, configuration, "
    "plain containers and data are none. Answer with one JSON object and nothing else."
)
_FIRST = (
    'For each type: is it a managed resource? Answer {"types": [{"type": NAME, "managed": true or false, '
    '"kind": "memory" or "state" or "queue", "why": "few words"}]}.'
)
_SECOND = (
    "Which of these functions WAIT for the resource (may block until it is available), ACQUIRE units of it, USE them, "
    'RELEASE them? Answer {"wait": [NAMES], "acquire": [NAMES], "use": [NAMES], "release": [NAMES]} with names from '
    "the list only; leave out functions that do none of these."
)

Say = Callable[[str], None]


def shown(candidates: Sequence[Candidate], model: str, url: str) -> str:
    """All that would be sent, as it would be; the second step of every type, for which depends on the first."""
    chosen = _chosen(candidates)
    parts = [f"# to {url}, POST, nothing was sent: {len(chosen)} types\n"]
    parts += [f"{json.dumps(_body(model, text), indent=1)}\n" for text, _ in _first(chosen)]
    parts.append("# then of each type that is said to be a resource:\n")
    parts += [f"{json.dumps(_body(model, _second(candidate)), indent=1)}\n" for candidate in chosen]
    return "".join(parts)


def asked(
    candidates: Sequence[Candidate], url: str, model: str, say: Say, until: float | None = None
) -> tuple[list[Candidate], list[str]]:
    """The candidates with what the model said and what of it holds, and remarks for the draft.

    Where the endpoint fails, its words are said and the candidates stay as far as they had come. until: as
    time.monotonic(), when it is asked no more; ALL_S from now where it is not given.
    """
    until = time.monotonic() + ALL_S if until is None else until
    found = {candidate.name: candidate for candidate in candidates}
    mark = f"{printable(model)[:60]} at {url}"
    good = 0
    refused: list[str] = []
    remarks: list[str] = []
    managed: list[str] = []

    def answer(question: str) -> tuple[dict[str, Any], str]:
        try:
            return _answer(url, model, question, until)
        except EndpointError as error:
            if error.last:
                raise
            remarks.append(f"{mark}: {error}")
            return {}, ""

    chosen = _chosen(candidates)
    most = f"an answer may take {TIMEOUT_S:.0f} s, all of them {ALL_S / 60:.0f} min"
    say(f"asking {mark} about {len(chosen)} types; {most} …")
    try:
        for question, group in _first(chosen):
            said, kept = answer(question)
            opinions, wrong = _types(said, group)
            refused += wrong
            good += len(opinions)
            for name, (yes, kind, why) in opinions.items():
                points = YES if yes else NO
                what = f"the model says {'a ' + kind if yes else 'no'} resource: {why} ({mark}{kept})"
                one = found[name]
                found[name] = replace(one, score=one.score + points, evidence=(*one.evidence, (points, what)))
                managed += [name] if yes else []
        for name in managed:
            said, kept = answer(_second(found[name]))
            found[name], right, wrong = _roles(found[name], said, f"{mark}{kept}")
            good += right
            refused += [f"{name}: {why}" for why in wrong]
    except EndpointError as error:
        say(f"{url}: {printable(str(error))[:300]}; the draft is what the static analysis found")
        remarks.append(f"{mark} was asked and failed: {error}")
    say(f"{mark}: {good + len(refused)} answers, {len(refused)} rejected by the static checks")
    remarks += [f"rejected, {mark}: {why}" for why in refused[:MAX_REMARKS]]
    return sorted(found.values(), key=lambda candidate: (-candidate.score, candidate.name)), remarks


def _chosen(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.score >= ASKED_FROM][:MOST]


def _first(chosen: Sequence[Candidate]) -> Iterable[tuple[str, list[Candidate]]]:
    for at in range(0, len(chosen), TOGETHER):
        group = list(chosen[at : at + TOGETHER])
        types = [
            {
                "type": candidate.name, "functions": list(dict.fromkeys(_names(candidate)))[:12],
                "members": dict(list(candidate.members)[:16]),
                "evidence": [what for _, what in candidate.evidence][:6],
            }
            for candidate in group
        ]  # fmt: skip
        yield f"{_FIRST}\n{json.dumps(types, indent=1)}", group


def _second(candidate: Candidate) -> str:
    given = {"resource": candidate.name, "kind": candidate.kind, "functions": _described(candidate)}
    return f"{_SECOND}\n{json.dumps(given, indent=1)}"


def _names(candidate: Candidate) -> list[str]:
    return [role.function.qualified for role in candidate.roles] + [f.qualified for f in candidate.others]


def _described(candidate: Candidate) -> list[dict[str, Any]]:
    functions = {f.qualified: f for f in (*candidate.others, *(role.function for role in candidate.roles))}
    return [
        {"name": name, "waits": [w.call for w in f.waits], "wakes": f.wakes, "locks": f.locks}
        for name, f in sorted(functions.items())
    ][:MAX_FUNCTIONS]  # fmt: skip


def _body(model: str, question: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": question}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 1500, "stream": False}


def _answer(url: str, model: str, question: str, until: float) -> tuple[dict[str, Any], str]:
    """The JSON object that was answered, and ", kept" where it had been asked before. Raises EndpointError."""
    body = _body(model, question)
    key = hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()
    file = cache.folder() / "scan" / f"{key}.json"
    try:
        if file.stat().st_size <= MAX_ANSWER:
            return _object(file.read_text()), ", kept"
    except (OSError, ValueError, EndpointError):
        pass  # not there, or not what was written
    text = ask(url, body, until=until)
    said = _object(text)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(said))
    except OSError:
        pass  # asked again the next time
    return said, ""


def _object(text: str) -> dict[str, Any]:
    """The outermost JSON object in a text: models like to talk around it. Raises EndpointError."""
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1]) if start >= 0 else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise EndpointError("the model's answer holds no JSON object", last=False)
    return found


def _types(said: dict[str, Any], group: Sequence[Candidate]) -> tuple[dict[str, tuple[bool, str, str]], list[str]]:
    """Type → (managed, kind, why), and what was refused."""
    names = {candidate.name: candidate for candidate in group}
    found: dict[str, tuple[bool, str, str]] = {}
    refused: list[str] = []
    listed = said.get("types")
    for one in listed[:100] if isinstance(listed, list) else []:
        if not isinstance(one, dict):
            continue
        name, yes, kind = one.get("type"), one.get("managed"), one.get("kind")
        if not isinstance(name, str) or name not in names:
            refused.append(f"{_short(name)} is no type that was asked about")
        elif not isinstance(yes, bool):
            refused.append(f"{name}: {_short(yes)} is neither true nor false")
        elif yes and (not isinstance(kind, str) or kind not in KINDS):
            refused.append(f"{name}: {_short(kind)} is no kind of resource")
        elif yes and all(what.startswith("its name says") for points, what in names[name].evidence if points > 0):
            refused.append(f"{name} is a resource by its name alone")
        elif name in found:
            refused.append(f"{name} was answered twice")
        else:
            found[name] = (yes, str(kind) if yes else "", _short(one.get("why", "")))
    return found, refused


def _roles(candidate: Candidate, said: dict[str, Any], mark: str) -> tuple[Candidate, int, list[str]]:
    """The candidate with the roles that hold, how many that are, and why others were refused."""
    functions = {f.qualified: f for f in (*candidate.others, *(role.function for role in candidate.roles))}
    known = {(role.event, role.function.qualified): role for role in candidate.roles}
    roles = list(candidate.roles)
    refused: list[str] = []
    claimed = {event: _listed(said.get(event)) for event in EVENTS}
    good = 0
    for event, names in claimed.items():
        for name in names:
            opposite = "release" if event == "acquire" else "acquire"
            if name not in functions:
                refused.append(f"{_short(name)} is no function that was asked about")
                continue
            why = _contradicts(candidate, event, name, known)
            if event in ("acquire", "release") and name in claimed[opposite]:
                why = "said to acquire and to release"
            if not why and not any(w.on in BLOCKING for w in functions[name].waits) and event == "wait":
                why = "its code waits for nothing that is known"
            if why:
                refused.append(f"{event} {name}: {why}")
                continue
            good += 1
            old = known.get((event, name))
            if old is not None:
                roles[roles.index(old)] = replace(old, why=f"{old.why}; the model agrees", drafted=True)
            else:
                checked = candidate.check(event, functions[name])
                if checked.holds is False:
                    good -= 1
                    refused.append(f"{event} {name}: {'; '.join(checked.said)}")
                    continue
                roles.append(Role(event, functions[name], f"the model says so ({mark})", checked))
    roles.sort(key=lambda role: EVENTS.index(role.event))
    return replace(candidate, roles=tuple(roles)), good, refused


def _contradicts(candidate: Candidate, event: str, name: str, known: dict[tuple[str, str], Role]) -> str:
    """Why the name or the code speaks against the role; "": nothing does."""
    old = known.get((event, name))
    if old is not None and old.check.holds is False:
        return "; ".join(old.check.said)
    base = name.rsplit("::", 1)[-1]
    if (
        base.startswith("~")
        or base == candidate.name.rsplit("::", 1)[-1]
        or (words(base)[-1:] and words(base)[-1] in v.LIFETIME)
    ):
        return "it makes or ends the whole"
    opposite = {"acquire": v.RELEASE, "release": v.ACQUIRE}.get(event, frozenset())
    certain = opposite & set(words(base)[:1] + words(base)[-1:])
    queue = candidate.kind == "queue"
    return f"its name says {min(certain)}" if certain and not queue else ""


def _listed(value: object) -> list[str]:
    return list(dict.fromkeys(one for one in value[:200] if isinstance(one, str))) if isinstance(value, list) else []


def _short(value: object) -> str:
    return printable(re.sub(r"\s+", " ", str(value)))[:MAX_WHY]
