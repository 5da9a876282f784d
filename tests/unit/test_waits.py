"""Recordings with planted waits, a row each, and what the analyzer makes of them: 20 graphs of one token and 10 ms."""

import io
from pathlib import Path

import pytest
from flowprof.profiler.analyzers import verdict_waits, waits
from flowprof.profiler.report import build_report, timeline
from flowprof.profiler.store import Recording
from flowprof.viewers import html, json, terminal

MS = 1_000_000
PID, MAIN, WORKER, HTTP, HOG = 10, 10, 11, 12, 99
INNER_BARRIER, LOCK = 1, 2  # stacks
GRAPHS, EVERY = 20, 20 * MS  # a graph begins every 20 ms and takes 10


def analysed(
    tmp_path: Path,
    states=(),
    neighbours=(),
    cpus="0-1",
    level="thread",
    sched="yes",
    deep=GRAPHS,
    faults=0,
    file="/models/m.gguf",
    processors=2,
    others=(),
    prefill=0,
    lost=(),
    quota=(),
):
    """Two threads, two operators: 4 ms of work and 1 ms of barrier on the first thread, the reverse on the other."""
    path = str(tmp_path / "waits.duckdb")
    with Recording.create(path, overwrite=True) as recording:
        for key, value in (("started_ns", 0), ("sched", sched), ("recorder_pid", 77)):
            recording.set_meta(key, value)
        recording.append("process", {"pid": [PID], "cpus_allowed": processors})
        recording.append("probe_window", {"window_id": [1], "level": level, "start_ns": 0, "end_ns": GRAPHS * EVERY})
        recording.append("graph", {"graph_id": [1], "pid": PID, "nodes": 2, "operators": 2, "tokens": 1, "outputs": 1,
                                   "phase": "decode", "described": True})  # fmt: skip
        recording.append("thread", {"pid": PID, "tid": [MAIN, WORKER, HTTP], "comm": "server", "ith": [0, 1, None],
                                    "cpus": cpus})  # fmt: skip
        if prefill:  # one more graph, of so many ms
            recording.append("graph", {"graph_id": [2], "pid": PID, "nodes": 2, "operators": 2, "tokens": 100,
                                       "outputs": 1, "phase": "prefill", "described": True})  # fmt: skip
            recording.append("graph_exec", {"exec_id": [GRAPHS], "pid": PID, "tid": MAIN, "graph_id": 2, "window_id": 1,
                                            "start_ns": GRAPHS * EVERY, "end_ns": GRAPHS * EVERY + prefill * MS,
                                            "level": "token"})  # fmt: skip
        for graph in range(GRAPHS):
            begin = graph * EVERY
            recording.append("graph_exec", {"exec_id": [graph], "pid": PID, "tid": MAIN, "graph_id": 1, "window_id": 1,
                                            "start_ns": begin, "end_ns": begin + 10 * MS,
                                            "level": level if graph < deep else "token"})  # fmt: skip
            if graph < deep:
                recording.append("op_exec", {
                    "exec_id": graph, "node_index": [0, 1, 0, 1], "tid": [MAIN, MAIN, WORKER, WORKER],
                    "ith": [0, 0, 1, 1], "start_ns": [begin, begin + 5 * MS, begin + MS, begin + 5 * MS],
                    "compute_end_ns": [begin + 4 * MS, begin + 9 * MS, begin + 2 * MS, begin + 6 * MS],
                    "end_ns": [begin + 5 * MS, begin + 10 * MS, begin + 5 * MS, begin + 10 * MS],
                })  # fmt: skip
        for tid, start, dur, state, by, *stack in states:
            recording.append("thread_state", {
                "pid": [PID], "tid": tid, "cpu": 0, "start_ns": int(start * MS), "end_ns": int((start + dur) * MS),
                "state": state, "by_tid": by, "by_comm": {HOG: "hog", HTTP: "server", 0: None}.get(by, "server"),
                "stack_id": stack or [None],
            })  # fmt: skip
        recording.append("stack", {"stack_id": [INNER_BARRIER, LOCK], "frame": 0, "address": [64, 65], "how": "exact",
                                   "module": ["/usr/lib/libgomp.so.1", "/opt/engine"]})  # fmt: skip
        for tid, pid, comm in others:
            recording.append("other_thread", {"tid": [tid], "pid": [pid], "comm": [comm]})
        for name, value in quota:  # of the process's control group
            recording.append("counter", {"pid": [PID], "tid": [0], "name": [name], "value": [value]})
        for place, events in lost:
            recording.append("loss", {"window_id": [1], "place": [place], "events": [events]})
        for comm, pid, share in neighbours:
            recording.append("neighbour", {"pid": [pid], "comm": comm, "cpus": "0",
                                           "cpu_ns": int(share * GRAPHS * EVERY)})  # fmt: skip
        for fault in range(faults):  # one in every graph
            recording.append(
                "page_fault", {"pid": [PID], "tid": MAIN, "at_ns": fault * EVERY + 2 * MS, "address": 0, "file": [file]}
            )
    with Recording.open(path) as recording:
        return waits.ANALYZER.run(recording)


def every_graph(tid, start, dur, state, by, *stack):
    return [(tid, start + graph * EVERY / MS, dur, state, by, *stack) for graph in range(GRAPHS)]


def found(outcome):
    return [(finding.id, round((finding.cost_ns_per_token or 0) / MS, 3)) for finding in outcome.findings]


def test_a_healthy_run_has_no_finding(tmp_path):
    outcome = analysed(tmp_path, every_graph(MAIN, 1, 0.2, "runnable", HTTP))
    assert found(outcome) == []
    main, worker = outcome.value.rows
    assert (main.wall_ns, main.work_ns, main.barrier_ns, main.runnable_ns) == (200 * MS, 156 * MS, 40 * MS, 4 * MS)
    # its first millisecond is before its first operator: a wait for the thread that drives the graph
    assert (worker.wall_ns, worker.work_ns, worker.barrier_ns) == (200 * MS, 40 * MS, 160 * MS)


@pytest.mark.parametrize(
    ("states", "part", "ns"),
    [
        (every_graph(WORKER, 1.5, 0.25, "runnable", HOG), "runnable_ns", 5 * MS),
        (every_graph(WORKER, 3, 1, "runnable", HOG), "runnable_ns", 20 * MS),  # at the barrier
        (every_graph(WORKER, 1.5, 0.25, "fault", 0), "fault_ns", 5 * MS),
        (every_graph(WORKER, 1.5, 0.25, "sleeping", HTTP), "blocked_ns", 5 * MS),
        (every_graph(WORKER, 1.5, 0.25, "disk", 0), "blocked_ns", 5 * MS),
        (every_graph(WORKER, 1.5, 0.25, "stopped", HOG), "blocked_ns", 5 * MS),
        (every_graph(WORKER, 3, 1, "sleeping", MAIN), "barrier_ns", 160 * MS),  # a barrier that sleeps: nothing is new
        (every_graph(WORKER, 12, 1, "runnable", HOG), "runnable_ns", 0),  # between graphs
    ],
)
def test_parts_add_up_to_the_wall_time(tmp_path, states, part, ns):
    worker = analysed(tmp_path, states).value.rows[1]
    assert getattr(worker, part) == ns
    assert (
        worker.work_ns + worker.barrier_ns + worker.runnable_ns + worker.blocked_ns + worker.fault_ns == worker.wall_ns
    )


def test_sleep_at_a_barrier_inside_an_operator_is_known_by_its_stack(tmp_path):
    states = [
        *every_graph(WORKER, 1.125, 0.25, "sleeping", 0, INNER_BARRIER),
        *every_graph(WORKER, 1.5, 0.125, "sleeping", 0, LOCK),
        *every_graph(WORKER, 1.75, 0.0625, "sleeping", 0),
    ]
    worker = analysed(tmp_path, states).value.rows[1]
    assert (worker.barrier_ns, worker.barrier_blocked_ns, worker.blocked_ns) == (165 * MS, 5 * MS, 3.75 * MS)
    assert worker.work_ns + worker.barrier_ns + worker.blocked_ns == worker.wall_ns
    with Recording.open(str(tmp_path / "waits.duckdb")) as recording:
        lost = verdict_waits.away(recording)
    assert {node: (away.ns, dict(away.causes)) for node, away in lost.items()} == {
        (1, 0): (3.75 * MS, {"asleep, woken by an interrupt": 3.75 * MS})
    }


SMALL = [("pytest", 901, 0.12), ("python", 902, 0.1), ("cc1", 903, 0.08), ("make", 904, 0.05)]


@pytest.mark.parametrize(
    ("states", "options", "expected"),
    [
        (every_graph(MAIN, 1, 3, "runnable", HOG), {}, [("waits.preempted", 3.0)]),
        (every_graph(MAIN, 1, 3, "runnable", HOG), {"level": "token", "deep": 0}, [("waits.preempted", 3.0)]),
        # both threads at once: the graph waits for the one that is away longer, not for their sum
        (
            [*every_graph(MAIN, 1, 3, "runnable", HOG), *every_graph(WORKER, 1.2, 0.7, "runnable", HOG)],
            {}, [("waits.preempted", 3.0)],
        ),
        (every_graph(MAIN, 1, 3, "runnable", WORKER), {"cpus": "0"}, [("waits.shared_processor", 3.0)]),
        (every_graph(MAIN, 1, 3, "runnable", WORKER), {"cpus": "0-1"}, []),  # 60 ms in all: the scheduler parts them
        (every_graph(MAIN, 1, 6, "runnable", WORKER), {"cpus": "0-1"}, [("waits.shared_processor", 6.0)]),
        (every_graph(MAIN, 1, 6, "runnable", WORKER), {"prefill": 900}, [("waits.shared_processor", 6.0)]),
        (every_graph(MAIN, 1, 6, "runnable", WORKER), {"prefill": 1100}, []),  # after pauses: the scheduler parts them
        (every_graph(MAIN, 1, 6, "runnable", WORKER), {"prefill": 1100, "cpus": "0"},
         [("waits.shared_processor", 6.0)]),
        # kept off an idle processor: a quota; a quick wake-up is none
        (every_graph(MAIN, 1, 3, "runnable", 0), {}, [("waits.throttled", 3.0)]),
        ([(MAIN, 20 * graph + 1 + part, 0.5, "runnable", 0) for graph in range(20) for part in range(8)], {},
         [("waits.wakeup", 4.0)]),
        ([(MAIN, 20 * graph + 1 + part, 0.5, "runnable", 0) for graph in range(20) for part in range(8)],
         {"processors": 1}, []),
        # half of the time somebody was there
        ([*every_graph(MAIN, 1, 0.5, "runnable", 0), *every_graph(MAIN, 2, 3, "runnable", HOG)], {},
         [("waits.preempted", 3.5)]),
        # more threads than processors: threads.oversubscribed says so
        (every_graph(MAIN, 1, 6, "runnable", WORKER), {"processors": 1}, []),
        # a thread waits for a page that another one reads
        (every_graph(MAIN, 1, 0.5, "disk", 0), {"faults": 20}, [("waits.fault", 0.5)]),
        (every_graph(MAIN, 1, 0.1, "disk", 0), {}, []),
        # who sits on the other processor drove them together
        (every_graph(MAIN, 1, 3, "runnable", WORKER), {"neighbours": [("hog", HOG, 0.9)]}, [("waits.preempted", 3.0)]),
        (
            every_graph(MAIN, 1, 3, "runnable", WORKER), {"cpus": "0", "neighbours": [("hog", HOG, 0.9)]},
            [("waits.shared_processor", 3.0)],
        ),
        # none of them alone, but all together
        (every_graph(MAIN, 1, 6, "runnable", WORKER), {"neighbours": SMALL[:2]}, [("waits.shared_processor", 6.0)]),
        (every_graph(MAIN, 1, 6, "runnable", WORKER), {"neighbours": SMALL}, [("waits.preempted", 6.0)]),
        (every_graph(MAIN, 1, 3, "runnable", WORKER), {"neighbours": SMALL}, []),  # 60 ms in all: as without them
        (every_graph(MAIN, 1, 3, "runnable", 77), {}, []),  # flowprof itself
        (every_graph(MAIN, 1, 0.5, "fault", 0), {"faults": 20}, [("waits.fault", 0.5)]),
        ([(MAIN, 41, 6, "stopped", HOG), (WORKER, 41, 6, "stopped", HOG)], {}, [("waits.stopped", 0.3)]),
        ([(MAIN, 41, 0.5, "stopped", HOG)], {}, []),
        (every_graph(MAIN, 1, 2, "sleeping", HTTP), {}, [("waits.blocked", 2.0)]),
        (every_graph(WORKER, 3, 1.5, "sleeping", MAIN), {}, []),  # asleep at the barrier
        (every_graph(MAIN, 12, 5, "runnable", HOG), {}, []),  # between graphs
    ],
)  # fmt: skip
def test_planted_waits(tmp_path, states, options, expected):
    assert found(analysed(tmp_path, states, **options)) == expected


QUOTA = (("quota_us", 50_000), ("period_us", 100_000), ("nr_periods", 40))
UP = (*QUOTA, ("nr_throttled", 31), ("throttled_ns", 50 * MS))
STILL = (("nr_periods", 40), ("nr_throttled", 0), ("throttled_ns", 0))


@pytest.mark.parametrize(
    ("by", "quota", "id", "claim", "confidence"),
    [
        (0, (), "waits.throttled", "off idle processors, as if a quota were used up", "high"),
        (0, UP, "waits.throttled", "The quota of its cgroup keeps", "high"),
        (0, STILL, "waits.throttled", "and no quota of their cgroup does that", "low"),
        (HOG, UP, "waits.throttled", "The quota of its cgroup keeps", "high"),  # somebody else ran meanwhile
        (HOG, (*QUOTA, ("nr_throttled", 1), ("throttled_ns", MS)), "waits.preempted", "hog", "high"),
        (HOG, STILL, "waits.preempted", "hog", "high"),
    ],
)
def test_a_quota_is_what_the_kernel_says(tmp_path, by, quota, id, claim, confidence):
    """60 ms without a processor in all."""
    (finding,) = analysed(tmp_path, every_graph(MAIN, 1, 3, "runnable", by), quota=quota).findings
    assert (finding.id, finding.confidence) == (id, confidence) and claim in finding.claim
    if quota is UP:
        assert finding.evidence[1] == (
            "its cgroup may use 50 ms of processor time in 100 ms (0.5 processors), and had used that up in 31 of 40 "
            "periods: 50.0 ms on all processors together"
        )
    if quota is STILL and not by:
        assert finding.evidence[1] == "its cgroup has no quota of processor time"


@pytest.mark.parametrize(
    ("file", "claim", "evidence"),
    [
        (
            "/models/m.gguf",
            "The model is read from disk while it runs: 5",
            "20 major page faults in the recording of m.gguf",
        ),
        ("/usr/lib/libggml.so", "libggml.so is read from disk", "of libggml.so"),
        ("", "Memory of the process comes back from swap", "of memory that was in swap"),
        (None, "Pages of files are read from disk", "20 major page faults in the recording"),
    ],
)
def test_whose_pages_they_were(tmp_path, file, claim, evidence):
    outcome = analysed(tmp_path, every_graph(MAIN, 1, 0.5, "fault", 0), faults=20, file=file)
    (finding,) = (one for one in outcome.findings if one.id == "waits.fault")
    assert finding.claim.startswith(claim) and finding.evidence[1].endswith(evidence)


def test_who_and_when(tmp_path):
    preempted = analysed(tmp_path, every_graph(MAIN, 1, 3, "runnable", HOG)).findings[0]
    assert "hog (99)" in preempted.claim and "30 % of decode" in preempted.claim
    crowded = analysed(tmp_path, every_graph(MAIN, 1, 3, "runnable", WORKER), neighbours=[("hog", HOG, 0.9)]).findings[
        0
    ]
    assert "hog (99)" in crowded.claim and "90 % of one processor" in crowded.evidence[0]
    states = [(MAIN, 20 * graph + 1 + part, 0.5, "runnable", 0) for graph in range(20) for part in range(8)]
    woken = analysed(tmp_path, states).findings[0]
    assert "160 times, 500.0 µs in the mean" in woken.evidence[0] and "nobody" not in woken.claim
    stopped = analysed(tmp_path, [(MAIN, 41, 6, "stopped", HOG)]).findings[0]
    assert "6 ms" in stopped.claim and "0.041 s after" in stopped.claim


def test_a_recording_without_the_scheduler(tmp_path):
    outcome = analysed(tmp_path, sched="no: tracefs")
    assert outcome.status == "skipped" and "record with --levels token,graph,op,thread,sched" in outcome.reason


def roots(outcome):
    """(wait, ith, direct, cause, by) → ms."""
    return {(r.wait, r.ith, r.direct_tid, r.cause, r.by_tid): r.total_ns / MS for r in outcome.value.roots}


def test_barrier_waits_end_with_what_kept_the_last_thread(tmp_path):
    """The worker waits 2 and 3 ms for the main thread, which is without a processor for 1 of the first two."""
    outcome = analysed(tmp_path, every_graph(MAIN, 2.5, 1, "runnable", HOG))
    assert roots(outcome) == {
        ("barrier", 1, MAIN, "work", MAIN): 80,
        ("barrier", 1, MAIN, "runnable", HOG): 20,
    }
    assert outcome.value.roots_ns == (("decode", "barrier", 100 * MS),)
    assert {(root.by_ith, root.by_comm) for root in outcome.value.roots} == {(0, "server"), (None, "hog")}


def test_flowprof_is_called_by_its_name(tmp_path):
    outcome = analysed(tmp_path, every_graph(MAIN, 2.5, 1, "runnable", 77))
    assert [root.by_comm for root in outcome.value.roots if root.by_tid == 77] == ["flowprof"]


def test_sleep_ends_with_what_kept_the_waker(tmp_path):
    states = [
        *every_graph(WORKER, 3, 1, "sleeping", HTTP), *every_graph(HTTP, 3.25, 0.25, "disk", 0),
        *every_graph(MAIN, 1, 0.5, "sleeping", HOG), *every_graph(MAIN, 12, 1, "sleeping", HTTP),  # between graphs
    ]  # fmt: skip
    outcome = analysed(tmp_path, states, level="token", deep=0)
    # Without thread windows the thread that drives the graphs and those of the thread table are known all the same.
    assert roots(outcome) == {
        ("sleeping", 1, HTTP, "work", HTTP): 15, ("sleeping", 1, HTTP, "disk", 0): 5,
        ("sleeping", 0, HOG, "outside", HOG): 10,
    }  # fmt: skip
    assert outcome.value.roots_ns == (("decode", "sleeping", 30 * MS),)


def test_threads_of_another_program_are_one_program(tmp_path):
    """Two of its threads take turns in the way; each is named by its process, but for the server's own."""
    states = [*every_graph(MAIN, 1, 1.5, "runnable", HOG), *every_graph(MAIN, 2.5, 1.5, "runnable", HOG + 1)]
    others = [(HOG, 98, "hogs"), (HOG + 1, 98, "hogs"), (HOG, 98, "hogs"), (HTTP, 98, "hogs")]
    outcome = analysed(tmp_path, [*states, *every_graph(WORKER, 3, 0.1, "runnable", HTTP)], others=others)
    causes = {(cause.by_tid, cause.by_comm): (cause.times, cause.total_ns) for cause in outcome.value.causes}
    assert causes == {(98, "hogs"): (40, 60 * MS), (HTTP, "server"): (20, 2 * MS)}
    assert "hogs (98) takes the processor" in outcome.findings[0].claim


def test_absences_that_began_before_the_graph(tmp_path):
    """A worker that somebody keeps off from 1 ms before each graph, which another thread drives, to 3 ms into it."""
    outcome = analysed(tmp_path, every_graph(WORKER, 19, 4, "runnable", HOG))
    assert found(outcome) == [("waits.preempted", 3 * 19 / 20)]  # there is no graph behind the last
    worker = outcome.value.rows[1]
    assert worker.runnable_ns == 19 * 3 * MS
    assert worker.work_ns + worker.barrier_ns + worker.runnable_ns == worker.wall_ns == 200 * MS


def test_absences_from_one_graph_into_the_next(tmp_path):
    """They count in both, and what lies between graphs in none."""
    outcome = analysed(tmp_path, every_graph(WORKER, 9.5, 11, "runnable", HOG))
    worker = outcome.value.rows[1]
    assert worker.runnable_ns == (20 * 0.5 + 19 * 0.5) * MS
    assert worker.work_ns + worker.barrier_ns + worker.runnable_ns == worker.wall_ns
    (cause,) = outcome.value.causes
    assert (cause.times, cause.total_ns, cause.longest_ns) == (39, 19.5 * MS, 0.5 * MS)


def test_sleep_that_began_before_the_graph_is_at_its_barrier(tmp_path):
    """The worker of a pool waits for the next graph asleep, and is woken into it."""
    worker = analysed(tmp_path, every_graph(WORKER, 15, 5.5, "sleeping", MAIN)).value.rows[1]
    assert (worker.barrier_ns, worker.barrier_blocked_ns, worker.blocked_ns) == (160 * MS, 19 * 0.5 * MS, 0)


@pytest.mark.parametrize(
    ("start", "dur", "lost", "claim"),
    [
        (51, 8, 8.0, "stopped for 8 ms, 0.051 s after"),  # between two graphs: the step waits
        (55, 7, 7.0, "stopped for 7 ms, 0.055 s after"),  # from there into the next
        (395, 5, None, ""),  # behind the last graph
    ],
)
def test_stops_between_graphs_are_said(tmp_path, start, dur, lost, claim):
    outcome = analysed(tmp_path, [(MAIN, start, dur, "stopped", HOG), (WORKER, start, dur, "stopped", HOG)])
    if lost is None:
        assert found(outcome) == []
        return
    ((id, cost),) = found(outcome)
    assert (id, cost) == ("waits.stopped", pytest.approx(lost / 20)) and claim in outcome.findings[0].claim


@pytest.mark.parametrize(
    ("lost", "confidence", "withheld"),
    [
        ((), "high", False),
        ((("unseen_return", 1),), "high", False),  # 0.5 % of 201
        ((("unseen_return", 3), ("passed_over", 2)), "low", False),  # 2.4 %
        ((("ring", 500),), "high", False),  # no event of the scheduler
        ((("unseen_return", 20), ("passed_over", 3)), None, True),
    ],
)
def test_losses_of_the_scheduler(tmp_path, lost, confidence, withheld):
    states = [(MAIN, 20 * graph + part, 0.5, "runnable", HOG) for graph in range(20) for part in range(10)]
    outcome = analysed(tmp_path, states, lost=lost)
    assert outcome.value.withheld == withheld and bool(outcome.value.notes) == (confidence != "high")
    assert [one.confidence for one in outcome.findings] == [confidence] * (not withheld)
    said = [line for one in outcome.findings for line in one.evidence if "scheduler's events were lost" in line]
    assert said == (["2.4 % of the scheduler's events were lost: waits may be incomplete"] if said else [])
    assert bool(said) == (confidence == "low")
    if withheld:
        share = "10.3 % of the scheduler's events were lost"
        assert outcome.value.notes == (f"findings are withheld: {share}: waits may be incomplete; the limit is 10 %",)


def test_viewers_say_that_waits_are_withheld(tmp_path):
    analysed(tmp_path, every_graph(MAIN, 1, 3, "runnable", HOG), lost=[("unseen_return", 5)])
    with Recording.open(str(tmp_path / "waits.duckdb")) as recording:
        recording.shadow("graph_node", {"graph_id": [1, 1], "node_index": [0, 1], "leaf": [False] * 2, "layer": [0, 0],
                                        "op": ["MUL_MAT"] * 2, "executes": [True] * 2})  # fmt: skip
        report = build_report(recording)
        page, shown = html.render(report, timeline(recording)), io.StringIO()
    terminal.show(report, shown, 120)
    assert not [one for one in report.findings if one.id.startswith("waits.")]
    assert "findings are withheld: 20.0 % of the scheduler" in " ".join(shown.getvalue().split())
    assert "Findings are withheld: 20.0 % of the scheduler" in page
    assert json.document(report)["waits"]["withheld"] is True


HAND = (  # thread, begin (ms), duration, state, by whom; graph 0 begins at 0 ms, graph 1 at 20
    (MAIN, 1, 2, "runnable", HOG),  # in its work
    (WORKER, 3, 1.5, "sleeping", MAIN),  # at the first barrier
    (MAIN, 5.5, 1, "fault", 0),
    (WORKER, 21, 0.25, "sleeping", HTTP),  # in its work
    (MAIN, 22, 0.5, "stopped", HTTP),
)


def test_threads_in_json_against_a_recording_by_hand(tmp_path):
    """Over 20 graphs; the worker's first ms of each is a wait for the thread that drives the graph."""
    analysed(tmp_path, HAND)
    with Recording.open(str(tmp_path / "waits.duckdb")) as recording:
        rows = json.document(build_report(recording))["threads"]
    first, second = ({name: row[name] for name in row if name.endswith("_ns")} for row in rows)
    assert [(row["phase"], row["pid"], row["driver_tid"], row["tid"], row["ith"], row["comm"]) for row in rows] == [
        ("decode", PID, MAIN, MAIN, 0, "server"), ("decode", PID, MAIN, WORKER, 1, "server"),
    ]  # fmt: skip
    assert first == {
        "wall_ns": 200 * MS, "work_ns": 156.5 * MS, "barrier_ns": 40 * MS, "barrier_blocked_ns": 0,
        "runnable_ns": 2 * MS, "blocked_ns": 0.5 * MS, "fault_ns": MS, "stopped_ns": 0.5 * MS,
        "compute_ns": 160 * MS, "wait_ns": 40 * MS,
    }  # fmt: skip
    assert second == {
        "wall_ns": 200 * MS, "work_ns": 39.75 * MS, "barrier_ns": 160 * MS, "barrier_blocked_ns": 1.5 * MS,
        "runnable_ns": 0, "blocked_ns": 0.25 * MS, "fault_ns": 0, "stopped_ns": 0,
        "compute_ns": 40 * MS, "wait_ns": 140 * MS,
    }  # fmt: skip
    for row in rows:
        parts = ("work_ns", "barrier_ns", "runnable_ns", "blocked_ns", "fault_ns")
        assert sum(row[part] for part in parts) == row["wall_ns"]
        assert row["operators"] == 2 * GRAPHS
        assert row["wait_share"] == row["wait_ns"] / (row["wait_ns"] + row["compute_ns"])
        assert row["compute_ns_per_token"] == row["compute_ns"] / GRAPHS


def test_small_programs_are_named_together(tmp_path):
    (one,) = analysed(tmp_path, every_graph(MAIN, 1, 6, "runnable", WORKER), neighbours=SMALL).findings
    assert one.claim.startswith("pytest (901) and 3 others take a processor from the engine's threads, which share")
    used = "pytest (901) used 12 % of one processor (may use 0), python (902) 10 %, cc1 (903) 8 %, make (904) 5 %"
    assert one.evidence[0] == used
