"""The recording: one DuckDB file. The only module that knows duckdb; its exceptions stop here.

Writing (`Recording.create`): columns are appended in bulk inside transactions, so that a kill at any moment
leaves a readable file with all but the last batch. Reading (`Recording.open`): the file is attached read-only
beside an empty in-memory database that holds the derived views, with DuckDB's access to files, extensions and
its own configuration locked, so neither a hostile recording nor a hostile query can reach anything else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
import numpy as np
from flowprof.profiler import destination
from flowprof.profiler.columns import Columns, as_arrays
from flowprof.profiler.errors import NotFoundError, RecordingError, UsageError
from flowprof.profiler.untrusted_file import open_named

if TYPE_CHECKING:
    import pandas as pd  # duckdb loads it when a frame is asked for: not for a recorder's quick start

SCHEMA_VERSION = 12
SQL_DIR = Path(__file__).parent / "sql"
# An older schema is brought up to date in memory, version by version, by the scripts named here (sql/<name>, run with
# the file attached as `rec`); a version that is not named is refused with a clear word.
MIGRATIONS: Mapping[int, str] = {version: f"from_{version}.sql" for version in range(1, SCHEMA_VERSION)}

_WRITE_MEMORY = "64MB"  # DuckDB's own share of the recorder's 400 MB
_READ_MEMORY_MIN = 512 << 20
# Since DuckDB 2.0 sums may be taken below a join. Below those with graph_node every operator's call is a group of its
# own: with hundreds of graphs, five times the time.
_SUMS_BEFORE_JOINS = "partial_aggregate_pushdown"
FEW_ROWS = 8  # so many are quicker as parameters than as a registered object
_BEGAN, _AT = "start_ns >= {begun} AND start_ns < {ended}", "at_ns >= {begun} AND at_ns < {ended}"
_OWN_SQL = """
SELECT table_name FROM duckdb_tables() WHERE database_name = 'memory'
UNION ALL SELECT view_name FROM duckdb_views() WHERE database_name = 'memory' AND NOT internal
"""
COUNTED = ("counter", "op_counter", "neighbour")  # over the whole recording: nothing says when
_DIVISIBLE = {  # tables with times: which of their rows belong to a stretch (`Recording.restrict`)
    "graph_exec": _BEGAN,
    "op_exec": _BEGAN,
    "api_call": _BEGAN,
    "gpu_slice": _BEGAN,
    "thread_state": "start_ns < {ended} AND end_ns > {begun}",
    "probe_window": "start_ns < {ended} AND coalesce(end_ns, start_ns) >= {begun}",
    "page_fault": _AT,
    "slot_token": _AT,
    "batch_part": _AT,
    "kv_event": _AT,
    "event_note": _AT,
    "resource_event": _AT,
    "variable_sample": _AT,
    "request": "coalesce(posted_ns, 0) < {ended} AND coalesce(end_ns, {ended}) >= {begun}",
    "loss": "coalesce(window_id, -1) NOT IN (SELECT window_id FROM rec.main.probe_window "
    "WHERE start_ns < {begun} OR start_ns >= {ended})",
    **dict.fromkeys(COUNTED, "false"),
}
_FILE_HEAD = 3 * 4096  # DuckDB's three header blocks; then come blocks of one size

T = TypeVar("T")
Params = Sequence[object] | Mapping[str, object]


def read_sql(name: str) -> str:
    """The text of sql/<name>."""
    return (SQL_DIR / name).read_text(encoding="utf-8")


class Recording:
    """A recording, open for writing (`create`) or reading (`open`). A context manager: leaving it closes."""

    def __init__(self, db: duckdb.DuckDBPyConnection, path: str, writable: bool) -> None:
        self._db = db
        self.path = path
        self.writable = writable
        self.rows_kept = 0  # rows committed so far
        self._rows_pending = 0
        self._in_batch = False
        self._owner: tuple[int, int] | None = None
        self._closed = False

    # ------------------------------------------------------------------ opening

    @classmethod
    def create(cls, path: str, overwrite: bool = False, owner: tuple[int, int] | None = None) -> Recording:
        """A new recording with an empty schema at `path`, owned by `owner` (uid, gid) when given.

        The schema is written to a file beside `path` and renamed onto it, so an existing file is replaced only
        by one that can be opened. Raises RecordingError, PermissionDeniedError, NotFoundError.
        """
        check_destination(path, overwrite)
        with _interruptible():
            return cls._create(path, owner)

    @classmethod
    def _create(cls, path: str, owner: tuple[int, int] | None) -> Recording:
        draft = f"{path}.{os.getpid()}.new"
        try:
            try:
                with contextlib.closing(duckdb.connect(draft)) as db:
                    db.begin()  # one transaction for all of it: a hundred take three times as long
                    db.execute(read_sql("schema.sql"))
                    db.execute(read_sql("views.sql"))
                    db.execute("INSERT INTO meta VALUES ('schema_version', ?)", [str(SCHEMA_VERSION)])
                    db.commit()
                    db.execute("CHECKPOINT")  # closing would do it as well, and hide that there is no room
                Path(draft).replace(path)
                Path(f"{path}.wal").unlink(missing_ok=True)  # of the file just replaced
            finally:
                for leftover in (draft, f"{draft}.wal"):
                    Path(leftover).unlink(missing_ok=True)
            db = duckdb.connect(path, config={"memory_limit": _WRITE_MEMORY, "threads": 1})
            db.execute("SET preserve_insertion_order = false")  # a bulk insert need not be held to be ordered
            db.execute("SET checkpoint_threshold = '16MB'")
            db.execute("SET allocator_flush_threshold = '16MB'")
            db.execute("SET enable_progress_bar = false")  # standard output is data's
        except (duckdb.Error, OSError) as error:
            raise RecordingError(
                f"cannot write the recording {path}: {_sentence(error)}",
                "name another file with -o FILE",
            ) from error
        recording = cls(db, path, writable=True)
        recording._set_owner(owner)
        return recording

    @classmethod
    def open(cls, path: str) -> Recording:
        """An existing recording, read-only. Raises NotFoundError, PermissionDeniedError, RecordingError."""
        _check_source(path)
        with _interruptible():
            return cls._open(path)

    @classmethod
    def _open(cls, path: str) -> Recording:
        db = duckdb.connect(":memory:")
        try:
            db.execute("SET python_enable_replacements = false")  # a query must not see our variables
            _bound_reader(db)
            _attach(db, path)
            version = _schema_version(db, path)
            db.execute("SET search_path = 'memory.main,rec.main'")
            for older in range(version, SCHEMA_VERSION):
                db.execute(read_sql(MIGRATIONS[older]))
            db.execute(read_sql("views.sql"))
            db.execute("SET enable_external_access = false")
            db.execute("SET lock_configuration = true")
        except duckdb.Error as error:
            db.close()
            raise RecordingError(
                f"{path} is damaged or not a flowprof recording: {_sentence(error)}",
                "record again; only whole recordings can be read",
            ) from error
        except BaseException:
            db.close()
            raise
        return cls(db, path, writable=False)

    # ------------------------------------------------------------------ writing

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """One transaction: what is appended inside is kept together, or not at all. Batches do not nest."""
        if self._in_batch:
            raise RuntimeError("a batch is already open")
        self._write("BEGIN")
        self._in_batch = True
        self._rows_pending = 0
        try:
            yield
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self._db.execute("ROLLBACK")
            raise
        else:
            self._write("COMMIT")
            self.rows_kept += self._rows_pending
        finally:
            self._rows_pending = 0
            self._in_batch = False

    def append(self, table: str, columns: Columns) -> int:
        """Append rows given as columns: arrays of one length; scalars (also None) are repeated. Returns the rows.

        Nullable numbers come as numpy masked arrays or lists with None; columns that are not named become NULL.
        """
        arrays = as_arrays(columns)
        rows = len(next(iter(arrays.values())))
        if rows == 0:
            return 0
        name = _table(table)
        if rows <= FEW_ROWS and not any(isinstance(v, list) for a in arrays.values() for v in a.tolist()):
            names = ", ".join(f'"{column}"' for column in arrays)
            marks = ", ".join(["(" + ", ".join(["?"] * len(arrays)) + ")"] * rows)
            values = [value for row in zip(*(a.tolist() for a in arrays.values()), strict=True) for value in row]
            self._write(f'INSERT INTO "{name}" ({names}) VALUES {marks}', values)
        else:
            masks = {column: np.ma.getmaskarray(a) for column, a in arrays.items() if isinstance(a, np.ma.MaskedArray)}
            # Masks travel as columns of their own: DuckDB before 2.0 overlooks those of numpy's masked arrays.
            incoming = {c: np.asarray(a) for c, a in arrays.items()} | {f"{c} null": mask for c, mask in masks.items()}
            values = [f'CASE WHEN NOT "{c} null" THEN "{c}" END AS "{c}"' if c in masks else f'"{c}"' for c in arrays]
            self._db.register("incoming", incoming)
            try:
                self._write(f'INSERT INTO "{name}" BY NAME SELECT {", ".join(values)} FROM incoming')
            finally:
                with contextlib.suppress(duckdb.Error):
                    self._db.unregister("incoming")
        if self._in_batch:
            self._rows_pending += rows
        else:
            self.rows_kept += rows
        return rows

    def set_meta(self, key: str, value: object) -> None:
        """Write one fact about the recording, replacing an earlier one."""
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, None if value is None else str(value)])

    def execute(self, sql: str, params: Params = ()) -> None:
        """Run one writing statement: UPDATE of a site's hits, of a process's end, …"""
        self._write(sql, params)

    def close(self) -> None:
        """Close; never raises, for it is what an error path calls."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(duckdb.Error):
            self._db.close()
        if self.writable:
            self._set_owner(self._owner)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ reading

    def frame(self, sql: str, params: Params = ()) -> pd.DataFrame:
        """The result of a query as a DataFrame."""
        return self._read(sql, params, duckdb.DuckDBPyConnection.df)

    def rows(self, sql: str, params: Params = ()) -> list[tuple[Any, ...]]:
        """The result of a query as tuples."""
        return self._read(sql, params, duckdb.DuckDBPyConnection.fetchall)

    def columns(self, sql: str, params: Params = ()) -> dict[str, Any]:
        """The result of a query as arrays by column name; columns with NULLs are masked arrays."""
        return dict(self._read(sql, params, duckdb.DuckDBPyConnection.fetchnumpy))

    def table(self, sql: str, params: Params = (), limit: int | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of a user's query, at most `limit` rows."""

        def fetch(result: duckdb.DuckDBPyConnection) -> tuple[list[str], list[tuple[Any, ...]]]:
            names = [str(column[0]) for column in result.description or ()]
            return names, result.fetchall() if limit is None else result.fetchmany(limit)

        return self._read(sql, params, fetch)

    def shadow(self, table: str, columns: Columns) -> None:
        """Rows that queries see in place of the file's own from now on. The file is not touched. For reading only."""
        if self.writable:
            raise RuntimeError("a recording that is written has its own rows")
        name, arrays = _table(table), as_arrays(columns)
        self._read(f"CREATE OR REPLACE TABLE memory.main.{name} AS FROM {name} LIMIT 0", (), lambda _: None)
        values = ", ".join(["unnest(?)"] * len(arrays))
        lists = [array.tolist() for array in arrays.values()]
        if lists and lists[0]:
            self._read(f"INSERT INTO {name} ({', '.join(arrays)}) SELECT {values}", lists, lambda _: None)

    def keep(self, view: str) -> None:
        """Find out now what a view yields, for all queries that read it from now on. For reading only."""
        if self.writable:
            raise RuntimeError("a view of a recording that is written changes")
        name = _table(view)
        self._read(f"CREATE OR REPLACE TABLE memory.main.kept_{name} AS FROM {name}", (), _done)
        self._read(f"CREATE OR REPLACE VIEW memory.main.{name} AS FROM memory.main.kept_{name}", (), _done)

    def restrict(self, from_ns: int, to_ns: int) -> None:
        """Queries see what was recorded between two times, as if the recording had been made then. For reading only.

        Calls and executions belong to the stretch in which they began. What was counted over the whole recording
        cannot be divided: it is gone.
        """
        if self.writable:
            raise RuntimeError("a recording that is written is not read in part")
        begun, ended = int(from_ns), int(to_ns)
        migrated = {str(name) for (name,) in self.rows(_OWN_SQL)}
        for table, condition in _DIVISIBLE.items():
            if table not in migrated:  # from a version that had none: empty
                where = condition.format(begun=begun, ended=ended)
                self._read(
                    f"CREATE OR REPLACE VIEW memory.main.{table} AS FROM rec.main.{table} WHERE {where}", (), _done
                )
        self._read(read_sql("views.sql"), (), _done)
        facts = self.meta()
        if facts.get("started_unix_ns", "").isdigit() and facts.get("started_ns", "").isdigit():
            facts["started_unix_ns"] = str(int(facts["started_unix_ns"]) + begun - int(facts["started_ns"]))
        facts |= {"started_ns": str(begun), "stopped_ns": str(ended)}
        self.shadow("meta", {"key": list(facts), "value": list(facts.values())})

    def meta(self) -> dict[str, str]:
        """All facts about the recording."""
        return {str(key): str(value) for key, value in self.rows("SELECT key, value FROM meta") if value is not None}

    # ------------------------------------------------------------------ inside

    def _write(self, sql: str, params: Params = ()) -> None:
        try:
            with _interruptible():
                self._db.execute(sql, params)
        except (duckdb.ProgrammingError, duckdb.DataError, TypeError):
            raise  # ours: a wrong column or type is a bug, not a condition of the host
        except (duckdb.Error, OSError) as error:
            raise RecordingError(
                f"the recording {self.path} cannot be written any more: {_sentence(error)}",
                f"all but the last batch is kept ({self.rows_kept} rows); make room, then read it with: "
                f"flowprof report {self.path}",
            ) from error

    def _read(self, sql: str, params: Params, fetch: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        try:
            with _interruptible():
                return fetch(self._db.execute(sql, params))
        except duckdb.CatalogException as error:
            raise NotFoundError(
                _sentence(error), "flowprof query FILE 'SHOW ALL TABLES' lists what there is"
            ) from error
        except (duckdb.ParserException, duckdb.BinderException, duckdb.InvalidInputException) as error:
            raise UsageError(f"the query is not right: {_sentence(error)}", "recordings are read-only SQL") from error
        except duckdb.PermissionException as error:
            raise UsageError(f"a query reaches only its recording: {_sentence(error)}") from error
        except duckdb.Error as error:
            raise RecordingError(f"{self.path} cannot be queried: {_sentence(error)}") from error

    def _set_owner(self, owner: tuple[int, int] | None) -> None:
        # Only once DuckDB holds the file: in a sticky directory root may not open another user's file to write.
        self._owner = owner
        if owner is None:
            return
        for name in (self.path, f"{self.path}.wal"):
            with contextlib.suppress(OSError):  # not ours to give away, or no log: the recording is good all the same
                os.chown(name, *owner, follow_symlinks=False)


def _done(_: duckdb.DuckDBPyConnection) -> None:
    """For statements without an answer."""


def _table(name: str) -> str:
    if not name.replace("_", "").isalnum():
        raise ValueError(f"not a table: {name!r}")
    return name


# ---------------------------------------------------------------------- conditions of the file


def check_destination(path: str, overwrite: bool) -> None:
    """What would stop a recording from being created. Raises RecordingError, PermissionDeniedError, UsageError."""
    if destination.check(path, overwrite):
        _check_not_recording(path)


def _check_not_recording(path: str) -> None:
    try:
        duckdb.connect(path, read_only=True).close()
    except duckdb.Error as error:
        if "lock" in str(error):
            raise RecordingError(f"{path} is being written: {_sentence(error)}", "name another with -o") from error


def _check_source(path: str) -> None:
    destination.check_name(path)
    with open(open_named(path, RecordingError, "flowprof attach PID -o FILE makes one"), "rb") as file:
        try:
            head = file.read(12)
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {error.strerror}") from error
    if head[8:12] != b"DUCK":
        raise RecordingError(f"{path} is not a flowprof recording", "flowprof attach PID -o FILE makes one")


def _attach(db: duckdb.DuckDBPyConnection, path: str) -> None:
    quoted = path.replace("'", "''")  # ATTACH takes no parameters
    try:
        db.execute(f"ATTACH '{quoted}' AS rec (READ_ONLY)")
    except duckdb.Error as error:
        text = _sentence(error)
        if "lock" in text:
            raise RecordingError(f"{path} is still being recorded: {text}", "end that recording first") from error
        if "newer" in text or "storage version" in text:
            raise RecordingError(f"{path} was written by a newer DuckDB: {text}", "pip install -U duckdb") from error
        raise RecordingError(f"{path} is truncated or damaged: {text}", "copy it again, or record again") from error
    blocks, free, block_size = db.execute(
        "SELECT total_blocks, free_blocks, block_size FROM pragma_database_size() WHERE database_name = 'rec'"
    ).fetchone() or (0, 0, 1)
    missing = _FILE_HEAD + blocks * block_size - Path(path).stat().st_size
    # Free blocks at the end may never have been written.
    if missing > free * block_size or (missing > 0 and missing % block_size):
        raise RecordingError(f"{path} is truncated: {missing} bytes are missing", "copy it again, or record again")


def _schema_version(db: duckdb.DuckDBPyConnection, path: str) -> int:
    try:
        row = db.execute("SELECT value FROM rec.main.meta WHERE key = 'schema_version'").fetchone()
        version = int(row[0]) if row else 0
    except (duckdb.Error, ValueError, TypeError):
        version = 0
    if version == 0:
        raise RecordingError(f"{path} is a DuckDB file, but not a flowprof recording")
    if version > SCHEMA_VERSION:
        raise RecordingError(
            f"{path} has schema {version}; this flowprof reads up to {SCHEMA_VERSION}",
            "pip install -U flowprof",
        )
    if version < SCHEMA_VERSION and version not in MIGRATIONS:
        raise RecordingError(f"{path} has schema {version}, too old for this flowprof ({SCHEMA_VERSION})")
    return version


def _bound_reader(db: duckdb.DuckDBPyConnection) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    db.execute(f"SET memory_limit = '{max(_READ_MEMORY_MIN, memory // 4) >> 20}MiB'")
    if db.execute("SELECT count(*) FROM duckdb_optimizers() WHERE name = ?", [_SUMS_BEFORE_JOINS]).fetchone() != (0,):
        db.execute(f"SET disabled_optimizers = '{_SUMS_BEFORE_JOINS}'")
    db.execute("SET temp_directory = ''")
    db.execute("SET allocator_background_threads = true")  # they give back what a query has done with
    db.execute("SET enable_progress_bar = false")  # standard output is data's
    db.execute(f"SET threads = {min(4, len(os.sched_getaffinity(0)))}")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """DuckDB turns what a signal's handler raises into a RuntimeError, and a query that is stopped into its own."""
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except RuntimeError as error:
        if "interrupted" in str(error):
            raise KeyboardInterrupt from error
        raise


def _sentence(error: Exception) -> str:
    """The first line of a foreign message: the rest points into SQL or to a web page."""
    text = str(error).strip().split("\n", 1)[0]
    text = text.split(" See also ", 1)[0].removeprefix("IO Error: ")
    return text or type(error).__name__
