"""Recordings that are kept under a name, to be compared with later: `baseline save NAME FILE`, `diff --against NAME`.

A baseline is a folder of recordings, 1.duckdb, 2.duckdb …: the repeats of one set-up. It lies where the user's data do
($XDG_DATA_HOME or ~/.local/share, flowprof/baselines), and under sudo belongs to whoever called.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from flowprof.profiler.diff.comparability.same_measurement import identity
from flowprof.profiler.errors import NotFoundError, PermissionDeniedError, RecordingError, UsageError
from flowprof.profiler.invoking_user import data_folder, their_rights
from flowprof.profiler.store import Recording

MOST_REPEATS = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REPEAT = re.compile(r"([1-9][0-9]{0,5})\.duckdb")
LIST = "flowprof baseline list"


def folder() -> Path:
    """Where baselines are kept. It need not be there."""
    return data_folder() / "flowprof" / "baselines"


def names() -> list[str]:
    """All baselines."""
    with _reachable(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(path.name for path in folder().iterdir() if _NAME.fullmatch(path.name) and _repeats(path))
    return []


def recordings(name: str) -> list[Path]:
    """The recordings of a baseline in the order in which they were saved.

    Raises UsageError (no name), NotFoundError (no such baseline), PermissionDeniedError.
    """
    path = folder() / checked(name)
    found = _repeats(path)
    if not found:
        raise NotFoundError(f"there is no baseline {name}", f"{LIST}; flowprof baseline save {name} FILE makes it")
    return found


def save(name: str, files: Sequence[str], how: Literal["new", "add", "replace"] = "new") -> list[Path]:
    """Copy recordings into a baseline, all or none. Returns those of the baseline then.

    Raises what `recordings` and Recording.open raise; UsageError for one that is there already, or a recording twice;
    RecordingError when it cannot be written.
    """
    path = folder() / checked(name)
    with their_rights():
        there = _repeats(path)
        if there and how == "new":
            raise UsageError(f"there is a baseline {name} already", "--add adds a repeat, -f replaces it")
        if how == "replace":
            there = []
        if len(there) + len(files) > MOST_REPEATS:
            raise UsageError(f"a baseline holds up to {MOST_REPEATS} recordings", "save it under another name")
        _refuse_twice([*map(str, there), *files])
        draft = folder() / f".{path.name}.{os.getpid()}.new"
        try:
            draft.mkdir(parents=True)
            for number, file in enumerate(files, int(there[-1].stem) + 1 if there else 1):
                _copy(file, draft / f"{number}.duckdb")
            if there:
                for one in draft.iterdir():
                    one.rename(path / one.name)
            else:
                _put(draft, path)
        except OSError as error:
            raise RecordingError(
                f"cannot keep the baseline {name}: {error}", "make room, or set XDG_DATA_HOME"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return recordings(name)


def remove(name: str) -> int:
    """Remove a baseline; how many recordings it held. Raises what `recordings` raises, RecordingError."""
    with their_rights():
        there = recordings(name)
        try:
            shutil.rmtree(there[0].parent)
        except OSError as error:
            raise RecordingError(f"cannot remove the baseline {name}: {error}", f"look at {there[0].parent}") from error
    return len(there)


def checked(name: str) -> str:
    """A name that is a plain one for a folder. Raises UsageError."""
    if not _NAME.fullmatch(name):
        shown = name[:80]
        raise UsageError(f"{shown!r} is no name for a baseline", "up to 64 letters, digits, . _ and -, such as main")
    return name


def _repeats(path: Path) -> list[Path]:
    with _reachable():
        try:
            found = {int(match[1]): one for one in path.iterdir() if (match := _REPEAT.fullmatch(one.name))}
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [found[number] for number in sorted(found)]


def _copy(file: str, to: Path) -> None:
    """With what DuckDB has not yet written into the file itself."""
    shutil.copyfile(file, to)
    if Path(f"{file}.wal").exists():
        shutil.copyfile(f"{file}.wal", f"{to}.wal")


def _put(draft: Path, path: Path) -> None:
    """In place of what is there; that is gone only when the new one stands."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    try:
        draft.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _refuse_twice(files: Sequence[str]) -> None:
    """A copy of a recording is no repeat. Opens every file: what is no recording is refused here."""
    seen: dict[str, str] = {}
    for file in files:
        with Recording.open(file) as recording:
            began = identity(recording)
        if began and began in seen:
            raise UsageError(
                f"{file} is the same recording as {seen[began]}", "a repeat is a run of its own: record it"
            )
        seen[began] = file


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PermissionDeniedError(f"cannot use {folder()}: {error.strerror}", "set XDG_DATA_HOME") from error
