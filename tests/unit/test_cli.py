"""The command line's manners: help, exit codes, streams, and what users do to it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from flowprof.profiler import cli, durations
from flowprof.profiler.errors import FlowprofError, RecordingError, UsageError

ENTRY = [sys.executable, "-m", "flowprof.profiler.cli"]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Put a verb `try` into the command line that does what the test wants."""

    def put(action) -> None:
        class Try:
            """Try."""

            NAME = "try"
            arguments = staticmethod(lambda parser: None)
            run = staticmethod(lambda asked: action())

        monkeypatch.setattr(cli, "VERBS", (Try,))

    return put


def raises(error: BaseException):
    def action() -> int:
        raise error

    return action


def test_every_verb_has_help_and_is_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for one in cli.VERBS:
        with pytest.raises(SystemExit) as leaving:
            cli.main([one.NAME, "--help"])
        assert leaving.value.code == 0
        text = capsys.readouterr().out
        assert (one.__doc__ or "").splitlines()[0] in text
        assert f"flowprof {one.NAME}" in readme, f"{one.NAME} is not in the README"


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from flowprof.profiler import cli; cli.parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert not {"numpy", "pandas", "duckdb", "rich", "plotly", "capstone", "psutil", "bcc"} & set(loaded)


def test_exit_codes_are_in_the_help_and_in_the_readme() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    codes = {cls.exit_code for cls in FlowprofError.__subclasses__()} | {0, 1, 130}
    for code in codes:
        assert re.search(rf"\b{code} ", cli.EXIT_CODES.replace("\n", " "))
        assert re.search(rf"^\| {code} \|", readme, re.M), f"exit code {code} is not in the README's table"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RecordingError("No room.", "rm something"), 6, "flowprof: No room.\nhint: rm something\n"),
        (FlowprofError("Evil \x1b[2Jname"), 1, "flowprof: Evil \\x1b[2Jname\n"),
        (KeyboardInterrupt(), 130, "flowprof: interrupted\n"),
    ],
)
def test_errors(verb, capsys, error: BaseException, code: int, said: str) -> None:
    verb(raises(error))
    assert cli.main(["try"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", said)


def test_a_bug_is_one_line(verb, capsys, monkeypatch) -> None:
    monkeypatch.delenv("FLOWPROF_DEBUG", raising=False)
    verb(raises(ZeroDivisionError("division by zero")))
    assert cli.main(["try"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err and "Traceback" not in err and "FLOWPROF_DEBUG=1" in err
    monkeypatch.setenv("FLOWPROF_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


@pytest.mark.parametrize("arguments", [[], ["no-such-verb"], ["report"], ["query", "x"], ["doctor", "--pid", "x"]])
def test_wrong_arguments(flowprof, arguments: list[str]) -> None:
    done = flowprof(*arguments)
    assert done.returncode == 2
    assert done.stdout == "" and "usage: flowprof" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("verb_name", ["report", "query"])
@pytest.mark.parametrize(("content", "code"), [(None, 3), (b"", 6), (b"not a recording at all", 6)])
def test_bad_files(flowprof, tmp_path: Path, verb_name: str, content: bytes | None, code: int) -> None:
    file = tmp_path / "x.duckdb"
    if content is not None:
        file.write_bytes(content)
    done = flowprof(verb_name, file, *(["SELECT 1"] if verb_name == "query" else []))
    assert done.returncode == code
    assert done.stdout == "" and done.stderr.startswith("flowprof: ") and "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    script = (
        "import sys; from flowprof.profiler import cli\n"
        "class Long:\n"
        "    'Long.'\n"
        "    NAME = 'long'\n"
        "    arguments = staticmethod(lambda parser: None)\n"
        "    run = staticmethod(lambda asked: [sys.stdout.write('x' * 1000 + chr(10)) for _ in range(10000)] and 0)\n"
        "cli.VERBS = (Long,)\n"
        "sys.exit(cli.main(['long']))\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.read(10)
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait() == 0


def test_interrupt_is_clean() -> None:
    script = (
        "import time; from flowprof.profiler import cli\n"
        "class Wait:\n"
        "    'Wait.'\n"
        "    NAME = 'wait'\n"
        "    arguments = staticmethod(lambda parser: None)\n"
        "    run = staticmethod(lambda asked: print('ready', flush=True) or time.sleep(60))\n"
        "cli.VERBS = (Wait,)\n"
        "raise SystemExit(cli.main(['wait']))\n"
    )
    waiting = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert waiting.stdout is not None
    waiting.stdout.readline()
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=10)
    assert (waiting.returncode, err) == (130, b"flowprof: interrupted\n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("2m", 120), ("500ms", 0.5), ("7", 7), ("1.5", 1.5), ("1h", 3600), (" 3 S ", 3), (".5s", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert durations.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "abc", "-3s", "0", "0ms", "1d", "3 s s", "1e9", "nan", "inf", "9" * 12, "１s", "1:30"]
)
def test_bad_durations(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        durations.seconds(text)
    assert caught.value.hint
