"""What waits are worth saying: who or what keeps pool threads from running, and what a token pays. Part of waits.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowprof.profiler.analyzers.absence import Loss, of_processors, total
from flowprof.profiler.analyzers.contract import ratio
from flowprof.profiler.findings import Confidence, Finding
from flowprof.profiler.machine.cgroup import Quota
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.waits import WaitCause, WaitRow

PREEMPTED_SHARE = 0.05  # of a phase's time: healthy servers lose 1 to 3 % to their own HTTP threads and the kernel's
FAULT_SHARE = 0.02
BLOCKED_SHARE = 0.05
PREEMPTED_NS = 50_000_000  # a dozen of the scheduler's slices: in a phase of 100 ms one slice is 4 %, by chance
CROWDED_SHARE, CROWDED_NS = 0.15, 100_000_000  # threads that are not bound to one processor: whoever runs beside them,
# the recorder too, pushes them together for a few slices until the scheduler parts them again
CROWDED_OF_ALL = 0.1  # of the time in all graphs: some wake up together after every pause, and are parted again
NEIGHBOUR_SHARE = 0.25  # of one processor: who use that much, one or many, push the engine's threads together
THROTTLED_NS = 1_000_000  # mean; an idle processor takes a woken thread within 0.1 ms
STOPPED_NS = 1_000_000
ENOUGH_GRAPHS = 20
NAMED = 4  # neighbours beside the first
SWAP = ""  # what page_fault.file has for a page of no file
MODELS = (".gguf", ".bin")
KEEP_MODEL = (
    "Keep the model in memory: more memory or a smaller model, --mlock, --no-mmap; a warm-up request after the start "
    "reads it once."
)
NO_SWAP = "More memory for this process, or less for others; keep it out of swap (--mlock, MemorySwapMax=0)."
MORE_MEMORY = "Something pushes files that are in use out of memory: more of it, or less for others."
MOVE_IT = (
    "Move it to other processors (taskset, cgroup cpusets) or lower its priority; or leave it a processor: "
    "--threads one less."
)
RAISE_QUOTA = (
    "Look at nr_throttled in the cpu.stat of the process's cgroup: raise cpu.max (docker --cpus, Kubernetes limits), "
    "or start the server with no more --threads than the quota has processors."
)
SPIN = (
    "They pay this whenever they sleep for short: let them spin at barriers (llama.cpp: --poll 100; OpenMP: "
    "OMP_WAIT_POLICY=active), with no more --threads than processors; on the machine, look at its idle states, of a "
    "virtual one at its host's halt polling (kvm.halt_poll_ns)."
)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another process of the host that used a good part of a processor."""

    comm: str
    pid: int
    share: float  # of one processor
    cpus: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of the process that waits."""

    where: str  # " in process 4711" where there are several, else ""
    whole: Mapping[str, Coverage]  # by phase, of all its graphs
    neighbours: Sequence[Neighbour]
    faults: Sequence[tuple[str | None, int]]  # its major page faults by file, most first; as page_fault.file has it
    crowded: bool  # it has more threads in its pool than processors
    quota: Quota | None = None  # while it was recorded; None: it was not, or the kernel does not say
    runnable_ns: int = 0  # its pool threads waited for a processor in graphs, all phases

    @property
    def graphs_ns(self) -> int:
        """Time in graphs, of all phases."""
        return sum(item.total_ns for item in self.whole.values())

    @property
    def held_up(self) -> bool:
        """Whether a quota explains most of what its threads waited for a processor."""
        return self.quota is not None and 2 * self.quota.throttled_ns > self.runnable_ns > 0


@dataclass(frozen=True, slots=True)
class _Price:
    """What a loss costs: per token, and as a share of its phase's time."""

    loss: Loss
    cost_ns: float
    share: float
    confidence: Confidence
    where: str  # as in Scene

    @property
    def phase(self) -> str:
        return f"{self.loss.phase}{self.where}"

    @property
    def process(self) -> str:
        return f"Process {self.loss.pid}" if self.where else "The process"

    @property
    def lost(self) -> str:
        return f"{self.share * 100:.0f} % of {self.phase} is lost"

    def finding(
        self, id: str, claim: str, evidence: tuple[str, ...], advice: str, confidence: Confidence | None = None
    ) -> Finding:
        return Finding(id=id, claim=claim, phase=self.loss.phase, cost_ns_per_token=self.cost_ns,
                       confidence=confidence or self.confidence, evidence=evidence, advice=advice,
                       severity="problem")  # fmt: skip


def of_loss(loss: Loss, scene: Scene) -> Finding | None:
    """What to say of one state's price in one phase; None when it is not worth it."""
    weight = scene.whole.get(loss.phase)
    if weight is None or not weight.tokens or not weight.total_ns:
        return None
    share = loss.lost_ns / weight.total_ns
    sure: Confidence = "high" if weight.graphs >= ENOUGH_GRAPHS else "medium"
    price = _Price(loss, loss.lost_ns / weight.tokens, share, sure, scene.where)
    if loss.state == "stopped":
        return _stopped(price)
    if loss.state == "fault" and share >= FAULT_SHARE:
        return _fault(price, scene.faults)
    if loss.state == "runnable" and share >= PREEMPTED_SHARE and loss.lost_ns >= PREEMPTED_NS:
        return _no_processor(price, scene)
    return None


def _no_processor(price: _Price, scene: Scene) -> Finding | None:
    """Threads could run and had no processor: because of a quota, of somebody else, or of each other."""
    loss = price.loss
    siblings, others = loss.siblings, loss.others
    held_off = [cause for cause in loss.idle if cause.total_ns >= THROTTLED_NS * cause.times]
    if scene.held_up or 2 * total(held_off) > total(loss.causes):
        return _throttled(price, held_off, scene.quota)
    if 2 * total(loss.idle) > total(loss.causes):
        return (
            None if scene.crowded else _woken(price, loss.idle)
        )  # crowded: threads.oversubscribed says why they sleep
    if not loss.by_itself:
        return _preempted(price, others)
    if scene.crowded:
        return None  # threads.oversubscribed says so
    bound = siblings[0].cpus in _one_each(siblings)
    much = price.share >= CROWDED_SHARE and loss.lost_ns >= max(CROWDED_NS, CROWDED_OF_ALL * scene.graphs_ns)
    shares = [one.share for one in scene.neighbours]
    if not bound and (max(shares, default=0.0) >= NEIGHBOUR_SHARE or (much and sum(shares) >= NEIGHBOUR_SHARE)):
        return _crowded(price, scene.neighbours, others, siblings[0])
    return _shared(price, siblings[0], bound) if bound or much else None


def _throttled(price: _Price, idle: list[WaitCause], quota: Quota | None) -> Finding:
    times, longest = sum(cause.times for cause in idle), max((cause.longest_ns for cause in idle), default=0)
    if quota is not None and quota.nr_throttled:
        claim = "The quota of its cgroup keeps the engine's threads off the processors"
    else:
        why = "as if a quota were used up" if quota is None else "and no quota of their cgroup does that"
        claim = f"The engine's threads are kept off idle processors, {why}"
    return price.finding(
        "waits.throttled",
        f"{claim}: {price.lost}",
        (
            f"{times} times a thread that could run did not, on a processor with nothing else to do: "
            f"{total(idle) / 1e6:.1f} ms in all, {longest / 1e6:.1f} ms at most",
            *((of_quota(quota),) if quota is not None else ()),
        ),
        RAISE_QUOTA,
        confidence="low" if quota is not None and not quota.nr_throttled else None,
    )


def of_quota(quota: Quota) -> str:
    """What the kernel says of it, as evidence."""
    processors = quota.processors
    if quota.quota_us is None or processors is None:
        return "its cgroup has no quota of processor time"
    return (
        f"its cgroup may use {quota.quota_us / 1e3:g} ms of processor time in {quota.period_us / 1e3:g} ms "
        f"({of_processors(processors)}), and had used that up in {quota.nr_throttled} of "
        f"{quota.nr_periods} periods: {quota.throttled_ns / 1e6:.1f} ms on all processors together"
    )


def _woken(price: _Price, idle: list[WaitCause]) -> Finding:
    times, longest = sum(cause.times for cause in idle), max(cause.longest_ns for cause in idle)
    return price.finding(
        "waits.wakeup",
        f"Woken threads wait until an idle processor has come back for them: {price.lost}",
        (
            f"{times} times, {total(idle) / times / 1e3:.1f} µs in the mean, {longest / 1e6:.2f} ms at most, on "
            "processors with nothing else to do",
        ),
        SPIN,
    )


def _preempted(price: _Price, others: list[WaitCause]) -> Finding:
    by_name, victims = Counter[str](), Counter[int]()
    for cause in others:
        by_name[_who(cause)] += cause.total_ns
        victims[cause.ith] += cause.total_ns
    ranked = by_name.most_common(4)
    whole = total(price.loss.causes)
    ((worst, waited_ns),) = victims.most_common(1)
    return price.finding(
        "waits.preempted",
        f"{ranked[0][0]} takes the processor from the engine's threads: {price.lost}",
        (
            "on the engine's processors in its place: "
            + ", ".join(f"{name} {ns / whole * 100:.0f} %" for name, ns in ranked),
            f"thread {worst} waited longest for a processor: {waited_ns / 1e6:.1f} ms in all, "
            f"{max(c.longest_ns for c in others) / 1e6:.1f} ms at most at a time",
            "the price counts, per graph, the thread that was away longest: the others wait for it at the next barrier",
        ),
        MOVE_IT,
    )


def _crowded(price: _Price, neighbours: Sequence[Neighbour], others: Sequence[WaitCause], top: WaitCause) -> Finding:
    """The threads have processors enough, but others sit on one of them, and they crowd on the rest."""
    large = [one for one in neighbours if one.share >= NEIGHBOUR_SHARE]
    first = _in_the_way(large or neighbours, others)
    more = [] if large else [one for one in neighbours if one is not first]
    who = f"{first.comm} ({first.pid})" if first.pid else "A crowd of short-lived programs"
    takes = f"{who} and {len(more)} other{'s' * (len(more) > 1)} take" if more else f"{who} takes"
    used = f"{who} used {first.share * 100:.0f} % of one processor" + (f" (may use {first.cpus})" if first.cpus else "")
    used += "".join(f", {one.comm} ({one.pid}) {one.share * 100:.0f} %" for one in more[:NAMED])
    return price.finding(
        "waits.preempted",
        f"{takes} a processor from the engine's threads, which share the rest: {price.lost}",
        (
            used,
            f"thread {top.ith} of the pool (processors {top.cpus or '?'}) waited {top.total_ns / 1e6:.1f} ms while "
            f"thread {top.by_tid} of the server ran, {top.longest_ns / 1e6:.1f} ms at most at a time",
        ),
        MOVE_IT,
        confidence="medium",
    )


def _in_the_way(neighbours: Sequence[Neighbour], others: Sequence[WaitCause]) -> Neighbour:
    """The neighbour that most often took the threads' place itself; else the busiest one."""
    direct = Counter[int]()
    for cause in others:
        direct[cause.by_tid] += cause.total_ns
    return max(neighbours, key=lambda one: (direct[one.pid] if one.pid else 0, one.share))


def _one_each(siblings: Sequence[WaitCause]) -> set[str]:
    """The affinities that hold a single processor: threads that share it were bound to it. (Those of the end: two that
    are bound to different ones were so only after they shared one.)"""
    single = {cause.cpus for cause in siblings if cause.cpus and not set(cause.cpus) & set("-,")}
    return single - {c.cpus for c in siblings if c.by_cpus and not set(c.by_cpus) & set("-,") and c.by_cpus != c.cpus}


def _shared(price: _Price, top: WaitCause, bound: bool) -> Finding:
    """bound: to one processor, both."""
    other = f"thread {top.by_ith}" if top.by_ith is not None else f"thread {top.by_comm} ({top.by_tid})"
    place = f"processor {top.cpus}" if bound else "one processor"
    return price.finding(
        "waits.shared_processor",
        f"Threads of the server take turns on {place}: thread {top.ith} of the pool waits for {other}, {price.lost}",
        (
            f"thread {top.ith} waited {top.total_ns / 1e6:.1f} ms for a processor on which {other} ran, "
            f"in {top.times} times, {top.longest_ns / 1e6:.1f} ms at most",
            f"both may use processors {top.cpus or '?'} only" if top.cpus == top.by_cpus
            else f"thread {top.ith} may use processors {top.cpus or '?'}, {other} {top.by_cpus or '?'}",
        ),
        "Give every thread a processor: check taskset, --cpu-mask, cgroup cpusets and quotas; or use fewer "
        "threads (--threads).",
    )  # fmt: skip


def _fault(price: _Price, faults: Sequence[tuple[str | None, int]]) -> Finding:
    """Of what the pages were that came from disk is said of most of them."""
    causes = price.loss.causes
    count = sum(number for _, number in faults)
    file, most = faults[0] if faults else (None, 0)
    claim, of, advice = pages(file)
    some = f", {most} of them{of}" if most < count else of
    return price.finding(
        "waits.fault",
        f"{claim} while it runs: {price.share * 100:.0f} % of {price.phase} waits for it",
        (
            f"{sum(c.times for c in causes)} waits of pool threads, {total(causes) / 1e6:.1f} ms in all, "
            f"{max(c.longest_ns for c in causes) / 1e6:.1f} ms at most",
            f"{count} major page faults in the recording{some}",
        ),
        advice,
    )


def pages(file: str | None) -> tuple[str, str, str]:
    """Pages of that file (as in page_fault) come from disk: what to say of that, whose they are, and what to do."""
    name = Path(file).name if file else ""
    if file == SWAP:
        return "Memory of the process comes back from swap", ", of memory that was in swap", NO_SWAP
    if name.endswith(MODELS):
        return "The model is read from disk", f" of {name}", KEEP_MODEL
    if name:
        return f"{name} is read from disk", f" of {name}", MORE_MEMORY
    return "Pages of files are read from disk", "", MORE_MEMORY


def _stopped(price: _Price) -> Finding | None:
    loss = price.loss
    longest = max(loss.causes, key=lambda cause: cause.longest_ns)
    if longest.longest_ns < STOPPED_NS:
        return None
    return price.finding(
        "waits.stopped",
        f"{price.process} was stopped for {longest.longest_ns / 1e6:.0f} ms, "
        f"{loss.longest_at_ns / 1e9:.3f} s after the recording began",
        (
            f"threads in the stopped state during {loss.phase} graphs or before them: {loss.lost_ns / 1e6:.1f} ms "
            f"lost in all, {max(cause.times for cause in loss.causes)} times",
            f"continued by {_who(longest)}",
        ),
        "Look for whoever sends SIGSTOP and SIGCONT: a debugger, a snapshot tool, a job scheduler.",
    )


def blocked(rows: Sequence[WaitRow], of: Mapping[str, Coverage], where: str) -> list[Finding]:
    """The worst thread of each phase of one process, stops apart."""
    found = []
    for phase in dict.fromkeys(row.phase for row in rows):
        worst = max((row for row in rows if row.phase == phase), key=lambda row: row.blocked_ns - row.stopped_ns)
        ns = worst.blocked_ns - worst.stopped_ns
        share = ratio(ns, worst.wall_ns) or 0.0
        tokens = of[phase].tokens_measured
        if share < BLOCKED_SHARE or not tokens:
            continue
        found.append(
            Finding(
                id="waits.blocked",
                claim=f"Thread {worst.ith} sleeps outside of barriers for {share * 100:.0f} % of {phase}{where}",
                phase=phase,
                cost_ns_per_token=ns / tokens,
                confidence="medium",
                evidence=(f"{ns / 1e6:.1f} of {worst.wall_ns / 1e6:.1f} ms in {of[phase].graphs_measured} graphs",),
                advice="A lock or I/O inside the engine: where threads waited, by stack, shows which.",
                severity="problem",
            )
        )
    return found


def _who(cause: WaitCause) -> str:
    if not cause.by_tid:
        return "nobody" if cause.state == "runnable" else "an interrupt"
    name = f"{cause.by_comm or 'a thread that is gone'} ({cause.by_tid})"
    return f"the server's own thread {name}" if cause.by_own_process else name
