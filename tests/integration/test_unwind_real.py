"""Stacks of real programs' threads, against gdb's: CPython with its libraries, a llama-server at work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from flowprof.examples import load
from flowprof.profiler.binaries.module_code import code_of
from flowprof.profiler.binaries.unwind import Frame, Registers, unwind
from flowprof.profiler.target import modules_of

pytestmark = [pytest.mark.skipif(not shutil.which("gdb"), reason="needs gdb"), pytest.mark.parallel]

PYTHON = """
import queue, re, socket, threading, time
listening = socket.create_server(("127.0.0.1", 0))
for work in (queue.Queue().get, listening.accept, lambda: sorted([3, 2, 1], key=lambda _: time.sleep(100)),
             lambda: re.sub("a", lambda _: time.sleep(100), "aaa")):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.5)
print("ready", flush=True)
time.sleep(100)
"""


def pc(frame: Frame, innermost: bool) -> int:
    """Where the frame goes on, in the process."""
    elf = code_of(frame.module).elf
    assert elf is not None
    offset = elf.file_offset(frame.address)
    [mapping] = [m for m in frame.module.mappings if m.offset <= offset < m.offset + m.end - m.start]
    return offset - mapping.offset + mapping.start + (not innermost)


def compared(pid: int, folder: Path) -> tuple[int, int]:
    """Threads and frames that are as gdb says. A stack that ends before gdb's is cut, and nothing in it is made up."""
    told, script = folder / "stacks.json", Path(__file__).with_name("gdb_stacks.py")
    command: Sequence[object] = ["gdb", "-q", "-batch", "-p", pid, "-x", script]
    subprocess.run(
        [str(word) for word in command], env={**os.environ, "STACKS": str(told)}, capture_output=True, check=True
    )
    modules = modules_of(pid)
    frames = 0
    stacks = json.loads(told.read_text())
    for one in stacks:
        found = unwind(Registers(*one["registers"]), bytes.fromhex(one["stack"]), modules)
        own = [pc(frame, i == 0) for i, frame in enumerate(found)]
        assert own == one["pcs"][: len(own)]
        frames += len(own)
    return len(stacks), frames


def test_threads_of_python(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PYTHON], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stdout.readline()
            threads, frames = compared(process.pid, tmp_path)
        finally:
            process.kill()
    assert threads == 5 and frames > 50


def test_threads_of_a_llama_server(own_server, tmp_path: Path) -> None:
    server, stop = own_server("tiny"), threading.Event()
    client = threading.Thread(target=load.run, args=(server.url,), kwargs={"n_predict": 64, "stop": stop})
    client.start()
    try:
        threads, frames = compared(server.pid, tmp_path)
    finally:
        stop.set()
        client.join()
    assert threads > 3 and frames > 30
