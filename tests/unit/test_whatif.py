"""Amdahl's ceilings, against the synthetic recording's known times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flowprof.profiler import cli
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.store import Recording
from flowprof.profiler.whatif.change import Change, read_change
from flowprof.profiler.whatif.operators import Gain, whatif
from synthetic import LAYER_OPS, Synthetic, write, write_empty


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("whatif") / "a.duckdb")
    write(path, Synthetic(layers=22, jitter=0.0))
    return path


def gains(path: str, *changes: str) -> dict[str, Gain]:
    with Recording.open(path) as recording:
        found = whatif(recording, [read_change(*change.split(" ", 1)) for change in changes])
    return {gain.phase: gain for gain in found}


def layer_ns(*, op: str = "", names: tuple[str, ...] = (), block: str = "") -> int:
    """Base time of a layer's operators that are chosen so."""
    return sum(
        ns for kind, name, part, ns, _ in LAYER_OPS
        if (kind == op if op else name in names if names else part == block)
    )  # fmt: skip


def test_shares_are_the_known_ones(path: str) -> None:
    """The graph's own time has a little more than its layers: shares are taken relative to each other."""
    decode = gains(path, "op ffn_*=2x", "op kq*=2x", "op Rope=2x")["decode"]
    ffn, kq, rope = decode.shares
    assert ffn / kq == pytest.approx(
        layer_ns(names=("ffn_gate", "ffn_up", "ffn_out", "ffn_swiglu", "ffn_inp")) /
        layer_ns(names=("kq", "kq_soft_max", "kqv", "kqv_out")), rel=1e-3,
    )  # fmt: skip
    assert rope / kq == pytest.approx(
        layer_ns(op="ROPE") / layer_ns(names=("kq", "kq_soft_max", "kqv", "kqv_out")), rel=1e-3
    )


def test_attn_is_what_reads_the_cache(path: str) -> None:
    assert gains(path, "op attn=2x")["decode"].shares == gains(path, "op kq*=2x")["decode"].shares


def test_amdahl(path: str) -> None:
    decode = gains(path, "block ffn=4x", "block attention=0.5x")["decode"]
    ffn, attention = decode.shares
    assert 0.5 < ffn < 0.7 and 0.2 < attention < 0.4
    assert decode.speedup == pytest.approx(1 / (1 - ffn - attention + ffn / 4 + attention / 0.5))
    assert decode.gap_ns is not None and decode.gap_ns >= 0
    gap = decode.gap_ns
    after = decode.step_ns / decode.speedup + gap
    assert decode.end_to_end == pytest.approx((decode.step_ns + gap) / after)


def test_a_published_pair() -> None:
    """7.29x attention and 1.58x end to end belong to f = 0.425."""
    f = 0.425
    assert 1 / (1 - f + f / 7.29) == pytest.approx(1.58, abs=0.005)


def test_all_phases_and_as_json(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["whatif", path, "--op", "mul_mat=1000000x", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {phase["phase"] for phase in told["phases"]} <= {"prefill", "decode"}
    decode = next(phase for phase in told["phases"] if phase["phase"] == "decode")
    assert decode["speedup"] == pytest.approx(1 / (1 - decode["f"]), rel=1e-3)
    assert told["changes"] == [{"kind": "op", "pattern": "mul_mat", "factor": 1e6}]
    assert cli.main(["whatif", path, "--op", "mul_mat=2x"]) == 0
    assert "decode: at most" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ((), 2, "what would be faster"),
        (("--op", "attn"), 2, "is no change"),
        (("--op", "attn=0x"), 2, "is no speed-up"),
        (("--op", "attn=1.2.3x"), 2, "is no speed-up"),
        (("--op", "attn=-2x"), 2, "is no change"),
        (("--op", "attn=1e99x"), 2, "is no speed-up"),
        (("--op", "x" * 200 + "=2x"), 2, "is no change"),
        (("--op", "foo=2x"), 3, "no operator 'foo'"),
        (("--block", "foo=2x"), 3, "there are"),
        (("--op", "attn=2x", "--block", "attention=2x"), 2, "both choose"),
        (("--op", "MUL_MAT=2x", "--op", "ffn_up=2x"), 2, "both choose"),
    ],
)
def test_what_it_refuses(
    path: str, capsys: pytest.CaptureFixture[str], changes: tuple[str, ...], code: int, words: str
) -> None:
    assert cli.main(["whatif", path, *changes]) == code
    told = capsys.readouterr()
    assert words in told.err and not told.out


def test_recordings_that_cannot_carry_it(tmp_path: Path) -> None:
    write_empty(str(tmp_path / "empty.duckdb"))
    write(str(tmp_path / "lost.duckdb"), Synthetic(layers=2, losses=10**6))
    write(str(tmp_path / "short.duckdb"), Synthetic(layers=2, requests=1, tokens=2, cycle=("op",)))
    for name, words in (("empty", "no graph was executed"), ("lost", "events were lost"), ("short", "measured graphs")):
        with Recording.open(str(tmp_path / f"{name}.duckdb")) as recording:
            with pytest.raises(FlowprofError, match=words) as caught:
                whatif(recording, [Change("op", "*", 2.0)])
            assert caught.value.exit_code == 5
