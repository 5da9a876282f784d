"""Recordings kept under a name: what is kept, whose it is, and what is refused."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import duckdb
import pytest
from flowprof.profiler import baselines
from flowprof.profiler.errors import FlowprofError, NotFoundError, RecordingError, UsageError
from synthetic import Synthetic, write

LATER = "UPDATE meta SET value = (value::BIGINT + {})::VARCHAR WHERE key = 'started_ns'"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three recordings that began one after the other."""
    folder = tmp_path_factory.mktemp("recorded")
    write(str(folder / "0.duckdb"), Synthetic(layers=1, requests=1, tokens=5))
    for number in (1, 2):
        shutil.copyfile(folder / "0.duckdb", folder / f"{number}.duckdb")
        with duckdb.connect(str(folder / f"{number}.duckdb")) as db:
            db.execute(LATER.format(number))
    return sorted(folder.iterdir())


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("SUDO_UID", raising=False)
    return tmp_path / "data" / "flowprof" / "baselines"


def kept(data: Path) -> list[str]:
    return sorted(str(path.relative_to(data)) for path in data.rglob("*")) if data.exists() else []


def test_saved_listed_read_and_removed(data: Path, recorded: list[Path]) -> None:
    assert baselines.names() == [] and kept(data) == []
    (one,) = baselines.save("main", [str(recorded[0])])
    assert one.read_bytes() == recorded[0].read_bytes()
    assert baselines.names() == ["main"] and baselines.recordings("main") == [one]
    assert len(baselines.save("main", [str(recorded[1]), str(recorded[2])], "add")) == 3
    assert kept(data) == ["main", "main/1.duckdb", "main/2.duckdb", "main/3.duckdb"]
    assert baselines.remove("main") == 3
    assert baselines.names() == [] and kept(data) == []


def test_an_existing_one_is_kept_unless_it_is_to_be_replaced(data: Path, recorded: list[Path]) -> None:
    baselines.save("main", [str(recorded[0]), str(recorded[1])])
    with pytest.raises(UsageError, match="already"):
        baselines.save("main", [str(recorded[2])])
    assert len(baselines.recordings("main")) == 2
    (one,) = baselines.save("main", [str(recorded[2])], "replace")
    assert one.read_bytes() == recorded[2].read_bytes() and kept(data) == ["main", "main/1.duckdb"]


def test_numbers_grow_past_a_gap(recorded: list[Path]) -> None:
    first, _ = baselines.save("main", [str(recorded[0]), str(recorded[1])])
    first.unlink()
    assert [path.name for path in baselines.save("main", [str(recorded[2])], "add")] == ["2.duckdb", "3.duckdb"]


def test_what_is_not_yet_in_the_file_comes_along(tmp_path: Path, recorded: list[Path]) -> None:
    """A recorder that was killed leaves a log beside its file."""
    source = tmp_path / "cut.duckdb"
    shutil.copyfile(recorded[0], source)
    with duckdb.connect(str(source)) as db:
        db.execute("PRAGMA disable_checkpoint_on_shutdown")
        db.execute("INSERT INTO meta VALUES ('only', 'in the log')")
    assert Path(f"{source}.wal").exists()
    (copy,) = baselines.save("cut", [str(source)])
    with baselines.Recording.open(str(copy)) as recording:
        assert recording.meta()["only"] == "in the log"
    assert baselines.recordings("cut") == [copy]  # the log is no recording


@pytest.mark.parametrize("how", ["at once", "a copy", "added"])
def test_a_recording_is_no_repeat_of_itself(data: Path, tmp_path: Path, recorded: list[Path], how: str) -> None:
    copy = tmp_path / "copy.duckdb"
    shutil.copyfile(recorded[0], copy)
    twice = [str(recorded[0]), str(copy if how == "a copy" else recorded[0])]
    if how == "added":
        baselines.save("main", twice[:1])
    before = kept(data)
    with pytest.raises(UsageError, match="the same recording"):
        baselines.save("main", twice[1:] if how == "added" else twice, "add" if how == "added" else "new")
    assert kept(data) == before


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "-f", "a b", "a\0b", "ä", "x" * 65, "a\n", "\x1b[2J"]
)
def test_names(data: Path, recorded: list[Path], name: str) -> None:
    for does in (baselines.recordings, baselines.remove, lambda name: baselines.save(name, [str(recorded[0])])):
        with pytest.raises(UsageError) as caught:
            does(name)
        assert caught.value.hint
    assert kept(data) == []


@pytest.mark.parametrize("name", ["main", "v1.2-rc_3", "7", "x" * 64])
def test_good_names(recorded: list[Path], name: str) -> None:
    baselines.save(name, [str(recorded[0])])
    assert baselines.names() == [name]


@pytest.mark.parametrize(
    ("content", "error"), [(None, NotFoundError), (b"", RecordingError), (b"x" * 99, RecordingError)]
)
def test_what_is_no_recording_is_refused_and_nothing_is_kept(
    data: Path, tmp_path: Path, recorded: list[Path], content: bytes | None, error: type[FlowprofError]
) -> None:
    file = tmp_path / "x.duckdb"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(error):
        baselines.save("main", [str(recorded[0]), str(file)])
    assert kept(data) == []


def test_an_unknown_one_is_named_with_what_to_do() -> None:
    for does in (baselines.recordings, baselines.remove):
        with pytest.raises(NotFoundError, match="no baseline main") as caught:
            does("main")
        assert "flowprof baseline list" in caught.value.hint


def test_a_folder_that_cannot_be_made(data: Path, recorded: list[Path]) -> None:
    data.parents[1].write_text("a file where the folder would be")
    with pytest.raises(RecordingError, match="cannot keep"):
        baselines.save("main", [str(recorded[0])])
    assert baselines.names() == []


def test_a_relative_data_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert baselines.folder() == tmp_path / ".local" / "share" / "flowprof" / "baselines"


# ---------------------------------------------------------------------- under sudo


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_under_sudo_they_belong_to_whoever_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recorded: list[Path]
) -> None:
    user = pwd.getpwnam("nobody")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, user.pw_uid, user.pw_gid)
    for folder in (tmp_path, *tmp_path.parents[:3], recorded[0].parent, *recorded[0].parent.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    monkeypatch.setenv("SUDO_UID", str(user.pw_uid))
    monkeypatch.setenv("SUDO_GID", str(user.pw_gid))
    (one,) = baselines.save("main", [str(recorded[0])])
    made = [*home.rglob("*")]
    assert one in made and {path.stat().st_uid for path in made} == {user.pw_uid}
    assert (os.geteuid(), os.getegid()) == (0, 0)  # and we are root again

    # A link that they lay into their folder leads root nowhere that they may not go themselves.
    forbidden = tmp_path / "forbidden"
    forbidden.mkdir(mode=0o700)
    (one.parent.parent / "trap").symlink_to(forbidden)
    with pytest.raises(FlowprofError):
        baselines.save("trap", [str(recorded[0])], "add")
    assert not list(forbidden.iterdir())
    secret = tmp_path / "secret.duckdb"
    shutil.copyfile(recorded[1], secret)
    secret.chmod(0o600)
    with pytest.raises(FlowprofError, match="cannot read"):
        baselines.save("theirs", [str(secret)])
    assert baselines.remove("main") == 1


def test_a_user_that_is_not_known_here(monkeypatch: pytest.MonkeyPatch, recorded: list[Path]) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    monkeypatch.setenv("SUDO_UID", "3999999999")
    monkeypatch.setenv("SUDO_GID", "3999999999")
    with pytest.raises(NotFoundError, match="no user"):
        baselines.save("main", [str(recorded[0])])


# ---------------------------------------------------------------------- the verb


def test_the_verb(flowprof, data: Path, recorded: list[Path]) -> None:
    done = flowprof("baseline", "list")
    assert (done.returncode, done.stdout) == (0, "") and "no baselines" in done.stderr
    saved: subprocess.CompletedProcess[str] = flowprof("baseline", "save", "main", *recorded[:2])
    assert (saved.returncode, saved.stdout) == (0, "") and "2 recordings" in saved.stderr
    assert flowprof("baseline", "save", "main", recorded[2]).returncode == 2
    assert "3 recordings" in flowprof("baseline", "save", "main", recorded[2], "--add").stderr
    (data / "main" / "2.duckdb").write_bytes(b"broken")
    listed = flowprof("baseline", "list").stdout.splitlines()
    assert len(listed) == 3 and listed[2].split()[:2] == ["main", "3"] and "testhost" in listed[2]
    shown = flowprof("baseline", "show", "main")
    assert shown.returncode == 0 and str(data / "main") in shown.stdout
    assert [line.split()[0] for line in shown.stdout.splitlines()[4:]] == ["1.duckdb", "2.duckdb", "3.duckdb"]
    assert "unusable" in shown.stdout
    assert flowprof("baseline", "remove", "main").returncode == 0
    assert flowprof("baseline", "show", "main").returncode == 3
    assert flowprof("baseline").returncode == 2
