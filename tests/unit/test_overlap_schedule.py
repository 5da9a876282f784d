"""The list scheduler, by hand and against the exact program."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from flowprof.profiler.overlap.interference import DEFAULT
from flowprof.profiler.overlap.schedule import MAX_EXACT, Task, beside, exact, listed, makespan


def test_a_chain_takes_the_sum() -> None:
    resources = ("compute", "memory", "network", "compute")
    tasks = [Task(str(n), resource, 10.0 * (n + 1), (n - 1,) if n else ()) for n, resource in enumerate(resources)]
    assert makespan(listed(tasks)) == 100 and exact(tasks) == pytest.approx(100)


def test_independent_tasks_of_two_resources_run_together() -> None:
    tasks = [Task("a", "compute", 30), Task("b", "memory", 20)]
    assert listed(tasks) == [(0, 30), (0, 20)] and exact(tasks) == pytest.approx(30)


def test_the_longest_path_goes_first() -> None:
    """Of two ready products the one that the network waits for: 10 + 50, not 20 + 10 + 50."""
    tasks = [Task("dead end", "compute", 20), Task("a", "compute", 10), Task("b", "network", 50, (1,))]
    placed = listed(tasks)
    assert makespan(placed) == 60 and placed[1] == (0, 10)


def test_half_batches_take_turns() -> None:
    tasks = [Task("A1", "compute", 10), Task("B1", "compute", 10), Task("A2", "network", 10, (0,)),
             Task("B2", "network", 10, (1,)), Task("A3", "compute", 10, (2,)),
             Task("B3", "compute", 10, (3,))]  # fmt: skip
    assert makespan(listed(tasks)) == 40 and exact(tasks) == pytest.approx(40)


def test_interference_slows_both() -> None:
    """(R, P) = (0.4, 0.8): 8 of memory's take 10, in which arithmetic does 6 of its 16."""
    tasks = [Task("gemm", "compute", 16), Task("gemv", "memory", 8)]
    (_, gemm), (_, gemv) = listed(tasks, beside(DEFAULT))
    assert gemv == pytest.approx(10) and gemm == pytest.approx(20)


def random_tasks(random: np.random.Generator) -> list[Task]:
    tasks = []
    for number in range(int(random.integers(2, 9))):
        after = tuple(one for one in range(number) if random.random() < 0.25)
        resource = str(random.choice(["compute", "memory", "network"]))
        tasks.append(Task(str(number), resource, float(random.integers(1, 30)), after))
    return tasks


def test_never_better_than_the_exact_program_and_never_far_from_it() -> None:
    random = np.random.default_rng(5)
    equal = 0
    for _ in range(60):
        tasks = random_tasks(random)
        best = exact(tasks, seconds=10)
        assert best is not None
        placed = listed(tasks)
        assert makespan(placed) >= best - 1e-4 * best
        assert makespan(placed) <= 3 * best, "three resources: a list is no worse than that"
        equal += makespan(placed) == pytest.approx(best, rel=1e-4)
        for task, (start, end) in zip(tasks, placed, strict=True):
            assert end - start == pytest.approx(task.dur_ns)
            assert all(placed[before][1] <= start + 1e-9 for before in task.after)
        for resource in {task.resource for task in tasks}:
            times = sorted(at for task, at in zip(tasks, placed, strict=True) if task.resource == resource)
            assert all(one[1] <= other[0] + 1e-9 for one, other in itertools.pairwise(times))
    assert equal >= 45


def test_bounds() -> None:
    assert exact([]) == 0 and listed([]) == []
    assert exact([Task("a", "compute", 1)] * (MAX_EXACT + 1)) is None
    assert listed([Task("nothing", "compute", 0.0)]) == [(0, 0)]
    with pytest.raises(ValueError, match="does not come before"):
        listed([Task("a", "compute", 1, (0,))])
