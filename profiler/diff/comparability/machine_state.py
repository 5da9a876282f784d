"""What the machine did while each side was recorded (profiler/machine/meanwhile.py): clock, steal, heat, memory.

Means of a side's recordings. Where a host does not tell (guests have no cpufreq) it is unknown, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flowprof.profiler.diff.comparability import known
from flowprof.profiler.diff.result import Difference
from flowprof.profiler.store import Recording

CLOCK_TOLERANCE = 0.05
STEAL_TOLERANCE = 0.02  # of the processors' time
HUGE_TOLERANCE, NODE_TOLERANCE = 0.1, 0.1  # of the targets' memory
MOST_SIGNS = 16  # of a number

Figures = tuple[Sequence[float | None], Sequence[float | None]]  # of each recording of both sides; None: not told


def differences(sides: known.Sides) -> list[Difference]:
    """Each fact once; what only some machines have (nodes, heat) where one of the sides tells."""
    return [one for one, _ in _facts(sides)]


def told(sides: known.Sides, sign: float = 0.0) -> list[str]:
    """What differs, in words; of it what would make side b slower (sign 1) or faster (-1), where one is asked for."""
    return [
        f"{one.what}: {one.a} → {one.b}"
        for one, slower in _facts(sides) if one.sameness == "different" and slower * sign >= 0
    ]  # fmt: skip


def _facts(sides: known.Sides) -> list[tuple[Difference, float]]:
    """With the direction in which each would change the speed of b: above 0 slower, 0 not known."""
    clock, steal, throttles = (known.each(sides, _figure(key)) for key in ("clock_mhz", "steal", "throttles"))
    huge, nodes = known.each(sides, _huge), known.each(sides, _nodes)
    found = [
        (known.numbers("clock", clock, "MHz, mean of start and end", CLOCK_TOLERANCE, 0.2,
                       "the processors ran at another frequency: governor, power, heat"), -_grew(clock)),
        (_apart("steal", steal, "of the processors' time", STEAL_TOLERANCE, 0.3,
                "the hypervisor gave the processors to others meanwhile"), _grew(steal)),
        (_apart("memory in huge pages", huge, "of what is resident", HUGE_TOLERANCE, 0.1,
                "with small pages more of memory's addresses are looked up in tables"), -_grew(huge)),
    ]  # fmt: skip
    if any(one is not None for side in throttles for one in side):
        found.append((_heat(throttles), _grew(throttles)))
    if any(one for side in nodes for one in side):
        found.append((_on_nodes(nodes), 0.0))
    return found


def _grew(sides: Figures) -> float:
    a, b = (_mean(side) for side in sides)
    return 0.0 if a is None or b is None else b - a


def _heat(throttles: Figures) -> Difference:
    what, why = "slowed for heat", "the processors were throttled: cool them, or limit their power"
    a, b = (_mean(side) for side in throttles)
    words = tuple("" if mean is None else f"{known.figure(mean)} times" for mean in (a, b))
    if a is None or b is None:
        return known.unknown(what, (words[0], words[1]))
    return known.difference(what, (a > 0) != (b > 0), (words[0], words[1]), 0.2, why)


def _on_nodes(nodes: tuple[Sequence[Mapping[int, float]], Sequence[Mapping[int, float]]]) -> Difference:
    """Shares of the targets' memory by node, at the end."""
    what, why = "memory on NUMA nodes", "memory of another node is farther away: numactl, --numa"
    means = [
        {node: sum(one.get(node, 0.0) for one in side) / len(side) for one in side for node in one} for side in nodes
    ]
    if not all(one for side in nodes for one in side):
        return known.unknown(what, (_in_words(means[0]), _in_words(means[1])))
    apart = sum(abs(means[0].get(node, 0.0) - means[1].get(node, 0.0)) for node in {**means[0], **means[1]}) / 2
    return known.difference(what, apart > NODE_TOLERANCE, (_in_words(means[0]), _in_words(means[1])), 0.2, why)


def _in_words(shares: Mapping[int, float]) -> str:
    return ", ".join(f"{share * 100:.0f} % on node {node}" for node, share in sorted(shares.items()) if share >= 0.005)


def _apart(
    what: str, sides: Figures, of: str, tolerance: float, weight: float, why: str
) -> Difference:  # fmt: skip
    """Shares that differ by so much of the whole."""
    a, b = (_mean(side) for side in sides)
    words = tuple("" if mean is None else f"{mean * 100:.1f} % {of}" for mean in (a, b))
    if a is None or b is None:
        return known.unknown(what, (words[0], words[1]))
    return known.difference(what, abs(b - a) > tolerance, (words[0], words[1]), weight, why)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [one for one in values if one is not None]
    return sum(there) / len(there) if there else None


def _numbers(recording: Recording, key: str) -> list[float]:
    """[] where one is none: a recording may come from anywhere."""
    words = recording.meta().get(key, "").split()
    plain = all(len(word) <= MOST_SIGNS and word.isascii() and word.replace(".", "", 1).isdigit() for word in words)
    return [float(word) for word in words] if plain else []


def _figure(key: str) -> Callable[[Recording], float | None]:
    return lambda recording: _mean(_numbers(recording, key))


def _huge(recording: Recording) -> float | None:
    resident, huge = (_numbers(recording, key) for key in ("resident_bytes", "huge_bytes"))
    return huge[0] / resident[0] if huge and resident and resident[0] else None


def _nodes(recording: Recording) -> Mapping[int, float]:
    found: dict[int, float] = {}
    for part in recording.meta().get("memory_nodes", "").split():
        node, _, count = part.partition(":")
        if node.isdecimal() and count.isdecimal() and len(part) <= 2 * MOST_SIGNS:
            found[int(node)] = float(count)
    whole = sum(found.values())
    return {node: count / whole for node, count in found.items()} if whole else {}
