"""Layouts and descriptions on real ggml builds of 2023 to today, whose graphs this test builds itself and so knows
exactly.

The builds are PyPI wheels, downloaded once into ~/.cache/flowprof/wheels. They are named for one Python and one
platform, but only the plain shared libraries inside are used.
"""

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler import cache
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.ggml.describe import GraphChanged, describe, read_graph
from flowprof.profiler.ggml.layout import LayoutUnknown, resolve_layout
from flowprof.profiler.ggml.names import LiveModule, read_names
from flowprof.profiler.kernel_side import bpf_compiler
from flowprof.profiler.kernel_side.attach import AttachPoint, attach
from flowprof.profiler.kernel_side.bpf import Program
from flowprof.profiler.machine import kernel
from flowprof.profiler.memory import Memory

pytestmark = [pytest.mark.engine, pytest.mark.parallel]

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "any")


@dataclass(frozen=True)
class Build:
    """A released wheel and, in it, the libraries in the order in which they must be loaded (patterns)."""

    package: str
    libraries: tuple[str, ...]
    expected: str  # the entry of the version table that must fit

    @property
    def id(self):
        return self.package.replace("==", "-")

    def paths(self):
        folder = _unpacked(self.package)
        found = [sorted(folder.glob(pattern)) for pattern in self.libraries]
        assert all(found), f"{self.package} holds {[str(path) for path in folder.rglob('*.so*')]}"
        return [str(paths[0]) for paths in found]


BUILDS = (
    Build("ctransformers==0.2.27", ("ctransformers/lib/basic/libctransformers.so",), "ggml of summer 2023"),
    Build("pywhispercpp==1.2.0", ("libwhisper.so",), "ggml of November 2023 to June 2024"),
    Build("pywhispercpp==1.3.0", ("pywhispercpp.libs/libgomp*", "libggml.so"), "ggml of June to November 2024"),
    Build(
        "pywhispercpp==1.5.1",
        ("pywhispercpp.libs/libgomp*", "libggml-base.so", "libggml-cpu.so"),
        "ggml since November 2024",
    ),
)


def _unpacked(package):
    """The folder with the wheel's shared libraries."""
    wheels = cache.made() / "wheels"
    folder = wheels / package.replace("==", "-")
    if folder.is_dir():
        return folder
    wheels.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(wheels)]
    command += ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "none"]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    try:
        done = subprocess.run([*command, package], capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package registry did not deliver {package} in time")
    if done.returncode:
        pytest.skip(f"{package} cannot be had from the package registry: {done.stderr.strip().splitlines()[-1]}")
    name, version = package.split("==")
    wheel = next(wheels.glob(f"{name}-{version}-*.whl"))
    part = folder.with_suffix(f".{os.getpid()}.part")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part, [member for member in archive.namelist() if ".so" in member])
    part.rename(folder)
    return folder


def today():
    """xllamacpp's one big library, where it is installed."""
    try:
        import xllamacpp
    except ImportError:
        return []
    return [str(path) for path in Path(xllamacpp.__file__).parent.glob("xllamacpp*.so")]


class Today(Build):
    def paths(self):
        return today() or pytest.skip("xllamacpp is not installed")


ALL = (*BUILDS, Today("xllamacpp", (), "the binary's debug information and ggml since November 2024"))


@contextmanager
def live_graph(paths):
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "ggml_child.py"), *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = child.stdout.readline()
        assert line, f"{paths[-1]} could not be driven"
        yield json.loads(line)
    finally:
        child.stdin.close()
        child.wait(20)
        child.stdout.close()


def modules_of(pid, paths):
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    bases = [min(int(line.split("-")[0], 16) for line in maps if line.endswith(path)) for path in paths]
    return [LiveModule(ElfFile(path), base) for path, base in zip(paths, bases, strict=True)]


@pytest.fixture(scope="module", params=ALL, ids=lambda build: build.id)
def engine(request):
    paths = request.param.paths()
    with live_graph(paths) as truth:
        memory = Memory(truth["pid"])
        modules = modules_of(truth["pid"], paths)
        yield request.param, truth, memory, modules, read_names(memory, modules)


def test_names_come_from_the_binary(engine):
    build, *_, names = engine
    assert names.ops[0] == "NONE" and "MUL_MAT" in names.ops and "SOFT_MAX" in names.ops
    types = {trait.name: (trait.block_size, trait.type_size) for trait in names.types}
    assert (
        types["f32"] == (1, 4) and types["f16"] == (1, 2) and types["q8_0"] == (32, 34) and types["q6_K"] == (256, 210)
    )
    assert "SILU" in names.unary or build.package.startswith("ctransformers")


class Stripped:
    """The same library without its static symbols: only what is exported."""

    def __init__(self, elf):
        self._elf = elf
        self.machine, self.path = elf.machine, elf.path

    def symbols(self):
        return self

    def get(self, name):
        symbol = self._elf.symbols().get(name)
        return (
            None
            if symbol is None or name in ("GGML_OP_NAME", "GGML_UNARY_OP_NAME", "GGML_GLU_OP_NAME", "type_traits")
            else symbol
        )


def test_names_without_static_symbols(engine):
    _, _, memory, modules, names = engine
    bare = read_names(memory, [LiveModule(Stripped(module.elf), module.bias) for module in modules])
    assert bare.ops == names.ops
    assert [trait for trait in bare.types if trait.block_size] == [trait for trait in names.types if trait.block_size]
    assert bare.unary[: len(names.unary)] == names.unary


def test_the_version_table_fits(engine):
    build, truth, memory, modules, names = engine
    layouts = resolve_layout(memory, truth["cgraph"], names, modules)
    assert layouts.version == build.expected
    assert layouts.tensor.name == next(iter(truth["tensors"].values()))["name_offset"]


def test_inference_finds_what_the_table_says(engine):
    _, truth, memory, modules, names = engine
    known = resolve_layout(memory, truth["cgraph"], names, modules)
    inferred = resolve_layout(memory, truth["cgraph"], names, modules, table=())
    assert inferred.tensor.source == "inferred"
    for member in ("type", "ne", "nb", "op", "src", "data", "name", "view_src"):
        assert getattr(inferred.tensor, member) == getattr(known.tensor, member), member
    assert inferred.tensor.n_src >= 2
    assert (inferred.graph.n_nodes, inferred.graph.nodes) == (known.graph.n_nodes, known.graph.nodes)
    assert inferred.graph.uid == known.graph.uid
    assert inferred.params == known.params


def describe_graph(memory, address, layouts, names, expected_uid=None):
    return describe(read_graph(memory, address, layouts, names, expected_uid), names)


@pytest.mark.parametrize("how", ["table", "inferred"])
def test_description_is_the_truth(engine, how):
    _, truth, memory, modules, names = engine
    layouts = resolve_layout(memory, truth["cgraph"], names, modules, **({"table": ()} if how == "inferred" else {}))
    graph = describe_graph(memory, truth["cgraph"], layouts, names)
    tensors = {int(address): tensor for address, tensor in truth["tensors"].items()}
    assert {int(address) for address in graph.addresses} == set(tensors)
    assert graph.n_nodes == sum(tensor["op"] != "NONE" for tensor in tensors.values())
    for at, address in enumerate(graph.addresses.tolist()):
        want = tensors[address]
        assert graph.name[at] == want["name"]
        assert graph.op[at] == want["op"] or (graph.op[at] == "UNARY" and not names.unary)
        assert graph.type[at] == want["type"]
        assert graph.ne[at].tolist() == want["ne"]
        assert [int(graph.addresses[source]) for source in graph.sources[at]][: len(want["sources"])] == want["sources"]
        assert bool(graph.leaf[at]) == (want["op"] == "NONE")
        assert bool(graph.executes[at]) == (want["op"] not in ("NONE", "VIEW", "RESHAPE", "PERMUTE"))
    assert (graph.tokens, graph.outputs, graph.phase) == (5, 5, "decode")
    model = graph.model
    assert (model.layers, model.embedding, model.vocabulary, model.experts) == (3, 64, 256, None)
    assert model.parameters == 2 * 64 * 256 + 3 * (64 + 2 * 64 * 64 + 2 * 64 * 128)
    assert dict(model.weight_types) == {
        "q8_0": (2 * 64 * 256 + 3 * 2 * (64 * 64 + 64 * 128)) * 34 // 32,
        "f32": 3 * 256,
    }
    assert {block for block, leaf in zip(graph.block, graph.leaf, strict=True) if not leaf} == {
        "attention",
        "ffn",
        "output",
        "other",
    }


def test_the_address_of_the_data(engine):
    _, truth, memory, modules, names = engine
    layouts = resolve_layout(memory, truth["cgraph"], names, modules)
    for address, tensor in truth["tensors"].items():
        assert int(memory.read_words(int(address) + layouts.tensor.data, 1)[0]) == tensor["data"]


@pytest.mark.parametrize("member", ["type", "ne", "nb", "op", "src", "name"])
def test_a_wrong_layout_is_refused(engine, member):
    _, truth, memory, modules, names = engine
    known = resolve_layout(memory, truth["cgraph"], names, modules)
    wrong = replace(known, tensor=replace(known.tensor, **{member: getattr(known.tensor, member) + 8}))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(LayoutUnknown, match="tried") as refused:
        patch.setattr("flowprof.profiler.ggml.layout_infer.MIN_NODES", 10**6)
        patch.setattr("flowprof.profiler.ggml.dwarf_layouts.dwarf_layouts", lambda modules, known: [])
        resolve_layout(memory, truth["cgraph"], names, modules, table=(wrong,))
    assert known.version in refused.value.message


def test_no_graph_there(engine):
    _, truth, memory, modules, names = engine
    some_tensor = int(next(iter(truth["tensors"])))
    for address in (0, 8, some_tensor, modules[0].bias):
        with pytest.raises(LayoutUnknown):
            resolve_layout(memory, address, names, modules)


def test_another_uid_is_refused(engine):
    _, truth, memory, modules, names = engine
    layouts = resolve_layout(memory, truth["cgraph"], names, modules)
    if layouts.graph.uid is None:  # nothing to compare with
        assert describe_graph(memory, truth["cgraph"], layouts, names, expected_uid=123_456).uid is None
        return
    with pytest.raises(GraphChanged):
        describe_graph(memory, truth["cgraph"], layouts, names, expected_uid=123_456)


def test_uid_only_where_the_build_has_one(engine):
    _, truth, memory, modules, names = engine
    layouts = resolve_layout(memory, truth["cgraph"], names, modules)
    has = any(module.elf.symbols().get("ggml_graph_next_uid") is not None for module in modules)
    assert (layouts.graph.uid is not None) == has
    assert describe_graph(memory, truth["cgraph"], layouts, names).uid == (0 if has else None)


def test_a_torn_read_is_refused(engine):
    """The node list changes between the first and the second reading."""
    _, truth, memory, modules, names = engine
    layouts = resolve_layout(memory, truth["cgraph"], names, modules)

    class Rebuilt(Memory):
        reads = 0

        def read_words(self, address, count):
            words = super().read_words(address, count)
            self.reads += 1
            return words if self.reads <= 2 else np.roll(words, 1)

    with pytest.raises(GraphChanged, match="rebuilt"):
        describe_graph(Rebuilt(truth["pid"]), truth["cgraph"], layouts, names)


SEEN = """
BPF_ARRAY(seen, u64, 1);
int hit(struct pt_regs *ctx)
{
    u64 graph = PT_REGS_PARM1(ctx);
    int zero = 0;
    seen.update(&zero, &graph);
    return 0;
}
"""


@pytest.fixture
def compute_address(shared_server):
    """A llama-server under load, and a function that returns the graph that it computed last (0: none yet)."""
    server = shared_server("moe")
    (path,) = today()
    module = modules_of(server.pid, [path])[0]
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_compiler.SOURCES)
    loaded = bpf_compiler.import_bcc().BPF(text=SEEN, cflags=["-Wno-everything"])
    multi = kernel.version() >= kernel.UPROBE_MULTI
    function = loaded.load_func("hit", loaded.KPROBE, None, 48 if multi else -1)
    offset = module.elf.file_offset(module.elf.symbols().get("ggml_graph_compute").address)
    link = attach(Program("hit", function.fd), [AttachPoint(path, offset, 0)], server.pid, multi)
    yield server, module, lambda: int(loaded["seen"][ctypes.c_int(0)].value)
    link.close()


@pytest.mark.bpf
def test_a_server_that_runs_on(compute_address):
    """Described again and again while it decodes: right or refused, never wrong; the server does not notice."""
    server, module, last_graph = compute_address
    body = {"prompt": "flow " * 20, "n_predict": 150, "ignore_eos": True, "cache_prompt": False}
    request = urllib.request.Request(
        f"{server.url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    answer = []
    client = threading.Thread(target=lambda: answer.append(json.load(urllib.request.urlopen(request))))
    client.start()
    memory = Memory(server.pid)
    names = read_names(memory, [module])
    layouts, described, changed = None, [], 0
    while client.is_alive():
        try:
            if layouts is None and last_graph():
                layouts = resolve_layout(memory, last_graph(), names, [module])
            if layouts is not None:
                described.append(describe_graph(memory, last_graph(), layouts, names))
        except (GraphChanged, LayoutUnknown):
            changed += 1
        time.sleep(0.02)
    client.join()
    assert answer[0]["tokens_predicted"] == 150
    assert layouts.graph.uid is not None
    assert len(described) > 10 * changed
    decodes = [graph for graph in described if graph.phase == "decode"]
    assert len(decodes) > len(described) // 2
    assert {graph.operators for graph in decodes} == {decodes[0].operators}
    by_uid = {graph.uid: graph.name for graph in decodes}
    assert len(by_uid) <= 8, "the same graph is reused between tokens"
    model = decodes[0].model
    assert (model.layers, model.embedding, model.vocabulary) == (8, 512, 32000)
    assert (model.experts, model.experts_used) == (8, 2)
    executed = [(graph.block[at], graph.layer[at]) for graph in decodes[:1] for at in np.flatnonzero(graph.executes)]
    assert {block for block, _ in executed} == {"attention", "ffn", "moe", "output", "other"}
    assert {layer for _, layer in executed} == {None, *range(8)}
