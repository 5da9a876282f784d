"""`flowprof run`: scripts, late engines, exit codes, users, signals and full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flowprof.examples import synthetic_model
from recorded import read
from under_way import until

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]


def test_run_a_script_that_becomes_the_program(toy_files, flowprof, tmp_path: Path) -> None:
    script = tmp_path / "start.sh"
    script.write_text(f'#!/bin/sh\nsleep 0.2\nexec {toy_files[0]} "$1"\n')
    script.chmod(0o755)
    talk = tmp_path / "talk"
    talk.write_text("call 23\nexit 7\n")
    with open(talk) as words:
        done = flowprof("run", "-o", "x.duckdb", "--json", "--", script, toy_files[1][0], stdin=words)
    assert done.returncode == 7, done.stderr
    # A script of 23 calls is over before anybody can look: the program is found, or the recording is empty, and ends.
    assert json.loads(done.stdout[done.stdout.index("{") :])["schema_version"] == 1


@pytest.mark.engine
def test_run_python_that_loads_the_engine_late(flowprof, tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text(
        "import sys, time, subprocess, urllib.request, json\n"
        "time.sleep(0.3)\n"
        "from flowprof.examples import load\n"
        "import xllamacpp\n"
        "params = xllamacpp.CommonParams()\n"
        "params.model.path, params.hostnames, params.port = sys.argv[1], ['127.0.0.1'], 0\n"
        "params.cpuparams_batch.n_threads = 1\n"
        "params.cpuparams.n_threads, params.n_gpu_layers, params.n_ctx, params.n_parallel = 1, 0, 512, 1\n"
        "params.fit_params = params.ui = False\n"
        "params.warmup = True\n"
        "server = xllamacpp.Server(params)\n"
        "for _ in range(1000):\n"
        "    try:\n"
        "        urllib.request.urlopen(server.listening_address + '/health')\n"
        "        break\n"
        "    except OSError:\n"
        "        time.sleep(0.02)\n"
        "time.sleep(1)\n"
        "answers = load.run(server.listening_address, requests=3, n_predict=32, prompt_tokens=8)\n"
        "print(sum(a.predicted_n for a in answers), flush=True)\n"
        "import os; os._exit(3)\n"
    )
    model = synthetic_model.write("tiny")
    done = flowprof("run", "-o", "x.duckdb", "-q", "--", sys.executable, script, model)
    assert done.returncode == 3, done.stderr
    sql = "SELECT sum(outputs), count(*) FROM graph_exec JOIN graph USING (graph_id)"
    outputs, count = read(tmp_path / "x.duckdb", sql)[0]
    assert int(done.stdout) == 96 and count >= 96, "an execution is missing"
    assert outputs > 48, "graphs are not described"  # those that run before the first has been read stay undescribed
    meta = dict(read(tmp_path / "x.duckdb", "SELECT key, value FROM meta"))
    assert "op: operator hook" in meta["rung"]
    assert "late.py" in read(tmp_path / "x.duckdb", "SELECT cmdline FROM process")[0][0]


@pytest.mark.parametrize(
    ("command", "code"), [(["true"], 0), (["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137)]
)
def test_run_has_the_exit_code_of_the_command(flowprof, tmp_path: Path, command: list[str], code: int) -> None:
    done = flowprof("run", "-o", "x.duckdb", "--", *command)
    assert done.returncode == code, done.stderr
    assert "No graph was executed" in done.stdout and "the target ended" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_as_the_invoking_user(flowprof, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    done = flowprof(
        "run", "-o", "x.duckdb", "-q", "--", "sh", "-c", "id -u; id -g; id -G; echo $USER",
        env={"SUDO_UID": "65534", "SUDO_GID": "65534"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["65534", "65534", "65534", "nobody"]
    owner = (tmp_path / "x.duckdb").stat()
    assert (owner.st_uid, owner.st_gid) == (65534, 65534)
    assert read(tmp_path / "x.duckdb", "SELECT uid FROM process") == [(65534,)]


@pytest.mark.parametrize("how", ["INT to the group", "TERM to flowprof", "HUP to flowprof"])
def test_run_is_ended_with_its_command(start, tmp_path: Path, how: str) -> None:
    name = how.split()[0]
    script = f"trap 'echo got {name}; exit 9' {name}; echo $$; while :; do sleep 0.1; done"
    recording = start("run", "-o", "x.duckdb", "--", "sh", "-c", script).until()
    time.sleep(0.5)
    number = getattr(signal, f"SIG{name}")
    (os.killpg if "group" in how else os.kill)(recording.process.pid, number)
    assert recording.end() == 9, recording.said
    assert f"got {name}" in recording.printed
    assert dict(read(tmp_path / "x.duckdb", "SELECT key, value FROM meta"))["clean_end"] == "yes"


def test_run_is_killed(start, tmp_path: Path) -> None:
    """The command goes on when flowprof dies."""
    recording = start("run", "-o", "x.duckdb", "--", "sh", "-c", "echo $$ > pid; sleep 1.5; echo > survived").until()
    time.sleep(0.3)
    recording.process.kill()
    until((tmp_path / "survived").exists)


def test_run_on_a_full_disk(start, tmp_path: Path) -> None:
    """Where nothing can be recorded the command does not begin."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "flowprof-test", disk], check=True)
    try:
        recording = start("run", "-o", disk / "x.duckdb", "--", "touch", "begun")
        assert recording.end() == 6, recording.said
        assert not list(disk.iterdir()) and not (tmp_path / "begun").exists()
    finally:
        subprocess.run(["umount", disk], check=True)
