"""Databases from Debian, on sockets of their own: a lock that one connection keeps while others wait for it; and one
where nothing is wrong."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from debs import as_nobody, environment, unpacked
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import make_plan
from flowprof.profiler.report import build_report
from flowprof.profiler.resources.manifest import load
from flowprof.profiler.sections.resources import Blamed, ResourceTable
from flowprof.profiler.store import Recording
from flowprof.profiler.target import open_target
from recorded import read, recording_of
from undisturbed import DISTURBED

pytestmark = [pytest.mark.bpf, DISTURBED]
KEPT_S = 1.5
WAITS = """
SELECT coalesce(task, tid) AS who, min(at_ns) FILTER (event = 'wait') AS asked,
    min(at_ns) FILTER (event = 'acquire' AND at_ns > (SELECT min(at_ns) FROM it WHERE event = 'wait')) AS got
FROM it GROUP BY who HAVING asked IS NOT NULL ORDER BY asked
"""


def blamed(path: Path) -> tuple[Blamed, ...]:
    with Recording.open(str(path)) as recording:
        report = build_report(recording)
    table = report.get(ResourceTable)
    assert table is not None, report.section("resources").reason
    return table.blamed


class Client:
    """A connection that is told statements, and answers a line each."""

    def __init__(self, command: Sequence[str | Path], env: dict[str, str]) -> None:
        self.env = env
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, statement: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{statement}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def ask(self, statement: str) -> str:
        self.tell(statement)
        return self.answer()

    def close(self) -> None:
        self._process.communicate()


@contextmanager
def placed(*packages: str) -> Iterator[tuple[Path, Path]]:
    """A folder that anybody may use, with a name short enough for sockets; in it the packages' files."""
    kept = unpacked(*packages)  # in a home, mostly, which is closed to others
    with TemporaryDirectory() as made:
        at = Path(made)
        at.chmod(0o777)
        shutil.copytree(kept, at / "root", symlinks=True)
        yield at, at / "root"


@contextmanager
def served(command: Sequence[str], env: dict[str, str], socket: Path) -> Iterator[psutil.Process]:
    server = psutil.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not socket.exists():
            assert server.poll() is None and time.monotonic() < deadline, "the server does not start"
            time.sleep(0.1)
        yield server
    finally:
        server.terminate()
        server.wait(60)


@contextmanager
def postgresql(*options: str) -> Iterator[tuple[list[Client], list[int]]]:
    """Three connections to a server of its own, and their processes."""
    with placed("postgresql-15") as (at, root):
        env, programs, data = environment(root), root / "usr/lib/postgresql/15/bin", at / "data"
        subprocess.run(as_nobody(programs / "initdb", "-D", data, "-A", "trust", "-N"), env=env, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        command = as_nobody(programs / "postgres", "-D", data, "-k", at, "-c", "listen_addresses=", *options)
        with served(command, env, at / ".s.PGSQL.5432"):
            client = [programs / "psql", "-h", at, "-U", "nobody", "postgres", "-Atq"]
            deadline = time.monotonic() + 60
            while subprocess.run([*client, "-c", ""], env=env, stderr=subprocess.DEVNULL, check=False).returncode:
                assert time.monotonic() < deadline, "the server takes no connections"  # its socket comes first
                time.sleep(0.1)
            clients = [Client(client, env) for _ in range(3)]
            yield clients, [int(one.ask("SELECT pg_backend_pid();")) for one in clients]
            for one in clients:
                one.close()


def test_postgresql_lock_table(tmp_path: Path) -> None:
    """A process for each connection: one keeps a table locked, two wait for it, one after the other."""
    path = tmp_path / "postgresql.duckdb"
    with postgresql() as ((keeper, first, second), pids):
        table = int(keeper.ask("CREATE TABLE t (a int); SELECT oid FROM pg_class WHERE relname = 't';"))
        with recording_of(pids, path, manifests=(load("postgresql"),), levels=("token", "graph")):
            keeper.ask("BEGIN; LOCK TABLE t; SELECT 1;")
            first.tell("INSERT INTO t VALUES (1); SELECT 2;")
            time.sleep(0.2)
            second.tell("SELECT count(*) FROM t;")
            time.sleep(KEPT_S - 0.2)
            keeper.ask("COMMIT; SELECT 3;")
            assert (first.answer(), second.answer() in "01") == ("2", True)
    it = f"WITH it AS (SELECT * FROM resource_event WHERE resource_id = 1 AND instance >> 32 = {table}) "
    asked = read(path, it + WAITS)
    assert [who for who, _, _ in asked] == pids[1:]
    assert read(path, it + "SELECT DISTINCT tid FROM it WHERE event = 'acquire' ORDER BY at_ns LIMIT 1") == [(pids[0],)]
    for (_, since, got), seconds in zip(asked, (KEPT_S, KEPT_S - 0.2), strict=True):
        assert (got - since) / 1e9 == pytest.approx(seconds, abs=0.15)
    ends = read(
        path, "SELECT tid, count(*) FROM resource_event WHERE resource_id = 1 AND instance IS NULL GROUP BY tid"
    )
    assert {tid for tid, _ in ends} == set(pids), "each transaction's end gives back all that it had"
    mode = "SELECT value FROM variable_sample JOIN variable USING (variable_id) WHERE name = 'mode' AND tid = ? AND "
    exclusive = f"at_ns IN ({it} SELECT at_ns FROM it WHERE event = 'acquire')"
    assert read(path, mode + exclusive, pids[0]) == [(8.0,)], "AccessExclusiveLock"
    first = blamed(path)[0]
    assert (first.resource, first.pathology) == ("lock", "contention")
    assert first.holder is not None and first.holder.tid == pids[0]
    assert [victim.tid for victim in first.victims] == pids[1:]
    assert first.waiting_ns == pytest.approx((2 * KEPT_S - 0.2) * 1e9, rel=0.1)


def test_postgresql_advisory_locks_outlive_transactions(tmp_path: Path) -> None:
    """One that the session has stays where a transaction ends; one that the transaction has does not."""
    path = tmp_path / "advisory.duckdb"
    manifests = (load("postgresql"),)
    with (
        postgresql() as ((keeper, first, second), pids),
        recording_of(pids, path, manifests=manifests, levels=("token", "graph")),
    ):
        keeper.ask("SELECT pg_advisory_lock(7); SELECT 1;")
        assert second.ask("SELECT pg_try_advisory_lock(7);") == "f"
        first.tell("SELECT pg_advisory_lock(7); SELECT 2;")
        keeper.ask("BEGIN; SELECT pg_advisory_xact_lock(8); COMMIT; SELECT 3;")
        time.sleep(KEPT_S)
        keeper.tell("SELECT pg_advisory_unlock(7);")
        assert first.answer() == ""
    found = blamed(path)[0]
    assert (found.resource, found.pathology, found.holders) == ("advisory lock", "contention", 1)
    assert found.holder is not None and found.holder.tid == pids[0] and found.share > 0.9
    assert [victim.tid for victim in found.victims] == [pids[1]]
    assert found.waiting_ns == pytest.approx(KEPT_S * 1e9, rel=0.2)
    other = read(path, """
        SELECT event, tid, unit FROM resource_step JOIN resource USING (resource_id)
        WHERE name = 'advisory lock' AND instance >> 32 = 8 ORDER BY at_ns
    """)  # fmt: skip
    assert other == [("acquire", pids[0], 0), ("release", pids[0], 0)], "at the end of its transaction"


def test_postgresql_rows(tmp_path: Path) -> None:
    """Who changes a row that another transaction has changed waits for that transaction, the next one for its turn."""
    path = tmp_path / "rows.duckdb"
    with postgresql() as ((keeper, first, second), pids):
        keeper.ask("CREATE TABLE t (a int); INSERT INTO t VALUES (1); SELECT 1;")
        with recording_of(pids, path, manifests=(load("postgresql"),), levels=("token", "graph")):
            keeper.ask("BEGIN; UPDATE t SET a = 2; SELECT 1;")
            first.tell("UPDATE t SET a = 3; SELECT 2;")
            time.sleep(0.3)
            second.tell("UPDATE t SET a = 4; SELECT 3;")
            time.sleep(KEPT_S - 0.3)
            keeper.ask("COMMIT; SELECT 4;")
            assert (first.answer(), second.answer()) == ("2", "3")
    transaction, turn = blamed(path)
    assert (transaction.resource, transaction.pathology, turn.resource) == ("transaction", "contention", "row lock")
    assert transaction.holder is not None and transaction.holder.tid == pids[0]
    assert [victim.tid for victim in transaction.victims] == pids[1:]
    assert [link.resource for link in transaction.chain] == ["row lock", "transaction"]
    assert turn.holder is not None and turn.holder.tid == pids[1]
    assert [victim.tid for victim in turn.victims] == pids[2:]


def test_postgresql_objects(tmp_path: Path) -> None:
    """Who makes a table in a schema keeps that from being dropped until the transaction ends."""
    path = tmp_path / "objects.duckdb"
    with postgresql() as ((keeper, first, _), pids):
        schema = int(keeper.ask("CREATE SCHEMA s; SELECT oid FROM pg_namespace WHERE nspname = 's';"))
        with recording_of(pids, path, manifests=(load("postgresql"),), levels=("token", "graph")):
            keeper.ask("BEGIN; CREATE TABLE s.t (a int); SELECT 1;")
            first.tell("DROP SCHEMA s CASCADE; SELECT 2;")
            time.sleep(KEPT_S)
            keeper.ask("COMMIT; SELECT 3;")
            assert first.answer() == "2"
    found = blamed(path)[0]
    assert (found.resource, found.pathology) == ("object lock", "contention")
    assert int(found.instance, 16) >> 32 == schema
    assert found.holder is not None and found.holder.tid == pids[0]
    assert [victim.tid for victim in found.victims] == [pids[1]]
    assert found.waiting_ns == pytest.approx(KEPT_S * 1e9, rel=0.1)


POOL = """
SELECT tid, event, unit, at_ns FROM resource_event JOIN resource USING (resource_id) WHERE name = ? ORDER BY at_ns
"""


def test_postgresql_buffers(tmp_path: Path) -> None:
    """A cursor keeps the page pinned that it stands on; every other pin is given back by the query that took it."""
    path = tmp_path / "buffers.duckdb"
    with postgresql("-c", "shared_buffers=256kB") as ((keeper, reader, _), pids):
        keeper.ask("CREATE TABLE t AS SELECT repeat('x', 1000) a FROM generate_series(1, 1000); SELECT 1;")
        with recording_of(pids, path, manifests=(load("postgresql-buffers"),), levels=("token", "graph")) as run:
            assert [(site.symbol, site.reason) for site in run.plan.sites if site.refused] == []
            keeper.ask("BEGIN; DECLARE c CURSOR FOR SELECT 1 FROM t; FETCH c;")
            for _ in range(3):
                assert reader.ask("SELECT count(*) FROM t;") == "1000"
            assert reader.ask("CREATE TEMP TABLE own AS SELECT a FROM t; SELECT count(*) FROM own;") == "1000"
            assert keeper.ask("SELECT 2;") == "2"
        assert run.progress.lost == 0
    events = read(path, POOL, "buffer pool")
    assert read(path, "SELECT capacity FROM resource") == [(32,)]
    held: Counter[tuple[int, int]] = Counter()
    for tid, event, unit, _ in events:
        assert event == "wait" or 1 <= unit <= 32
        held[tid, unit] += {"acquire": 1, "release": -1, "wait": 0}[event]
        assert held[tid, unit] >= 0, "nothing is given back that was not had"
    assert [tid for (tid, _), count in held.items() if count] == [pids[0]], "the cursor's page"
    searched = Counter(tid for tid, event, _, _ in events if event == "wait")
    assert searched[pids[1]] > 3 * 140, "the table has 143 pages, and the pool has room for 32"
    assert [(one.resource, one.pathology) for one in blamed(path)] == []


def test_postgresql_connections(tmp_path: Path) -> None:
    path = tmp_path / "connections.duckdb"
    with postgresql("-c", "max_connections=12", "-c", "autovacuum=off") as ((one, *_), pids):
        server = psutil.Process(pids[0]).ppid()
        with recording_of([server], path, manifests=(load("postgresql"),), levels=("token", "graph")):
            arguments = psutil.Process(one.pid).cmdline()
            for _ in range(4):
                subprocess.run([*arguments, "-c", ""], env=one.env, check=True)
            kept = Client(arguments, one.env)
            assert kept.ask("SELECT 1;") == "1"
            time.sleep(0.5)  # the server is told of ended processes by and by
        kept.close()
    events = read(path, POOL, "connection")
    assert [event for _, event, _, _ in events].count("acquire") == 5
    units = Counter[int]()
    for _, event, unit, _ in events:
        units[unit] += 1 if event == "acquire" else -1
    assert sorted(units.values())[-1] == 1 and sum(units.values()) == 1, "the one that is kept"
    assert read(path, "SELECT capacity FROM resource WHERE name = 'connection'") == [(12,)]


@contextmanager
def mariadb(*options: str) -> Iterator[tuple[Callable[[], Client], psutil.Process]]:
    """What connects to a server of its own, and that server."""
    with placed("mariadb-server-core", "mariadb-client-core") as (at, root):
        env, share = environment(root), root / "usr"
        install = [share / "bin/mariadb-install-db", "--no-defaults", f"--basedir={share}", f"--datadir={at / 'data'}",
                   "--auth-root-authentication-method=normal", "--skip-test-db"]  # fmt: skip
        subprocess.run(as_nobody(*install), env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = as_nobody(
            share / "sbin/mariadbd", "--no-defaults", f"--basedir={share}", f"--datadir={at / 'data'}",
            f"--lc-messages-dir={share / 'share/mysql'}", f"--socket={at / 's'}", "--skip-networking",
            "--innodb-buffer-pool-size=16M", *options,
        )  # fmt: skip
        with served(command, env, at / "s") as server:
            client = [share / "bin/mariadb", "--no-defaults", "-uroot", "-S", at / "s", "-N", "-B", "-n"]
            yield lambda: Client(client, env), server


def test_mariadb_connections(tmp_path: Path) -> None:
    """One after the other, in one thread, and one that stays; what InnoDB does is not seen in a stripped build."""
    path = tmp_path / "connections.duckdb"
    with mariadb("--max-connections=20", "--thread-cache-size=4") as (connect, server):
        first = connect()
        assert first.ask("SELECT 1;") == "1"
        plan = make_plan([open_target(server.pid)], kernel.version(), (), manifests=(load("mariadb-innodb"),))
        assert len(plan.sites) == 4 and {site.refused for site in plan.sites} == {True}
        assert all("no function has this name" in site.reason for site in plan.sites)
        with recording_of([server.pid], path, manifests=(load("mariadb"),), levels=("token", "graph")) as run:
            assert [(site.symbol, site.reason) for site in run.plan.sites if site.refused] == []
            for _ in range(5):
                one = connect()
                assert one.ask("SELECT 1;") == "1"
                one.close()
                time.sleep(0.2)
            kept = connect()
            assert kept.ask("SELECT 1;") == "1"
        first.close()
        kept.close()
    events = read(path, POOL, "connection")
    assert [event for _, event, _, _ in events] == ["acquire", "release"] * 5 + ["acquire"]
    for (_, _, had, _), (_, _, gave, _) in zip(events[::2], events[1::2], strict=False):
        assert had == gave
    assert read(path, "SELECT capacity FROM resource WHERE name = 'connection'") == [(20,)]


def test_mariadb_metadata_lock(tmp_path: Path) -> None:
    """A thread for each connection: a transaction has used a table, ALTER TABLE waits for it, and a query for that."""
    with mariadb() as (connect, server):
        clients = [connect() for _ in range(3)]
        keeper, first, second = clients
        assert keeper.ask("CREATE DATABASE x; CREATE TABLE x.t (a int); SELECT 1;") == "1"
        assert first.ask("SELECT 1;") == second.ask("SELECT 1;") == "1"
        path = tmp_path / "mariadb.duckdb"
        with recording_of([server.pid], path, manifests=(load("mariadb"),), levels=("token", "graph")):
            keeper.ask("BEGIN; INSERT INTO x.t VALUES (1); SELECT 1;")
            first.tell("ALTER TABLE x.t ADD COLUMN b int; SELECT 2;")
            time.sleep(0.2)
            second.tell("SELECT count(*) FROM x.t;")
            time.sleep(KEPT_S - 0.2)
            keeper.ask("COMMIT; SELECT 3;")
            assert [first.answer(), second.answer()] == ["2", "1"]
        for one in clients:
            one.close()
    it = """WITH it AS (SELECT * FROM resource_event
        WHERE instance IN (SELECT instance FROM resource_event WHERE event = 'wait')) """
    assert len(read(path, it + "SELECT DISTINCT instance FROM it")) == 1, "one table"
    asked = read(path, it + WAITS)
    had = read(path, it + "SELECT task FROM it WHERE event = 'acquire' ORDER BY at_ns LIMIT 1")[0][0]
    gave = read(path, it + "SELECT task, at_ns FROM it WHERE event = 'release' ORDER BY at_ns LIMIT 1")[0]
    assert len(asked) == 2 and gave[0] == had and had not in {who for who, _, _ in asked}
    for (_, since, got), seconds in zip(asked, (KEPT_S, KEPT_S - 0.2), strict=True):
        assert (got - since) / 1e9 == pytest.approx(seconds, abs=0.25)
        assert got >= gave[1]
    first = blamed(path)[0]
    assert (first.resource, first.pathology) == ("metadata lock", "contention")
    assert first.holder is not None and first.holder.task == had
    assert {victim.task for victim in first.victims} == {who for who, _, _ in asked}


def test_redis_is_healthy(tmp_path: Path) -> None:
    """Under load, with every lock of the C library watched: threads sleep and wake, and nobody is in the way."""
    with placed("redis-server", "redis-tools") as (at, root):
        env, programs = environment(root), root / "usr/bin"
        command = as_nobody(
            programs / "redis-server", "--port", "0", "--unixsocket", at / "s", "--dir", at, "--save", ""
        )
        with served(command, env, at / "s") as server:
            path = tmp_path / "redis.duckdb"
            manifests = (load("pthread"), load("futex"))
            with recording_of([server.pid], path, manifests=manifests, levels=("token", "graph", "sched")) as run:
                load_it = [
                    programs / "redis-benchmark",
                    "-s",
                    at / "s",
                    "-n",
                    "20000",
                    "-c",
                    "20",
                    "-t",
                    "set,get",
                    "-q",
                ]
                subprocess.run(load_it, env=env, check=True, stdout=subprocess.DEVNULL)
            assert run.progress.events > 1000
    assert [(one.resource, one.pathology, one.evidence) for one in blamed(path)] == []
