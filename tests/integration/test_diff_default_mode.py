"""As a user does it: three recordings by the command line in its default mode, and a diff of them.

Deep windows come and go there, for one per cent of the target's time: what is planted must be named from a few hundred
operators' times, and from tokens that were not looked into.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from flowprof.examples import load
from flowprof.examples.hog import running as hog
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler import cli
from recorded import read
from undisturbed import CPUS, DISTURBED

pytestmark = [DISTURBED, pytest.mark.bpf, pytest.mark.engine]

SECONDS = 10


def attached(server: RunningServer, path: Path, plant: AbstractContextManager[object]) -> None:
    """The recording of a server that is asked all the while."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            load.request(server.url, n_predict=120, prompt_tokens=16)

    client = threading.Thread(target=ask)
    client.start()
    try:
        with plant:
            command = [sys.executable, "-m", "flowprof.profiler.cli", "attach", str(server.pid)]
            command += ["-d", f"{SECONDS}s", "-o", str(path), "--quiet"]
            subprocess.run(command, timeout=120, check=True)
    finally:
        over.set()
        client.join()


def test_the_first_cause_in_the_default_mode(
    quiet_server: Callable[..., RunningServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    normal, hogged, single = (tmp_path / f"{name}.duckdb" for name in ("normal", "hogged", "single"))
    server = quiet_server("dense-150m")
    attached(server, normal, nullcontext())
    attached(server, hogged, hog(CPUS[1], 20, 20))
    server.stop()
    attached(quiet_server("dense-150m", threads=1), single, nullcontext())

    def first(other: Path) -> dict[str, Any]:
        capsys.readouterr()
        assert cli.main(["diff", str(normal), str(other), "--gate", "10%", "--json"]) == 3
        found = json.loads(capsys.readouterr().out)
        print(found["headline"], *found["causes"], sep="\n")  # shown when the test fails
        assert found["verdict"] == "slower" and found["comparability"]["verdict"] != "not comparable"
        assert found["phases"][0]["phase"] in ("decode", "inter-token latency")
        assert "probe levels" in found["same"]
        cause: dict[str, Any] = found["causes"][0]
        assert cause["share"] is not None and cause["share"] > 0.5
        return cause

    meta = dict(read(normal, "SELECT key, value FROM meta"))
    assert server.model.stat().st_size < int(meta["resident_bytes"]) >= int(meta["huge_bytes"]) >= 0
    assert 0 <= float(meta["steal"]) < 1, "what the machine did meanwhile"
    assert first(single)["claim"] == "One thread fewer computes decode: 2 → 1"
    claim = first(hogged)["claim"]  # with its number where it was seen to use a processor, not to be the next one
    assert re.fullmatch(r"planted-hog( \(\d+\))? takes the engine's processors", claim)
