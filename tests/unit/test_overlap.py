"""NanoFlow's analysis from a model's card: the paper's own figures, and hand-computed prices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flowprof.profiler import cli
from flowprof.profiler.errors import FlowprofError, NotFoundError, UsageError
from flowprof.profiler.overlap import cards, interference, measure, operators, price

# arXiv 2408.12757, table 2: GFLOP, memory GB, network GB, T_comp, T_mem, T_net, measured (ms), what bounds it
TABLE_2 = {
    "KQV": (27487.8, 19.5, 0, 11.01, 1.22, 0, 16.08, "compute"),
    "O": (21990.2, 16.1, 0, 8.81, 1.01, 0, 16.01, "compute"),
    "UG": (153931.6, 96.6, 0, 61.67, 6.04, 0, 69.92, "compute"),
    "D": (76965.8, 49.7, 0, 30.84, 3.11, 0, 34.96, "compute"),
    "DecAttn": (3665.9, 462.2, 0, 1.47, 28.89, 0, 35.60, "memory"),
    "PfAttn": (916.3, 2.1, 0, 0.37, 0.13, 0, 4.56, "launch"),
    "Net": (18.8, 75.2, 75.2, 0.01, 4.70, 31.33, 47.92, "network"),
}
MEASURED = {name: row[6] / 1e3 for name, row in TABLE_2.items()}


def of_the_paper(batch: int = 2048, **options: object) -> list[operators.Operator]:
    card, gpus = cards.model("llama2-70b"), cards.gpus("8xA100")
    return operators.operators(card, gpus, operators.Workload(batch), **options)


@pytest.mark.parametrize("name", TABLE_2)
def test_table_2(name: str) -> None:
    gflop, memory_gb, net_gb, compute, memory, net, measured, kind = TABLE_2[name]
    found = {one.name: one for one in of_the_paper(measured_s=MEASURED)}
    one = found[name]
    # The paper prints one or two decimals; its 2.1 GB of PfAttn are 2.01 by its own formula for attention. With the new
    # keys and values written in attention, too (they are KQV's result already), DecAttn has 462.16, but PfAttn 2.24,
    # and 0.14 ms where 0.13 are printed.
    assert one.flops / 1e9 == pytest.approx(gflop, rel=0.01)
    assert one.memory_bytes / 1e9 == pytest.approx(memory_gb, rel=0.045 if name == "PfAttn" else 0.01)
    assert one.net_bytes / 1e9 == pytest.approx(net_gb, rel=0.01)
    assert one.compute_s * 1e3 == pytest.approx(compute, rel=0.01, abs=0.005)
    assert one.memory_s * 1e3 == pytest.approx(memory, rel=0.01, abs=0.005)
    assert one.net_s * 1e3 == pytest.approx(net, rel=0.01)
    assert (one.measured_s, one.kind) == (measured / 1e3, kind)
    assert set(found) == set(TABLE_2)


@pytest.mark.parametrize("name", TABLE_2)
def test_classes_need_no_measurement(name: str) -> None:
    found = {one.name: one for one in of_the_paper()}
    assert found[name].kind == TABLE_2[name][-1]


def test_what_is_too_small_for_a_launch() -> None:
    """Least times a layer at a batch of 1, by hand: of O the weights, 8192² · 2 bytes at 8 · 2 TB/s, take 8.4 µs; of
    DecAttn (context 1024; 2/3 of a token) 2 · 2/3 · (1024 · 1024 + 8192) · 2 bytes take 0.18 µs."""
    kinds = {one.name: one.kind for one in of_the_paper(1)}
    assert kinds == {"KQV": "memory", "O": "memory", "UG": "memory", "D": "memory",
                     "DecAttn": "launch", "PfAttn": "launch", "Net": "launch"}  # fmt: skip
    measured = {one.name: one.kind for one in of_the_paper(measured_s={"PfAttn": 0.5e-3})}
    assert measured["PfAttn"] == "compute", "a measured time shows what bounds it"


def test_optimum() -> None:
    card = cards.model("llama2-70b")
    assert round(operators.optimum(card, 260e12)) == 1857
    assert round(operators.optimum(card, 280e12)) == 2000


def test_what_overlap_is_worth_on_table_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    measured = tmp_path / "measured.toml"
    measured.write_text("".join(f"{name} = {row[6]}\n" for name, row in TABLE_2.items()))
    command = ["overlap", "--model", "llama2-70b", "--gpus", "8xA100", "--batch", "2048", "--measured", str(measured)]
    assert cli.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["serial_ns"] / 1e6 == pytest.approx(225.05)
    (one,) = told["overlap"]
    assert one["kind"] == "split-only" and one["what"] == ["memory", "network"]
    assert one["exposed_ns"] / 1e6 == pytest.approx(47.92 + 35.60)
    assert told["serial_ns"] / (told["serial_ns"] - one["ideal_ns"]) == pytest.approx(1.59, abs=0.005)
    assert 175 <= (told["serial_ns"] - one["aware_ns"]) / 1e6 <= 179
    assert one["net_ns"] == one["aware_ns"] - one["split_ns"] and one["split_ns"] == 0, "GEMMs stay bound by compute"
    assert told["t_r"] == pytest.approx(80e9 * 8 / (8 * 2000e9) / (2 * 2048 * 70e9 / (8 * 312e12)))
    assert told["peak_source"].startswith("data sheet")
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert told["step_limit"]["resource"] == "compute" and "at most" not in text
    assert "1.59x as fast" in text and "1.27x as fast" in text and "launch: so little work" in text
    assert max(map(len, text.splitlines())) <= 80


def test_one_user_needs_no_nano_batches(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["overlap", "--model", "llama2-70b", "--gpus", "8xA100", "--batch", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["overlap"] == [] and "memory is the scarce resource" in told["no_overlap"] and told["t_r"] > 1
    assert "bound by arithmetic" in told["no_overlap"] and "read the weights twice" in told["no_overlap"]
    read = sum(one["mem_bytes"] for one in told["operators"])  # by eight GPUs of 2 TB/s, for one token
    assert told["step_limit"] == {"resource": "memory", "tokens_per_s_per_gpu": pytest.approx(2000e9 / read)}
    assert told["step_limit"]["tokens_per_s_per_gpu"] < 15 < told["optimum_tokens_per_s_per_gpu"]
    assert cli.main(["overlap", "--model", "llama2-70b", "--gpus", "8xA100", "--batch", "1"]) == 0
    assert "With 1 tokens a step at most 14.6 tokens/s per GPU: memory takes" in capsys.readouterr().out


def test_one_device_has_no_network() -> None:
    found = operators.operators(cards.model("llama3-8b"), cards.gpus("H200"), operators.Workload(2048))
    assert "Net" not in {one.name for one in found}


def test_devices_without_a_known_link() -> None:
    net = operators.operators(cards.model("llama3-8b"), cards.gpus("2xA100 80GB PCIe"), operators.Workload(2048))[-1]
    assert net.name == "Net" and net.net_s == 0 and net.net_bytes > 0


@pytest.mark.parametrize(
    ("compute", "hidden", "expected"),
    [
        (1000, {"memory": 10}, 5),  # κ = 0.5
        (1000, {"network": 10}, 10 * 2 / 3),  # κ = 1/3
        (1000, {"memory": 10, "network": 10}, 5 + 10 * 2 / 3),
        (0, {"memory": 10}, 0),
        (1000, {}, 0),
        (1000, {"memory": 0.0}, 0),
        # Little arithmetic: x seconds at (R, P) use 1 − R of it. (0.4, 0.8) gains 0.4 for 0.6, the best rate there is.
        (0.6, {"memory": 10}, 0.4),
        # network: (0.1, 0.3) gains 0.2 for 0.9, (0.2, 0.5) 0.3 for 0.8, (0.9, 1.0) 0.1 for 0.1: that one is best
        (0.2, {"network": 10}, 0.2),
    ],
)
def test_price(compute: float, hidden: dict[interference.Hidden, float], expected: float) -> None:
    found = price.saving(compute, hidden, interference.DEFAULT)
    assert found.aware_s == pytest.approx(expected)
    assert found.ideal_s == pytest.approx(min(sum(hidden.values()), compute))
    assert found.aware_s <= found.ideal_s + 1e-9


def test_the_price_of_a_table_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_text("memory = [[0.5, 1.0], [0.2, 0.8]]\n")
    table = interference.read(str(tmp_path / "table.toml"))
    assert table.price("memory") == 0.25 and table.price("network") == pytest.approx(1 / 3)
    assert table.points["memory"][0] == (0.2, 0.8)
    assert price.saving(1000, {"memory": 8}, table).aware_s == pytest.approx(6)


@pytest.mark.parametrize(
    ("gemm", "expected"),
    [
        ((10.0, 1.0, 2.0), 0),  # 2 · max(5, 2) = 10: arithmetic hides the second reading
        ((3.0, 1.0, 2.0), 1),  # was 3 on both sides, 2 · max(1.5, 2) = 4
        ((1.0, 4.0, 0.0), 4),  # bound by weights: they are read twice
    ],
)
def test_split_cost(gemm: tuple[float, float, float], expected: float) -> None:
    assert price.split_cost([gemm]) == pytest.approx(expected)
    assert price.split_cost([gemm, gemm]) == pytest.approx(2 * expected)


def test_who_gains_nothing_does_not_split() -> None:
    assert price.saving(10, {"memory": 1}, interference.DEFAULT, split_s=3).net_s == 0


GOOD = "parameters = 1e9\nlayers = 2\nhidden = 64\nintermediate = 128\nheads = 4\nkv_heads = 2\n"


def test_a_card_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    card = cards.model(str(tmp_path / "mine.toml"))
    assert (card.name, card.parameters, card.hidden, card.group) == ("mine", 1e9, 64, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parameters = 1", "needs layers"),
        (GOOD.replace("= 4", "= 3"), "kv_heads divides heads"),
        (GOOD.replace("= 64", "= 64.5"), "whole numbers"),
        (GOOD.replace("= 64", "= -1"), "needs hidden"),
        (GOOD.replace("= 64", "= nan"), "needs hidden"),
        (GOOD.replace("= 64", "= true"), "needs hidden"),
        (GOOD.replace("= 64", '= "64"'), "needs hidden"),
        ("= =", "is not TOML"),
        ("\x00" * 10, "is not TOML"),
        ("a" * (cards.MAX_BYTES + 1), "too large"),
    ],
)
def test_cards_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "card.toml").write_text(text)
    with pytest.raises(FlowprofError, match=words):
        cards.model(str(tmp_path / "card.toml"))


@pytest.mark.parametrize("text", ["0xA100", "99999xA100", "", "x", "8xnothing"])
def test_gpus_that_are_none(text: str) -> None:
    with pytest.raises((UsageError, NotFoundError)):
        cards.gpus(text)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--batch", "0"], 2, "--batch 0 is out of range"),
        (["--batch", "8", "--answer", "-1"], 2, "--answer -1.0"),
        (["--batch", "8", "--answer", "nan"], 2, "--answer nan"),
        (["--batch", "8", "--measured", "/nowhere"], 3, "cannot read"),
        (["--batch", "8", "--interference", "/nowhere"], 3, "cannot read"),
        (["--batch", "8", "--dtype", "f8"], 2, "names no f8"),
    ],
)
def test_bad_flags(capsys: pytest.CaptureFixture[str], flags: list[str], code: int, words: str) -> None:
    assert cli.main(["overlap", "--model", "llama2-70b", "--gpus", "8xA100", *flags]) == code
    told = capsys.readouterr()
    assert words in told.err and not told.out


@pytest.mark.parametrize(
    "text", ["", "memory = 1", "memory = []", "memory = [[1]]", "memory = [[0, 1]]", "memory = [[0.5, 2]]",
             "memory = [[true, 1]]", "device = 1\nmemory = [[0.5, 1]]", 'memory = [["a", 1]]', "["],
)  # fmt: skip
def test_tables_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.toml").write_text(text)
    with pytest.raises(UsageError):
        interference.read(str(tmp_path / "table.toml"))


def test_measured_times_of_unknown_operators(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "times.toml").write_text("Sampling = 3\n")
    command = ["overlap", "--model", "llama2-70b", "--gpus", "8xA100", "--batch", "9"]
    assert cli.main([*command, "--measured", str(tmp_path / "times.toml")]) == 2
    assert "no operator Sampling" in capsys.readouterr().err


def test_a_measured_table_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure.write(measure.Measured(0.05, 0.975, (0, 1)), str(tmp_path / "mine.toml"))
    table = interference.read(str(tmp_path / "mine.toml"))
    assert table.points["memory"] == ((0.05, 0.975),)
    assert table.points["network"] == interference.DEFAULT.points["network"]
    assert "network and copy: NanoFlow" in table.source
    assert table.device == interference.CPU
    command = ["overlap", "--model", "llama2-70b", "--gpus", "8xA100", "--batch", "9"]
    assert cli.main([*command, "--interference", str(tmp_path / "mine.toml")]) == 2
    assert "does not price the work of GPUs" in capsys.readouterr().err
    assert cli.main(["overlap", "--measure-interference", str(tmp_path / "mine.toml")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_one_processor_has_no_interference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3})
    with pytest.raises(FlowprofError, match="two processors"):
        measure.measure()
