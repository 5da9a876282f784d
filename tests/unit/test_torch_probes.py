"""Torch's catalogue: which operators, what --torch-ops takes, and that entries and exits belong together."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flowprof.probes import ENGINES, engines
from flowprof.probes.torch import COLLECTIVES, RUN, TORCH, WAIT, engine
from flowprof.profiler import cli
from flowprof.profiler.errors import UsageError
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.planning.plan import Plan, make_plan, require_engine
from flowprof.profiler.record.calls import Calls
from flowprof.profiler.target import Mapping, Module, Target

WORK = bytes.fromhex("55 e800000000 5d c3")  # push; call; pop; ret
TABLE = bytes.fromhex("55 e800000000 ffe0 5d c3")  # push; call; jmp rax; pop; ret
LOOP = bytes.fromhex("89c0 e800000000 ebf7")  # no return, and its entry is jumped to
AGAIN = bytes.fromhex("55 e800000000 75f8 5d c3")  # push; call; jne back to the entry; pop; ret


def symbol(name: str) -> str:
    return f"_ZN2at4_ops{len(name)}{name}4callERKNS_6TensorES4_"


def planned(folder: Path, build_elf: Callable[..., dict[str, int]], functions: dict[str, bytes], ops: str = "") -> Plan:
    """The plan of a process with this libtorch_cpu.so."""
    path = folder / "libtorch_cpu.so"
    build_elf(path, functions)
    module = Module(4, str(path), str(path), 1, "0:0", False, (Mapping(0, 4096, 0),))
    return make_plan([Target(4, 1, 0, sys.executable, "", 0.0, (module,))], (6, 12), engines(ops))


def test_entries_and_exits_are_pairs(tmp_path: Path, build_elf: Callable[..., dict[str, int]]) -> None:
    """mm can be probed; bmm jumps through a table, addmm is jumped to, linear does not return: none of their sites."""
    names = ("mm", "bmm", "addmm", "linear", "copy_")
    codes = (WORK, TABLE, AGAIN, LOOP, WORK)
    plan = planned(tmp_path, build_elf, {symbol(name): code for name, code in zip(names, codes, strict=True)})
    by_number = {site.site_id: site for site in plan.sites}
    usable = [site for site in plan.sites if not site.refused]
    assert sorted((site.symbol, site.probe.kind) for site in usable) == sorted(
        (symbol(name), kind) for name in ("mm", "copy_") for kind in ("entry", "exit")
    )
    for site in plan.sites:
        if site.probe.kind == "exit":
            entry = by_number[site.entry_id]
            assert (entry.symbol, entry.probe.kind, entry.refused) == (site.symbol, "entry", site.refused)
        else:
            assert site.entry_id == 0
    refused = {site.symbol: site.reason for site in plan.sites if site.refused}
    assert "through a table" in refused[symbol("bmm")]
    assert "branch leads back" in refused[symbol("addmm")], "its exit alone could be seen, and would see no call"
    assert plan.rung(4, "op", "torch") == "dispatch"
    require_engine(plan)


def test_kernels_of_torch_compile(tmp_path: Path, build_elf: Callable[..., dict[str, int]]) -> None:
    """Every library that Inductor made has one; others that have such a function are not its."""
    names = [f"{'c' + letter * 51}{end}" for letter, end in (("a", ".main.so"), ("b", ".so"))]
    modules = []
    for number, name in enumerate((*names, "libother.so")):
        build_elf(tmp_path / name, {"kernel": WORK, "PyInit_kernel": WORK})
        path = str(tmp_path / name)
        modules.append(Module(4, path, path, number, "0:0", False, (Mapping(0, 4096, 0),)))
    plan = make_plan([Target(4, 1, 0, sys.executable, "", 0.0, tuple(modules))], (6, 12), engines())
    assert [(Path(site.module.path).name, site.symbol, site.probe.kind, site.refused) for site in plan.sites] == [
        (name, "kernel", kind, False) for kind in ("entry", "exit") for name in names
    ]
    calls = Calls(lambda _: {}, {})
    calls.know(plan.sites, {})
    events = np.zeros(2, ring.EVENT)
    events["kind"], events["site"] = ring.CALL_RETURN, [plan.sites[0].site_id, plan.sites[1].site_id]
    assert calls.decode(events)[0]["name"].tolist() == ["inductor::caaaaaaaaaaa", "inductor::cbbbbbbbbbbb"]


def test_what_runs_operators_is_seen_beside_them(tmp_path: Path, build_elf: Callable[..., dict[str, int]]) -> None:
    """A backward pass and TorchScript's interpreter in libtorch_cpu; torch.compile's functions in libtorch_python."""
    script = "_ZN5torch3jit16InterpreterState"
    run = "_ZN4c10d16ProcessGroupGloo9AsyncWork7executeERKN3c1013intrusive_ptrIS1_EE"
    named = "_ZN5torch3jit24invokeOperatorFromPythonERKSt6vectorISt10shared_ptrINS0_8OperatorEESaIS4_EE"
    backward, stack = "_ZN5torch8autograd6Engine7executeERKSt6vector", "ERSt6vectorIN3c106IValueESaIS4_EE"
    functions = {
        "libtorch_cpu.so": (symbol("mm"), run, backward, f"{script}3run{stack}", f"{script}8runAsync{stack}",
                            "_ZN5torch3jit6mobile16InterpreterState3runE", f"{script}C1E"),
        "libtorch_python.so": ("dynamo_eval_custom_code", "dynamo_eval_frame_default", f"calls{symbol('mm')}",
                               named),
    }  # fmt: skip
    modules = []
    for number, (name, symbols) in enumerate(functions.items()):
        build_elf(tmp_path / name, dict.fromkeys(symbols, WORK))
        path = str(tmp_path / name)
        modules.append(Module(4, path, path, number, "0:0", False, (Mapping(0, 4096, 0),)))
    plan = make_plan([Target(4, 1, 0, sys.executable, "", 0.0, tuple(modules))], (6, 12), engines())
    entries = [site for site in plan.sites if site.probe.kind == "entry" and not site.refused]
    calls = Calls(lambda _: {}, {})
    calls.know(plan.sites, {})
    events = np.zeros(len(entries), ring.EVENT)
    events["kind"], events["site"] = ring.CALL_RETURN, [site.site_id for site in entries]
    found = calls.decode(events)[0]
    told = {site.symbol: (kind, name) for site, kind, name in zip(entries, found["kind"], found["name"], strict=True)}
    assert told == {
        symbol("mm"): ("operator", "aten::mm"), run: ("collective", "c10d::execute"),
        backward: ("annotation", "autograd::engine::execute"),
        f"{script}3run{stack}": ("annotation", "TorchScript"),
        f"{script}8runAsync{stack}": ("annotation", "TorchScript"),
        "dynamo_eval_custom_code": ("annotation", "Torch-Compiled Region"), named: ("operator", "torch.ops"),
    }  # fmt: skip
    chosen = make_plan([Target(4, 1, 0, sys.executable, "", 0.0, tuple(modules))], (6, 12), engines("mm"))
    assert not [site for site in chosen.sites if site.symbol == named], "by a choice of names nothing else is probed"


def test_every_return_of_a_function_has_its_entry(tmp_path: Path, build_elf: Callable[..., dict[str, int]]) -> None:
    either = bytes.fromhex("55 85ff 7407 e800000000 5d c3 e800000000 5d c3")
    plan = planned(tmp_path, build_elf, {symbol("mm"): either})
    [entry] = [site for site in plan.sites if site.probe.kind == "entry"]
    exits = [site for site in plan.sites if site.probe.kind == "exit"]
    assert [site.instruction for site in exits] == ["ret", "ret"]
    assert {site.entry_id for site in exits} == {entry.site_id}


def test_without_an_exit_there_is_no_rung(tmp_path: Path, build_elf: Callable[..., dict[str, int]]) -> None:
    plan = planned(tmp_path, build_elf, {symbol("mm"): TABLE})
    assert all(site.refused for site in plan.sites)
    assert plan.rung(4, "op", "torch") is None


DEFAULT_NAMES = (
    "mm", "addmm", "bmm", "matmul", "linear", "conv2d", "conv2d_padding", "convolution", "native_layer_norm",
    "rms_norm", "softmax_int", "_softmax", "embedding", "copy_", "_to_copy", "to_dtype", "clone", "cat", "dot",
    "native_group_norm", "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu", "group_norm",
    "layer_norm", "mm_out", "baddbmm_out",
)  # fmt: skip
OTHER_NAMES = ("add_Tensor", "mul_Tensor", "view", "size_int", "add_out", "t", "comm", "softmax_Dimname", "gelu", "mmm")


def test_the_default_set() -> None:
    pattern = re.compile(f"^(?:{TORCH.ladders[0].rungs[0].probes[0].pattern})$")
    assert [name for name in DEFAULT_NAMES if not pattern.match(symbol(name))] == []
    assert [name for name in OTHER_NAMES if pattern.match(symbol(name))] == []
    assert not pattern.match("_ZN2at4_ops2mm10redispatchEN3c1014DispatchKeySetERKNS_6TensorES4_")
    everything = re.compile(f"^(?:{engine('all').ladders[0].rungs[0].probes[0].pattern})$")
    assert all(everything.match(symbol(name)) for name in (*DEFAULT_NAMES, *OTHER_NAMES))
    assert not everything.match("_ZN2at6nativemm4callE")


def test_collectives() -> None:
    pattern = re.compile(f"^(?:{COLLECTIVES})$")
    assert pattern.match("_ZN4c10d16ProcessGroupNCCL9allreduceERSt6vectorIN2at6TensorESaIS3_EERKNS_16AllreduceOptionsE")
    assert pattern.match("_ZN4c10d16ProcessGroupGloo7barrierERKNS_14BarrierOptionsE")
    assert not pattern.match("_ZN4c10d16ProcessGroupGloo9AsyncWork7executeEv")
    waits, runs = (re.compile(f"^(?:{text})$") for text in (WAIT, RUN))
    for kind in ("4Work", "16ProcessGroupGloo8SendWork", "16ProcessGroupGloo8RecvWork"):
        assert waits.match(f"_ZN4c10d{kind}4waitENSt6chrono8durationIlSt5ratioILl1ELl1000EEEE")
    assert not waits.match("_ZN4c10d8TCPStore4waitERKSt6vectorINSt7__cxx1112basic_stringEE")
    assert not waits.match("_ZN4c10d16ProcessGroupNCCL8WorkNCCL4waitENSt6chrono8durationIlSt5ratioILl1ELl1000EEEE")
    assert runs.match("_ZN4c10d16ProcessGroupGloo9AsyncWork7executeERKN3c1013intrusive_ptrIS1_EE")
    assert not runs.match("_ZN4c10d16ProcessGroupGloo7runLoopEi")


def test_a_choice_is_what_is_probed(tmp_path: Path, build_elf: Callable[..., dict[str, int]]) -> None:
    functions = {symbol(name): WORK for name in ("mm", "add_Tensor", "add_out", "addmm")}
    plan = planned(tmp_path, build_elf, functions, "add_.*")
    assert {site.symbol for site in plan.sites} == {symbol("add_Tensor"), symbol("add_out")}
    assert len(engines("mm")) == len(ENGINES)


HOSTILE = ["(", "[", "*", "mm)|(add", "(?i)mm", r"\u0041dd", "a{99999999999999999999}", "(" * 5000 + ")" * 5000,
           "(?P<x>a)(?P<x>b)", "\udcff", "(?x)mm #"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:20].encode(errors="replace").decode() for text in HOSTILE])
def test_what_is_no_expression_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("attach", "list-probes"):
        assert cli.main([verb, str(os.getpid()), f"--torch-ops={text}"]) == UsageError.exit_code == 2
        out, err = capsys.readouterr()
        assert out == ""
        lines = err.splitlines()
        assert len(lines) == 2 and lines[0].startswith("flowprof: --torch-ops ") and lines[1].startswith("hint: ")
        assert len(lines[0]) < 400
