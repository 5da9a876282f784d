"""`flowprof diff`: its shapes, its exit codes, and what is refused. In CI a refusal must not look like a verdict."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from flowprof.profiler import baselines, cli, store
from flowprof.profiler.diff import compare
from flowprof.profiler.diff.changepoint import ChangePoint
from flowprof.profiler.diff.steps.steps import Steps
from synthetic import Synthetic, write, write_empty

PACKAGED = Path(__file__).parents[2] / "examples" / "recording.duckdb"
LATER = "UPDATE meta SET value = (value::BIGINT + 1000)::VARCHAR WHERE key = 'started_ns';"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`run(argument, …)` → exit code, standard output, standard error."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("FLOWPROF_DEBUG", raising=False)

    def one(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["diff", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err and "internal error" not in err, err
        return code, out, err

    return one


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """normal, again (the same of another run), slow (12 % slower), short."""
    folder = tmp_path_factory.mktemp("recorded")
    for name, seed, factor, requests in (("normal", 1, 1.0, 6), ("again", 2, 1.0, 6), ("slow", 3, 1.12, 6),
                                         ("short", 4, 1.0, 1)):  # fmt: skip
        write(str(folder / f"{name}.duckdb"), Synthetic(
            layers=2, requests=requests, tokens=60 if name != "short" else 4, jitter=0.03, seed=seed,
            slowdown=(factor,) * 3, meta={"boot_id": name},
        ))  # fmt: skip
    return {path.stem: path for path in folder.glob("*.duckdb")}


def changed(source: Path, path: Path, sql: str) -> Path:
    shutil.copyfile(source, path)
    with duckdb.connect(str(path)) as db:
        db.execute(LATER + sql)
    return path


# ---------------------------------------------------------------------- shapes and verdicts


def test_text_json_markdown_and_a_page(run: Run, recorded: dict[str, Path], tmp_path: Path) -> None:
    both = recorded["normal"], recorded["slow"]
    code, out, err = run(*both)
    assert (code, err) == (0, "") and re.search(r"decode became 1[012]\.\d % slower", out) and "MUL_MAT" in out
    code, out, err = run(*both, "--json")
    document = json.loads(out)
    assert (code, err, document["verdict"], document["comparable"]) == (0, "", "slower", True)
    assert document["total_ns_per_token"] == pytest.approx(
        sum(row["delta_ns_per_token"] for row in document["rows"] if row["phase"] == "decode"), rel=1e-6
    )
    code, out, err = run(*both, "--markdown", "--html", tmp_path / "page.html")
    assert (code, err) == (0, "") and out.startswith("### flowprof: decode became")
    page = (tmp_path / "page.html").read_text()
    assert page.lower().lstrip().startswith("<!doctype html") and "exit code" not in page
    assert run(*both, "--gate", "5%", "--html", tmp_path / "page.html")[0] == 3
    page = (tmp_path / "page.html").read_text().replace("\xa0", " ")
    assert "Gate 5.0 %: regression (exit code 3): decode is 1" in page


@pytest.mark.parametrize(
    ("normal", "buggy", "gate", "code", "outcome"),
    [
        ("normal", "slow", "5%", 3, "regression"),
        ("normal", "slow", "50%", 0, "within"),
        ("slow", "normal", "5%", 0, "within"),
        ("normal", "again", "5%", 0, "within"),
        ("normal", "again", "0.001%", 5, "not enough data"),
        ("normal", "short", "5%", 5, "not enough data"),
        ("normal", "normal", "5%", 4, "not comparable"),
    ],
)
def test_the_gate(
    run: Run, recorded: dict[str, Path], normal: str, buggy: str, gate: str, code: int, outcome: str
) -> None:
    found, out, err = run(recorded[normal], recorded[buggy], "--gate", gate, "--json")
    document = json.loads(out)["gate"]
    assert (found, document["outcome"], document["exit_code"], err) == (code, outcome, code, "")


def test_without_a_gate_every_verdict_is_fine(run: Run, recorded: dict[str, Path]) -> None:
    for buggy in ("slow", "short", "normal"):
        assert run(recorded["normal"], recorded[buggy])[0] == 0


def test_several_normal_runs_and_a_baseline_are_the_same(run: Run, recorded: dict[str, Path]) -> None:
    normal = recorded["normal"], recorded["again"]
    _, named, _ = run("--normal", *normal, "--buggy", recorded["slow"], "--json")
    baselines.save("main", [str(path) for path in normal])
    code, against, err = run("--against", "main", recorded["slow"], "--json", "--gate", "5%")
    assert (code, err) == (3, "")
    told, other = json.loads(named), json.loads(against)
    assert len(told["a"]["files"]) == 2
    assert {key: value for key, value in told.items() if key not in ("a", "gate")} == {
        key: value for key, value in other.items() if key not in ("a", "gate")
    }


def test_one_recording_by_itself(run: Run, recorded: dict[str, Path]) -> None:
    code, out, err = run("--self", recorded["normal"])
    assert (code, err) == (0, "") and "Nothing changed while this was recorded" in out
    code, out, _ = run("--self", recorded["normal"], "--gate", "5%")
    assert code == 0 and "within (exit code 0): decode is at most" in " ".join(out.split())
    assert run("--self", recorded["short"], "--gate", "5%")[0] == 5


def test_what_cannot_be_excluded_does_not_pass(run: Run, tmp_path: Path) -> None:
    """A noisy recording whose last third takes 12 % longer: if no change is found, none is excluded either."""
    slow = slower_from(PACKAGED, tmp_path / "slow.duckdb", 0.65, 0.12)
    code, out, _ = run("--self", slow, "--gate", "5%", "--json")
    told = json.loads(out)
    assert code in (3, 5)
    assert told["verdict"] == "slower" or told["halves"][0]["phase"] == "decode"
    assert told["verdict"] == "slower" or "decode became at most" in told["headline"]


def test_a_point_at_which_nothing_changed_says_what_the_whole_holds(
    run: Run, recorded: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = run("--self", recorded["normal"], "--json")
    whole = json.loads(out)

    def in_the_middle(phases: list[Steps]) -> ChangePoint:
        start = int(phases[0].all_start_ns[len(phases[0].all_start_ns) // 2])
        return ChangePoint("decode", start, start, 0.001, 100)

    monkeypatch.setattr(compare, "change_point", in_the_middle)
    _, out, _ = run("--self", recorded["normal"], "--json")
    found = json.loads(out)
    assert (found["verdict"], found["a"], found["b"]) == ("same", whole["a"], whole["b"])
    assert found["a"]["tokens"] == 6 * (100 + 59) and not found["halves"][0]["significant"]


def test_what_was_counted_over_the_whole_is_named(run: Run, recorded: dict[str, Path], tmp_path: Path) -> None:
    file = slower_from(recorded["normal"], tmp_path / "middle.duckdb")
    assert not [note for note in json.loads(run("--self", file, "--json")[1])["notes"] if "counted" in note]
    with duckdb.connect(str(file)) as db:
        db.execute("INSERT INTO neighbour VALUES (900, 'hog', 1000000000, '0-1')")
    (note,) = [note for note in json.loads(run("--self", file, "--json")[1])["notes"] if "counted" in note]
    assert note == "what other programs used: counted over the whole recording, so that they are no causes here"


def slower_from(source: Path, path: Path, begin: float = 0.5, more: float = 1.0) -> Path:
    """Whatever happens after that share of the time takes twice as long, or so much longer."""
    shutil.copyfile(source, path)
    with duckdb.connect(str(path)) as db:
        (span,) = db.execute("SELECT min(start_ns), max(end_ns) FROM graph_exec").fetchall()
        middle = round(span[0] + begin * (span[1] - span[0]))
        for table, columns in (("graph_exec", ("start_ns", "end_ns")), ("probe_window", ("start_ns", "end_ns")),
                               ("op_exec", ("start_ns", "compute_end_ns", "end_ns"))):  # fmt: skip
            later = ", ".join(f"{one} = {one} + ({more} * greatest({one} - {middle}, 0))::BIGINT" for one in columns)
            db.execute(f"UPDATE {table} SET {later}")
    return path


def test_one_recording_that_changed_has_a_page_with_a_step_before_and_one_after(
    run: Run, recorded: dict[str, Path], tmp_path: Path
) -> None:
    file, page = slower_from(recorded["normal"], tmp_path / "middle.duckdb"), tmp_path / "page.html"
    code, out, err = run("--self", file, "--html", page)
    assert (code, err) == (0, "") and "decode became" in out
    text = page.read_text(encoding="utf-8")
    assert "after the recording began: before and after are compared" in text
    said = re.search(r"before: ([\d.]+)\sms for 1 token, the median .*?; after: ([\d.]+)\sms for 1 token", text)
    assert said is not None and float(said[2]) == pytest.approx(2 * float(said[1]), rel=0.05)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["normal"], ["normal", "again", "slow"], ["--normal", "normal"], ["--buggy", "slow"],
        ["--normal", "normal", "--buggy", "slow", "--against", "main"], ["--self", "slow", "normal"],
        ["normal", "--buggy", "slow", "--self", "slow"], ["normal", "slow", "--gate", "0"],
        ["normal", "slow", "--gate", "five"], ["--against", "../x", "slow"], ["--normal", "--buggy", "slow"],
        ["normal", "slow", "--json", "--markdown"], ["normal", "slow", "--html", "slow"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_arguments(run: Run, recorded: dict[str, Path], arguments: list[str]) -> None:
    before = recorded["slow"].read_bytes()
    try:
        code, out, err = run(*(recorded.get(one, one) for one in arguments))
        assert (code, out) == (2, "") and err.startswith("flowprof: ") and "\nhint: " in err
    except SystemExit as leaving:  # argparse's own complaint
        assert leaving.code == 2
    assert recorded["slow"].read_bytes() == before


def test_a_normal_run_before_the_option_is_one(run: Run, recorded: dict[str, Path]) -> None:
    assert run(recorded["normal"], "--buggy", recorded["slow"], "--gate", "5%")[0] == 3


def bad_files(tmp_path: Path, good: Path) -> dict[str, Path]:
    files = {name: tmp_path / f"{name}.duckdb" for name in ("missing", "empty file", "text", "other", "cut", "folder")}
    files["empty file"].write_bytes(b"")
    files["text"].write_text("not a recording at all")
    with duckdb.connect(str(files["other"])) as db:
        db.execute("CREATE TABLE t (x INTEGER)")
    files["cut"].write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    files["folder"].mkdir()
    newer = f"UPDATE meta SET value = '{store.SCHEMA_VERSION + 1}' WHERE key = 'schema_version';"
    files["newer"] = changed(good, tmp_path / "newer.duckdb", newer)
    files["older"] = changed(
        good, tmp_path / "older.duckdb", "UPDATE meta SET value = '0' WHERE key = 'schema_version';"
    )
    files["lacks a table"] = changed(good, tmp_path / "lacks.duckdb", "DROP TABLE graph_exec CASCADE;")
    files["lacks a column"] = changed(good, tmp_path / "column.duckdb", "ALTER TABLE module DROP COLUMN engine;")
    return files


BAD = ("missing", "empty file", "text", "other", "cut", "folder", "newer", "older", "lacks a table", "lacks a column")


@pytest.mark.parametrize("name", BAD)
def test_a_recording_that_cannot_be_read_is_no_verdict(
    run: Run, recorded: dict[str, Path], tmp_path: Path, name: str
) -> None:
    bad = bad_files(tmp_path, recorded["short"])[name]
    for arguments in ([bad, recorded["slow"]], [recorded["normal"], bad], ["--self", bad]):
        code, out, err = run(*arguments, "--gate", "5%")
        assert (code, out) == (6, ""), (arguments, code, err)
        assert err.startswith("flowprof: ") and len(err.splitlines()) <= 2


def test_an_unknown_baseline_is_no_verdict(run: Run, recorded: dict[str, Path]) -> None:
    code, out, err = run("--against", "main", recorded["slow"], "--gate", "5%")
    assert (code, out) == (6, "") and "there is no baseline main" in err and "flowprof baseline list" in err


def test_a_page_that_cannot_be_written(run: Run, recorded: dict[str, Path], tmp_path: Path) -> None:
    both = recorded["normal"], recorded["slow"]
    assert run(*both, "--html", tmp_path / "no" / "x.html")[0] == 6
    assert run(*both, "--html", tmp_path)[0] == 6


# ---------------------------------------------------------------------- odd recordings get an answer


@pytest.mark.parametrize(
    ("sql", "code", "words"),
    [
        ("UPDATE module SET engine = 'torch';", 4, "two engines have no operators in common"),
        ("UPDATE model SET parameters = 7000000000;", 4, "another model does other work"),
        ("INSERT INTO loss VALUES (0, 'ring', 10000000);", 4, "is missing, and rarely evenly"),
        ("UPDATE graph SET phase = 'other';", 4, "no phase ran on both sides"),
        ("UPDATE meta SET value = 'Other CPU' WHERE key = 'cpu_model';", 4, "two models of processor"),
        ("UPDATE meta SET value = 'aarch64' WHERE key = 'arch';", 4, "another instruction set"),
        ("DELETE FROM graph_exec; DELETE FROM op_exec;", 5, "no phase ran on both sides"),
        ("UPDATE graph SET described = false; DELETE FROM graph_node; DELETE FROM op_exec;", 3, "decode is 1"),
        ("DELETE FROM op_exec;", 3, "decode is 1"),
    ],
)
def test_odd_recordings(run: Run, recorded: dict[str, Path], tmp_path: Path, sql: str, code: int, words: str) -> None:
    odd = changed(recorded["slow"], tmp_path / "odd.duckdb", sql)
    for shape in ([], ["--markdown"], ["--json"]):
        found, out, err = run(recorded["normal"], odd, "--gate", "5%", *shape)
        assert (found, err) == (code, ""), out
        assert words in " ".join(out.split()), out
    told = json.loads(out)
    assert told["comparable"] == (code != 4) == (told["comparability"]["score"] > 0)
    assert (told["verdict"] == "not comparable") == (code == 4)


def test_an_empty_recording(run: Run, recorded: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.duckdb"
    write_empty(str(empty))
    for arguments in ([recorded["normal"], empty], [empty, recorded["normal"]], [empty, empty], ["--self", empty]):
        code, out, err = run(*arguments, "--gate", "5%")
        assert (code, err) == (5, "") and "not enough data" in out, out


def test_a_recording_of_an_older_flowprof(run: Run, recorded: dict[str, Path], tmp_path: Path) -> None:
    """Schema 2, from a real server: against another model it is refused, against itself later it is the same."""
    code, out, _ = run(recorded["normal"], PACKAGED, "--gate", "5%")
    assert code == 4 and "another model" in out
    later = changed(PACKAGED, tmp_path / "later.duckdb", "")
    code, out, err = run(PACKAGED, later, "--gate", "25%")
    assert (code, err) == (0, ""), out
    assert "did not change" in out


def test_the_codes_are_in_the_help_and_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["diff", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for words in ("0 within", "3 a regression", "4 not comparable", "5 not enough data", "leave with 6"):
        assert words in told
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert re.search(r"`diff --gate`.*3.*4.*5", readme, re.S)
