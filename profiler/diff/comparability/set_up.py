"""Whether both sides ran the same thing on the same machine: model, engine, build, threads, processors, ceilings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flowprof.profiler.analyzers.absence import of_processors, quotas
from flowprof.profiler.analyzers.contract import recorded_ceilings
from flowprof.profiler.diff.comparability import builds, known
from flowprof.profiler.diff.result import Difference
from flowprof.profiler.machine.host import SETTINGS
from flowprof.profiler.store import Recording, read_sql

GOVERNOR = "cpu_governor"  # which guests do not know: that is said, for it matters most
PROCESSOR = "processor"  # the model of it: a gate asks for it by this name
CEILING_TOLERANCE = 0.1  # two calibrations of one machine are a few per cent apart
SERVING = ("llama-server", "llama.cpp")  # parts of a program whose work another engine does
MODEL_SQL = """
SELECT architecture, parameters, layers, embedding, vocabulary, experts FROM model ORDER BY parameters DESC NULLS LAST
LIMIT 1
"""
NAME_SQL = "SELECT name FROM model WHERE name IS NOT NULL ORDER BY parameters DESC NULLS LAST LIMIT 1"
QUANTISATION_SQL = """
SELECT weight_types, 8 * weight_bytes / parameters FROM model WHERE weight_bytes > 0 AND parameters > 0
ORDER BY parameters DESC LIMIT 1
"""
ENGINE_SQL = "SELECT DISTINCT engine FROM module WHERE engine IS NOT NULL ORDER BY engine LIMIT 20"
INSTRUCTIONS_SQL = """
SELECT string_agg(DISTINCT name, ' ' ORDER BY name) FROM (SELECT unnest(string_split(instructions, ' ')) AS name
FROM module WHERE engine = 'ggml' AND instructions IS NOT NULL) WHERE name <> ''
"""
IMPORTED_SQL = """
(SELECT 'torch' FROM api_call WHERE kind = 'operator' LIMIT 1)
UNION ALL (SELECT 'GPU' FROM gpu_slice WHERE kind NOT IN ('sync', 'annotation') LIMIT 1)
"""
THREADS_SQL = """
SELECT max(threads) FROM (
    SELECT pid, count(DISTINCT ith) AS threads FROM thread WHERE ith IS NOT NULL
    AND EXISTS (FROM graph_exec WHERE level = 'thread')  -- else only the first thread was seen
    GROUP BY pid
)
"""
CPUS_SQL = """
SELECT string_agg(DISTINCT cpus, ' and ' ORDER BY cpus) FROM thread WHERE ith IS NOT NULL AND cpus IS NOT NULL
"""
ALLOWED_SQL = "SELECT min(cpus_allowed) FROM process"
MODEL_PARTS = ("architecture", "parameters", "layers", "wide", "vocabulary", "experts")


@dataclass(frozen=True, slots=True)
class Fact:
    """`read`: what a recording says, "" when it does not tell; `optional`: not every machine has it."""

    what: str
    weight: float
    why: str
    read: Callable[[Recording], str]
    optional: bool = False


def _meta(key: str) -> Callable[[Recording], str]:
    return lambda recording: recording.meta().get(key, "")


def engine(recording: Recording) -> str:
    """The engines whose work was recorded, as "cuda, torch". An import tells only of operators and of a GPU's work."""
    names = {str(name) for (name,) in recording.rows(ENGINE_SQL)} - set(SERVING)
    if not names and recording.meta().get("imported_from"):
        names = {str(name) for (name,) in recording.rows(IMPORTED_SQL)}
    return ", ".join(sorted(names))


def _quantisation(recording: Recording) -> str:
    rows = recording.rows(QUANTISATION_SQL)
    return f"{rows[0][0] or 'unknown types'} ({rows[0][1]:.1f} bits a weight)" if rows else ""


def _attention(recording: Recording) -> str:
    rows = recording.rows(read_sql("diff_attention.sql"))
    return " and ".join(f"{kind}, KV cache {dtype}" for kind, dtype in rows)


def _single(sql: str) -> Callable[[Recording], str]:
    def read(recording: Recording) -> str:
        rows = recording.rows(sql)
        return "" if not rows or rows[0][0] is None else str(rows[0][0])

    return read


def threads(recording: Recording) -> str:
    """Threads of the largest pool; "" where no thread windows showed them."""
    return _single(THREADS_SQL)(recording)


def quota(recording: Recording) -> str:
    """What its cgroup may use: 1.5 processors, no quota; of several processes the least; "" not known."""
    known_ones = quotas(recording).values()
    counts = [one.processors for one in known_ones if one.processors is not None]
    if not counts:
        return "no quota" if known_ones else ""
    return of_processors(min(counts))


def _recorded_by(recording: Recording) -> str:
    meta = recording.meta()
    return f"import from {meta['imported_from']}" if "imported_from" in meta else "flowprof"


def _size(key: str, unit: int, name: str) -> Callable[[Recording], str]:
    def read(recording: Recording) -> str:
        text = recording.meta().get(key, "")
        return f"{int(text) / unit:g} {name}" if text.isascii() and text.isdigit() and len(text) < 16 else ""

    return read


FACTS = (
    Fact("model file", 0.05, "the files have other names; what they hold is compared above", _single(NAME_SQL)),
    Fact("quantisation", 0.4, "other types of weights are other bytes to read and other kernels", _quantisation),
    Fact("attention", 0.3, "attention is computed another way: its operators are not the same ones", _attention),
    Fact("built for", 0.3, "its kernels use other instructions", _single(INSTRUCTIONS_SQL), optional=True),
    Fact("threads", 0.3, "the work is shared by another number of threads", threads),
    Fact("host", 0.05, "the recordings are of two hosts", _meta("host")),
    Fact(PROCESSOR, known.FORBIDS, "two models of processor: a slower machine is no regression", _meta("cpu_model")),
    Fact("architecture", 1.0, "another instruction set is another program", _meta("arch")),
    Fact("processors", 0.3, "the machine has another number of processors", _meta("cpus")),
    Fact("processor quota", 0.3, "its cgroup may use more or less of the processors' time", quota, optional=True),
    Fact("last-level cache", 0.2, "more or less of the model fits it", _size("llc_bytes", 1 << 20, "MiB")),
    Fact("kernel", 0.1, "scheduling, huge pages and mitigations may differ", _meta("kernel")),
    Fact("GPU", known.FORBIDS, "two models of GPU: a slower one is no regression", _meta("gpu_model"), optional=True),
    *(
        Fact(name.replace("_", " "), 0.2, "the machine is set up another way", _meta(name), optional=name != GOVERNOR)
        for name in SETTINGS
    ),
    Fact("recorded by", 0.4, "two profilers do not measure the same thing", _recorded_by),
)  # fmt: skip


def differences(sides: known.Sides) -> list[Difference]:
    """Every fact of the set-up."""
    found = [_engines(sides), _models(sides), _builds(sides)]
    for fact in FACTS:
        told = known.words(fact.what, known.each(sides, fact.read), fact.weight, fact.why)
        if told.a or told.b or not fact.optional:
            found.append(told)
    return [*found, _allowed(sides), *_ceilings(sides)]


def _engines(sides: known.Sides) -> Difference:
    told = known.each(sides, engine)
    of_a, of_b = ({name for text in side for name in text.split(", ")} for side in told)
    if of_a & of_b:
        return known.words("engine", told, 0.4, "part of the work runs on another engine")
    return known.words("engine", told, known.FORBIDS, "two engines have no operators in common")


def _builds(sides: known.Sides) -> Difference:
    """Of all recordings of a side together."""
    told = known.each(sides, _engine_builds)
    a, b = ([", ".join(map(str, one)) for one in side] for side in told)
    found = known.words("engine build", (a, b), 0.2, "its kernels and fusions may be others")
    if found.sameness == "unknown":
        return found
    a_builds, b_builds = ([one for some in side for one in some] for side in told)
    apart = any(builds.only(a_builds, b_builds))
    return known.difference(found.what, apart, (found.a, found.b), found.weight, found.why)


def _engine_builds(recording: Recording) -> tuple[builds.Build, ...]:
    found = builds.builds(recording)
    return tuple(one for one in found if one.engine not in SERVING) or found


def _models(sides: known.Sides) -> Difference:
    """By what both sides tell: a recording that is short of a graph may lack a part."""
    rows_a, rows_b = known.each(sides, lambda one: one.rows(MODEL_SQL))
    rows = [row for each in rows_a for row in each], [row for each in rows_b for row in each]
    parts = [at for at in range(len(MODEL_PARTS)) if all(any(row[at] is not None for row in side) for side in rows)]
    told = [_model(row, parts) for row in rows[0]], [_model(row, parts) for row in rows[1]]
    return known.words("model", told, known.FORBIDS, "another model does other work for a token")


def _model(row: Sequence[object], parts: Sequence[int]) -> str:
    said = []
    for at in parts:
        value = row[at]
        if isinstance(value, int):
            said.append(f"{value / 1e6:.6g} M {MODEL_PARTS[at]}" if value >= 10**6 else f"{value} {MODEL_PARTS[at]}")
        elif value:
            said.append(str(value))
    return ", ".join(said)


def _allowed(sides: known.Sides) -> Difference:
    """Which processors; where a recording has no list, how many."""
    lists = known.each(sides, _single(CPUS_SQL))
    told = lists if all((*lists[0], *lists[1])) else known.each(sides, _single(ALLOWED_SQL))
    return known.words("processors allowed", told, 0.3, "the engine's threads may use other processors")


def _ceilings(sides: known.Sides) -> list[Difference]:
    """What the machine was measured to do at most, by any number of threads."""
    why = "the machine itself was slower or faster when it was calibrated"
    memory = known.each(sides, lambda one: _best(one, "dram_read", ""))
    arithmetic = known.each(sides, lambda one: _best(one, "gemm", "f32"))
    return [
        known.numbers("ceiling of memory", memory, "GB/s", CEILING_TOLERANCE, 0.3, why),
        known.numbers("ceiling of arithmetic", arithmetic, "GFLOP/s", CEILING_TOLERANCE, 0.3, why),
    ]


def _best(recording: Recording, what: str, dtype: str) -> float | None:
    items = recorded_ceilings(recording).items
    return max((item.value / 1e9 for item in items if (item.what, item.dtype) == (what, dtype)), default=None)
