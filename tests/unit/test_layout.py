"""Layouts: known versions are recognised, an unknown one inferred, a wrong one refused; DWARF of a compiled struct."""

import os
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
from flowprof.profiler.binaries.dwarf import struct_members
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.ggml.dwarf_layouts import STATED, dwarf_layouts
from flowprof.profiler.ggml.layout import (
    GraphLayout,
    Layouts,
    LayoutUnknown,
    ParamsLayout,
    TensorLayout,
    resolve_layout,
)
from flowprof.profiler.ggml.layout_check import check
from flowprof.profiler.ggml.layout_table import KNOWN
from flowprof.profiler.ggml.names import LiveModule, NamesUnknown, loaded_address, read_names
from flowprof.profiler.memory import Memory
from memory_graphs import NAMES, MemoryGraph, transformer

UNKNOWN = Layouts(  # no release ever looked so
    TensorLayout(
        type=4,
        ne=24,
        nb=56,
        op=96,
        op_params=100,
        flags=164,
        src=176,
        n_src=8,
        view_src=248,
        data=264,
        name=280,
        size=360,
    ),
    GraphLayout(n_nodes=8, n_leafs=12, nodes=24, leafs=32, uid=96),
    ParamsLayout(0, 4),
    "of nobody",
)


def has_uid(name):
    return SimpleNamespace(address=16, size=0) if name == "ggml_graph_next_uid" else None


MODERN = [
    LiveModule(
        SimpleNamespace(symbols=lambda: SimpleNamespace(get=has_uid), section=lambda name: None, debug_file=None), 0
    )
]


@pytest.mark.parametrize("version", KNOWN, ids=lambda version: version.version)
def test_known_versions_are_recognised(version):
    graph = transformer(version)
    found = resolve_layout(graph.memory, graph.close(), NAMES, MODERN)
    assert found.tensor == version.tensor
    assert (found.graph.nodes, found.graph.n_nodes, found.graph.uid) == (
        version.graph.nodes,
        version.graph.n_nodes,
        version.graph.uid,
    )
    assert found.params == version.params


@pytest.mark.parametrize("version", [*KNOWN, UNKNOWN], ids=lambda version: version.version)
@pytest.mark.parametrize("leafs", [True, False], ids=["whole", "split"])
def test_inference(version, leafs):
    graph = transformer(version)
    found = resolve_layout(graph.memory, graph.close(leafs=leafs), NAMES, MODERN, table=())
    for member in ("type", "ne", "nb", "op", "src", "data", "name", "view_src", "op_params"):
        assert getattr(found.tensor, member) == getattr(version.tensor, member), member
    if version.tensor.flags is not None:
        assert found.tensor.flags == version.tensor.flags
    assert (found.graph.nodes, found.graph.n_nodes, found.graph.uid) == (
        version.graph.nodes,
        version.graph.n_nodes,
        version.graph.uid,
    )
    assert found.tensor.source == "inferred" and "inferred" in found.version


def test_a_graph_filled_to_its_capacity():
    graph = transformer(UNKNOWN)
    address = graph.close()
    graph.number(address + 4, len(graph.nodes), 4)
    found = resolve_layout(graph.memory, address, NAMES, table=())
    assert found.graph.n_nodes in (4, 8)  # both tell the same now
    today = transformer(TODAY)
    address = today.close()
    today.number(address, len(today.nodes), 4)
    assert resolve_layout(today.memory, address, NAMES, table=()).graph.n_nodes == TODAY.graph.n_nodes


def test_inference_refuses_a_small_graph():
    graph = MemoryGraph(UNKNOWN)
    x = graph.leaf("a", (32,), "f32")
    for n in range(5):
        x = graph.tensor("ADD", f"sum-{n}", (32,), (x, x))
    with pytest.raises(LayoutUnknown, match=r"tried ggml since November 2024: .*; inferred from the live tensors: "):
        resolve_layout(graph.memory, graph.close(), NAMES)


TODAY = KNOWN[0]
BREAKS = {
    "unknown type": ("type", (3).to_bytes(4, "little"), "unknown type 3"),
    "type out of range": ("type", (99).to_bytes(4, "little"), "unknown type 99"),
    "operator out of range": ("op", (1000).to_bytes(4, "little"), "operator number 1000"),
    "negative shape": ("ne", b"\xff" * 8, "impossible shape"),
    "control character": ("name", b"a\nb\0", "no text"),
    "unterminated name": ("name", b"x" * 64, "no text"),
    "source that is no tensor": ("src", (4242).to_bytes(8, "little"), "lead nowhere"),
}


@pytest.mark.parametrize("member,data,complaint", BREAKS.values(), ids=BREAKS)
def test_one_broken_tensor_is_seen(member, data, complaint):
    graph = transformer(TODAY)
    address = graph.close()
    assert check(graph.memory, address, TODAY, NAMES) == []
    graph.put(graph.nodes[5] + getattr(TODAY.tensor, member), data)
    assert complaint in check(graph.memory, address, TODAY, NAMES)[0]


def test_shapes_that_do_not_multiply():
    graph = transformer(TODAY)
    product = next(node for node in graph.nodes if graph.shapes[node][0] == "ffn_gate-1")
    graph.number(product + TODAY.tensor.src + 8, graph.nodes[-1])
    assert check(graph.memory, graph.close(), TODAY, NAMES) == ["a matrix product whose shapes do not multiply"]


@pytest.mark.parametrize("count", [0, -1, 65_537, 2**31 - 1])
def test_impossible_counts(count):
    graph = transformer(TODAY)
    address = graph.close()
    graph.put(address + TODAY.graph.n_nodes, count.to_bytes(4, "little", signed=True))
    assert "nodes and" in check(graph.memory, address, TODAY, NAMES)[0]
    if not 0 <= count < 1 << 20:
        with pytest.raises(LayoutUnknown):
            resolve_layout(graph.memory, address, NAMES)


def test_uid_by_its_value_when_symbols_cannot_tell():
    graph = transformer(TODAY)
    address = graph.close(uid=12)
    assert resolve_layout(graph.memory, address, NAMES).graph.uid == TODAY.graph.uid
    graph.number(address + TODAY.graph.uid, graph.nodes[0])
    assert resolve_layout(graph.memory, address, NAMES).graph.uid is None


STRUCTS = """
#include <stdint.h>
#include <stddef.h>
enum t { A }; enum o { B };
struct ggml_tensor_extra { int n; };
struct ggml_tensor {
    enum t type; void * buffer; int64_t ne[4]; size_t nb[4]; enum o op; int32_t op_params[16]; int32_t flags;
    struct ggml_tensor * src[12]; struct ggml_tensor * view_src; size_t view_offs; void * data; char name[64];
};
struct ggml_cgraph {
    int size, n_nodes, n_leafs; struct ggml_tensor ** nodes, ** grads, ** leafs; uint64_t uid;
};
struct ggml_compute_params { int type, ith, nth; };
int use(struct ggml_tensor * t, struct ggml_cgraph * g, struct ggml_compute_params * p, struct ggml_tensor_extra * e) {
    return t->op + g->n_nodes + p->ith + e->n;
}
int main(void) { return 0; }
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("flags", ["-gdwarf-4", "-gdwarf-5", "-gdwarf-5 -gz"])
def test_dwarf(tmp_path, flags):
    (tmp_path / "x.c").write_text(STRUCTS)
    subprocess.run(["gcc", *flags.split(), "-o", tmp_path / "x", tmp_path / "x.c"], check=True)
    (found,) = dwarf_layouts([LiveModule(ElfFile(str(tmp_path / "x")), 0)], KNOWN)
    assert found.version == STATED
    assert found.tensor == TensorLayout(
        type=0, ne=16, nb=48, op=80, op_params=84, flags=148, src=152, n_src=12, view_src=248, data=264, name=272,
        size=336, source="dwarf",
    )  # fmt: skip
    assert found.graph == GraphLayout(n_nodes=4, n_leafs=8, nodes=16, leafs=32, uid=40)
    assert found.params == ParamsLayout(4, 8)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_dwarf_of_the_tensor_alone_is_completed_from_the_versions(tmp_path):
    (tmp_path / "x.c").write_text(STRUCTS.replace("ggml_cgraph", "another").replace("compute_params", "others"))
    subprocess.run(["gcc", "-g", "-o", tmp_path / "x", tmp_path / "x.c"], check=True)
    found = dwarf_layouts([LiveModule(ElfFile(str(tmp_path / "x")), 0)], KNOWN)
    assert [layouts.graph for layouts in found] == [layouts.graph for layouts in KNOWN]
    assert {layouts.tensor.n_src for layouts in found} == {12}


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + b"\xff" * 200, b"no elf at all"])
def test_dwarf_of_no_binary(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert struct_members(str(tmp_path / "x"), ("ggml_tensor",)) == {}
    assert struct_members(str(tmp_path / "missing"), ("ggml_tensor",)) == {}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_dwarf_that_is_damaged(tmp_path):
    (tmp_path / "x.c").write_text(STRUCTS)
    subprocess.run(["gcc", "-gdwarf-4", "-o", tmp_path / "x", tmp_path / "x.c"], check=True)
    whole = (tmp_path / "x").read_bytes()
    abbreviations = ElfFile(str(tmp_path / "x")).section(".debug_abbrev")
    broken = bytearray(whole)
    broken[abbreviations.offset : abbreviations.offset + abbreviations.size] = b"\xff" * abbreviations.size
    (tmp_path / "y").write_bytes(broken)
    assert struct_members(str(tmp_path / "y"), ("ggml_tensor",)) == {}


ACCESSORS = {
    "lea behind endbr64": ("f30f1efa 89ff 488d05b3d30500 488b04f8 c3", "x86-64", 0x1000 + 13 + 0x5D3B3),
    "lea into another register": ("89ff 488d15e7f30500 488d04fd00000000 c3", "x86-64", 0x1000 + 9 + 0x5F3E7),
    "lea backwards": ("89ff 488d05f0ffffff c3", "x86-64", 0x1000 + 9 - 16),
    "absolute, indexed": ("89ff 488b04fd40206000 c3", "x86-64", 0x602040),
    "absolute, computed": ("89ff 486bff38 488b8740206000 c3", "x86-64", 0x602040),
    "adrp and add": ("01 00 00 b0 21 80 04 91 20 58 60 f8 c0 03 5f d6", "aarch64", 0x2120),
    "nothing of the kind": ("31c0 c3 9090909090909090", "x86-64", None),
}


@pytest.mark.parametrize("code,machine,address", ACCESSORS.values(), ids=ACCESSORS)
def test_the_table_that_an_accessor_reads(code, machine, address):
    assert loaded_address(bytes.fromhex(code.replace(" ", "")), 0x1000, machine) == address


def test_names_of_a_binary_without_any():
    nothing = SimpleNamespace(symbols=lambda: SimpleNamespace(get=lambda name: None), machine="x86-64")
    with pytest.raises(NamesUnknown, match="neither GGML_OP_NAME nor type_traits"):
        read_names(Memory(os.getpid()), [LiveModule(nothing, 0)])


def test_layout_of_another_version_is_refused_in_words():
    graph = transformer(replace(UNKNOWN, version="x"))
    address = graph.close()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(LayoutUnknown) as refused:
        patch.setattr("flowprof.profiler.ggml.layout_infer.MIN_NODES", 10**6)
        resolve_layout(graph.memory, address, NAMES)
    for version in KNOWN:
        assert version.version in refused.value.message
    assert refused.value.hint
