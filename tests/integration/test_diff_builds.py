"""An older and a newer build of the same engine, from PyPI, on the same model: what differs, block by block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.examples import load, synthetic_model
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.side import open_pair
from recorded import read
from undisturbed import DISTURBED, recorded
from wheels import wheel

pytestmark = [pytest.mark.bpf, pytest.mark.engine]

OLDER = "xllamacpp==2026.7.9873"
TOKENS = 60


def record(server: Callable[..., RunningServer], path: Path, *wrapper: str) -> Path:
    target = server(synthetic_model.write("dense-150m"), wrapper=wrapper)
    with recorded(target, path, "op", levels=("token", "graph", "op")):
        load.request(target.url, n_predict=TOKENS, prompt_tokens=64)
    target.stop()
    return path


@DISTURBED
def test_two_builds_block_by_block(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    folder = wheel(OLDER, member="")
    older = record(server, tmp_path / "older.duckdb", "env", f"PYTHONPATH={folder}")
    newer = record(server, tmp_path / "newer.duckdb")
    builds = [{build for (build,) in read(path, "SELECT build_id FROM module WHERE engine = 'ggml'")}
              for path in (older, newer)]  # fmt: skip
    assert builds[0] and builds[1] and not builds[0] & builds[1], "they are two builds"
    with open_pair([str(older)], str(newer)) as pair:
        found = compare(pair)
    print(found.headline, *found.comparability.differences[:6], *found.causes, *found.rows[:12], sep="\n")
    assert found.verdict in ("slower", "faster", "same")
    (build,) = [one for one in found.comparability.differences if one.what == "engine build"]
    assert build.sameness == "different"
    decode = next(phase for phase in found.phases if phase.phase == "decode")
    rows = [row for row in found.rows if row.phase == "decode"]
    blocks: dict[str, float] = defaultdict(float)
    for row in rows:
        blocks[row.block] += row.delta_ns_per_token
    print(dict(blocks))
    assert {"attention", "ffn", "output"} <= set(blocks)
    assert sum(blocks.values()) == pytest.approx(decode.delta_ns_per_token, abs=1), "blocks add up to the change"
    both = [row for row in rows if row.a_ns_per_token is not None and row.b_ns_per_token is not None]
    known = sum(row.a_ns_per_token or 0.0 for row in both) / decode.a_ns_per_token
    assert known > 0.9, "operators of one build find their likes in the other"
