"""Descriptions of graphs whose truth is known: nodes, sources, phases, the model; of graphs that change meanwhile."""

import pytest
from flowprof.profiler.ggml.describe import GraphChanged, phase_of, read_again, read_graph
from flowprof.profiler.ggml.describe import describe as described
from flowprof.profiler.ggml.layout_check import MAX_NODES
from flowprof.profiler.ggml.layout_table import KNOWN
from memory_graphs import NAMES, MemoryGraph, transformer

TODAY = KNOWN[0]


def describe(graph, **options):
    close = {key: options.pop(key) for key in ("uid", "leafs") if key in options}
    return describe_at(graph, graph.close(**close), **options)


def describe_at(graph, address, **options):
    return described(read_graph(graph.memory, address, TODAY, NAMES, **options), NAMES)


@pytest.mark.parametrize("leafs", [True, False], ids=["whole", "split"])
def test_nodes_and_sources(leafs):
    built = transformer(TODAY, layers=2)
    graph = describe(built, leafs=leafs)
    assert graph.addresses[: graph.n_nodes].tolist() == built.nodes
    assert set(graph.addresses[graph.n_nodes :].tolist()) == set(built.leafs)
    for at, address in enumerate(graph.addresses.tolist()):
        assert (graph.name[at], graph.ne[at].tolist()) == built.shapes[address]
        assert bool(graph.leaf[at]) == (at >= graph.n_nodes) == (graph.op[at] == "NONE")
        raw = built.memory.read_words(address + TODAY.tensor.src, 10)
        assert [int(graph.addresses[source]) for source in graph.sources[at]] == [int(word) for word in raw if word]
    assert "UNARY(SILU)" in graph.op and graph.uid == 7


def test_what_executes():
    graph = describe(transformer(TODAY, layers=2))
    skipped = {graph.op[at] for at in range(graph.n_nodes) if not graph.executes[at]}
    assert skipped == {"VIEW", "RESHAPE"}
    assert not graph.executes[graph.n_nodes :].any()
    assert graph.operators == int(graph.executes.sum())


def test_the_compute_mark_counts_where_a_build_uses_it():
    built = transformer(TODAY)
    x = built.nodes[-1]
    built.tensor("ADD", "unmarked", (32,), (x, x), flags=0)
    built.tensor("ADD", "empty", (32, 0), (x, x))
    graph = describe(built)
    assert [bool(graph.executes[graph.name.index(name)]) for name in ("result_output", "unmarked", "empty")] == [
        True,
        False,
        False,
    ]
    assert graph.size_bytes[graph.name.index("empty")] == 0
    assert describe(transformer(TODAY, marked=False)).operators == describe(transformer(TODAY)).operators


SIZES = [("f32", (10,), 40), ("f16", (8, 3), 48), ("q8_0", (64, 5), 340), ("q4_0", (32, 2, 3, 4), 432)]


@pytest.mark.parametrize("kind,ne,size", SIZES)
def test_sizes(kind, ne, size):
    built = MemoryGraph(TODAY)
    leaf = built.leaf("x.weight", ne, kind)
    built.tensor("ADD", "y", ne, (leaf, leaf))
    assert describe(built).size_bytes.tolist()[1] == size


PHASES = [
    (1, 1, "decode"),
    (4, 4, "decode"),
    (512, 1, "prefill"),
    (512, 0, "prefill"),
    (512, 3, "mixed"),
    (1, 0, "prefill"),
]


@pytest.mark.parametrize("tokens,outputs,phase", PHASES)
def test_phase(tokens, outputs, phase):
    graph = describe(transformer(TODAY, tokens=tokens, outputs=outputs))
    assert (graph.tokens, graph.outputs, graph.phase) == (tokens, outputs, phase)


@pytest.mark.parametrize("tokens,outputs", [(None, 1), (1, None), (None, None)])
def test_phase_of_what_is_no_language_model(tokens, outputs):
    assert phase_of(tokens, outputs) == "other"


def test_dense_model():
    model = describe(transformer(TODAY, layers=3)).model
    per_layer = 64 + 64 * 64 * 2 + 64 + 64 * 128 * 2
    assert (model.layers, model.embedding, model.vocabulary, model.experts) == (3, 64, 2048, None)
    assert model.parameters == 2 * 64 * 2048 + 3 * per_layer + 64
    quantised = (2 * 64 * 2048 + 3 * (64 * 64 * 2 + 64 * 128 * 2)) * 34 // 32
    norms = 4 * (3 * 2 * 64 + 64)
    assert dict(model.weight_types) == {"q8_0": quantised, "f32": norms}
    assert model.weight_bytes == quantised + norms
    assert model.weight_bytes_per_token == quantised + norms - 64 * 2047 * 34 // 32  # one row of the embedding


def test_mixture_of_experts():
    graph = describe(transformer(TODAY, layers=2, experts=8))
    model = graph.model
    assert (model.experts, model.experts_used) == (8, 2)
    unused = 2 * (64 * 64 * 6) * 34 // 32 + 64 * 2047 * 34 // 32
    assert model.weight_bytes - model.weight_bytes_per_token == unused
    assert {graph.block[at] for at, name in enumerate(graph.name) if "moe" in name or "exps" in name} == {"moe"}
    assert "GLU(SWIGLU)" in graph.op


def test_layers_and_blocks():
    graph = describe(transformer(TODAY, layers=2))
    runs = [(graph.layer[at], graph.block[at]) for at in range(graph.n_nodes) if graph.executes[at]]
    changes = [run for at, run in enumerate(runs) if at == 0 or run != runs[at - 1]]
    assert changes == [
        (None, "other"), (0, "attention"), (0, "ffn"), (1, "attention"), (1, "ffn"), (None, "output"),
    ]  # fmt: skip


def test_hostile_names_are_kept_as_text():
    built = transformer(TODAY)
    name = "<script>alert(1)</script>'; DROP TABLE x-3"
    built.tensor("ADD", name, (32,), (built.nodes[0], built.nodes[0]))
    assert name in describe(built).name


def test_expected_uid():
    built = transformer(TODAY)
    assert describe(built, uid=9, expected_uid=9).uid == 9
    with pytest.raises(GraphChanged, match="uid 9, not 8"):
        describe(built, uid=9, expected_uid=8)


def rebuild_nodes(built, address):
    built.number(built.arrays[0].ctypes.data, built.nodes[3])


def rebuild_tensor(built, address):
    built.number(built.nodes[3] + TODAY.tensor.op, 2, 4)


def rebuild_uid(built, address):
    built.number(address + TODAY.graph.uid, 8)


def truncate(built, address):
    built.number(address + TODAY.graph.n_nodes, 5, 4)


def free(built, address):
    built.number(address + TODAY.graph.nodes, 64)


@pytest.mark.parametrize("change", [rebuild_nodes, rebuild_tensor, rebuild_uid, truncate, free])
def test_a_graph_that_changes_while_it_is_read(change):
    built = transformer(TODAY)
    address = built.close()
    reads = built.memory.read_rows
    seen = []

    def read_rows(addresses, size):
        result = reads(addresses, size)
        seen.append(size)
        if len(seen) == 4:  # header, node list, leafs, nodes have been read
            change(built, address)
        return result

    built.memory.read_rows = read_rows
    with pytest.raises(GraphChanged):
        describe_at(built, address)


@pytest.mark.parametrize(
    "member,value",
    [("op", 9999), ("type", 77), ("name", 0x0101010101010101), ("ne", (1 << 40) + 1), ("ne", (1 << 64) - 1)],
)
def test_freed_tensors(member, value):
    built = transformer(TODAY)
    built.number(built.nodes[4] + getattr(TODAY.tensor, member), value, 8 if member in ("name", "ne") else 4)
    with pytest.raises(GraphChanged, match="freed"):
        describe(built)


@pytest.mark.parametrize("count", [0, MAX_NODES + 1, 0xFFFFFFFF])
def test_counts_are_bounded(count):
    built = transformer(TODAY)
    address = built.close()
    built.number(address + TODAY.graph.n_nodes, count, 4)
    with pytest.raises(GraphChanged, match="nodes"):
        describe_at(built, address)


def test_a_large_graph():
    graph = describe(transformer(TODAY, layers=70), leafs=False)
    assert graph.n_nodes > 1000 and {layer for layer in graph.layer if layer is not None} == set(range(70))


def content(graph, **close):
    return read_graph(graph.memory, graph.close(**close), TODAY, NAMES).content()


def test_a_rebuilt_graph_is_known_by_its_content():
    """Servers rebuild the same graph at every request: other addresses and another uid, nothing else."""
    built = transformer(TODAY)
    assert content(built, uid=1) == content(transformer(TODAY), uid=2)
    rebuild_tensor(built, 0)
    assert content(built) != content(transformer(TODAY))
    assert content(transformer(TODAY, layers=5)) != content(transformer(TODAY))


def test_a_graph_that_is_built_again_in_its_place_is_the_earlier_one():
    built, other = transformer(TODAY), transformer(TODAY, layers=5)
    first, longer = (read_graph(graph.memory, graph.close(uid=1), TODAY, NAMES) for graph in (built, other))
    address = built.close(uid=2)
    assert read_again(built.memory, address, TODAY, 2, [longer, first]) is first
    assert read_again(built.memory, address, TODAY, None, [longer]) is None
    with pytest.raises(GraphChanged, match="another one"):
        read_again(built.memory, address, TODAY, 3, [first])
    built.number(built.nodes[3] + TODAY.tensor.data, 0xABC)
    assert read_again(built.memory, address, TODAY, 2, [first]) is first, "where data lies makes no other graph"


@pytest.mark.parametrize("member", ["op", "type", "ne", "nb", "src", "name"])
def test_a_graph_that_is_another_in_the_same_place_is_not_taken_for_the_earlier_one(member):
    built = transformer(TODAY)
    first = read_graph(built.memory, built.close(uid=1), TODAY, NAMES)
    built.number(built.nodes[3] + getattr(TODAY.tensor, member), 2, 4)
    assert read_again(built.memory, built.close(uid=2), TODAY, 2, [first]) is None


@pytest.mark.parametrize("change", [rebuild_uid, truncate])
def test_a_known_graph_that_changes_while_it_is_read(change):
    built = transformer(TODAY)
    address = built.close(uid=1)
    first = read_graph(built.memory, address, TODAY, NAMES)
    reads = built.memory.read_rows
    seen = []

    def read_rows(addresses, size):
        seen.append(size)
        if len(addresses) > 1:  # the nodes
            change(built, address)
        return reads(addresses, size)

    built.memory.read_rows = read_rows
    with pytest.raises(GraphChanged, match="rebuilt"):
        read_again(built.memory, address, TODAY, 1, [first])


def test_a_known_graph_that_is_gone():
    built = transformer(TODAY)
    address = built.close(uid=1)
    first = read_graph(built.memory, address, TODAY, NAMES)
    free(built, address)
    with pytest.raises(GraphChanged, match="vanished"):
        read_again(built.memory, address, TODAY, 1, [first])
