"""Record a real llama-server on a synthetic model, and show the report.

Measures this machine's ceilings once, writes the model into a cache folder, starts a llama-server on the loopback
interface under load, attaches to it for some seconds, prints the report, writes the recording and an HTML page, and
stops the server. Where eBPF cannot run it says why and shows the recording that comes with flowprof instead.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flowprof.profiler.errors import BpfError, FlowprofError, NotFoundError, PermissionDeniedError
from flowprof.profiler.messages import printable, say

if TYPE_CHECKING:
    from subprocess import Popen

    from flowprof.examples.llama_server import RunningServer
    from flowprof.examples.load import Answer

NAME = "demo"
PACKAGED = Path(__file__).resolve().parents[2] / "examples" / "recording.duckdb"
SERVER_THREADS = 2
PROMPT_TOKENS, GENERATED_TOKENS = 128, 128


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--duration", default="8s", help="how long to record (default: 8s)")
    parser.add_argument(
        "--model",
        default="dense-150m",
        choices=("tiny", "dense-150m", "dense-1b", "moe"),
        help="the synthetic model (default: dense-150m)",
    )
    parser.add_argument("-o", "--output", default="demo.duckdb", metavar="FILE", help="default: demo.duckdb")
    parser.add_argument("--html", default="demo.html", metavar="FILE", help="default: demo.html")
    parser.add_argument("--packaged", action="store_true", help="do not record: show the recording that comes along")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler import cli, durations

    durations.seconds(asked.duration)  # a bad one is told before the work begins
    obstacle = "asked for by --packaged" if asked.packaged else _obstacle()
    if not obstacle:
        code = _record(asked)
        if code in (BpfError.exit_code, PermissionDeniedError.exit_code):
            obstacle = "recording failed as said above"
        elif code:
            return code
    reports = [["report", asked.output, "--html", asked.html]]
    if obstacle:
        _use_packaged(obstacle, asked.output)
        reports.insert(0, ["report", asked.output])  # `attach` has shown its own
    for arguments in reports:
        code = cli.main(arguments)
        if code:
            return code
    say(f"the recording: {asked.output}    the page: {asked.html}")
    say(f"more: flowprof query {asked.output} 'SHOW ALL TABLES'")
    return 0


def _obstacle() -> str:
    """Why nothing can be recorded here; empty when it can."""
    from flowprof.profiler import doctor

    try:
        import gguf  # noqa: F401 (is it there?)
        import xllamacpp  # noqa: F401 (is it there?)
    except ModuleNotFoundError as error:
        return f"the demo's engine is not installed ({error.name}); it comes with: pip install 'flowprof[demo]'"
    except ImportError as error:  # a library of the system is missing; the text names it
        return f"the demo's engine cannot be loaded: {error}; make setup installs what it needs"
    failed = doctor.failures(doctor.host())
    return "; ".join(f"{check.name}: {check.found} -> {check.remedy}" for check in failed)


def _record(asked: argparse.Namespace) -> int:
    """Server, load and `flowprof attach` as a user would run it; returns the exit code of attach."""
    import subprocess

    from flowprof.examples import llama_server, synthetic_model

    _calibrate()
    say(f"writing the synthetic model {asked.model} (once, into the cache) …")
    try:
        model = synthetic_model.write(asked.model)
        say("starting llama-server …")
        server = llama_server.start(model, threads=SERVER_THREADS)
    except (OSError, llama_server.ServerFailedError) as error:
        raise FlowprofError(f"the demo's engine does not start: {error}", "flowprof demo --packaged") from error
    with server, _under_load(server) as answers:
        command = ["attach", str(server.pid), "-d", asked.duration, "-o", asked.output, "-f"]
        say(f"$ flowprof {' '.join(command)}")
        code = _finish(subprocess.Popen([sys.executable, "-m", "flowprof.profiler.cli", *command]))
    if answers:
        rate = sum(a.predicted_n - 1 for a in answers) / sum(a.predicted_ms for a in answers) * 1e3
        say(f"the server's own account of its {len(answers)} requests: {rate:.1f} decoded tokens/s")
    return code


def _calibrate() -> None:
    """The machine's ceilings, unless they are known: without them there are no verdicts."""
    from flowprof.profiler.machine import calibrate, ceilings_file

    known = ceilings_file.valid()
    wanted = calibrate.open_counts(known, (1, SERVER_THREADS))
    if wanted:
        say("measuring what this machine can do at most, once (flowprof calibrate) …")
        measured = calibrate.measure(wanted)
        ceilings_file.save(measured if known is None else known.merged(measured), ceilings_file.cache_file())


def _finish(recorder: Popen[bytes]) -> int:
    """Wait for the end of the recording. Ctrl-C reaches the recorder as well, and ends the recording, not the demo."""
    while True:
        try:
            return recorder.wait()
        except KeyboardInterrupt:
            say("ending the recording …")


@contextmanager
def _under_load(server: RunningServer) -> Iterator[list[Answer]]:
    """One request after the other in the background; the answers are there when the block has ended."""
    from flowprof.examples import load

    answers: list[Answer] = []
    stop = threading.Event()

    def send() -> None:
        try:
            answers.extend(load.run(server.url, n_predict=GENERATED_TOKENS, prompt_tokens=PROMPT_TOKENS, stop=stop))
        except (OSError, ValueError) as error:
            say(f"the load ended early: {error}")

    client = threading.Thread(target=send)
    client.start()
    try:
        yield answers
    finally:
        stop.set()
        client.join()


def _use_packaged(obstacle: str, output: str) -> None:
    import shutil

    say(f"nothing is recorded here: {printable(obstacle)}")
    if not PACKAGED.is_file():
        raise NotFoundError(f"the packaged recording {PACKAGED} is missing", "install flowprof from its repository")
    say("what follows is the recording that comes with flowprof, of another machine")
    try:
        shutil.copyfile(PACKAGED, output)
    except OSError as error:
        raise FlowprofError(f"cannot write {output}: {error.strerror}", "name another file with -o FILE") from error
