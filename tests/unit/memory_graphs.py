"""Graphs laid out in this process's own memory, in any layout: what the layout and description tests read back."""

import ctypes
import os

import numpy as np
from flowprof.profiler.ggml.layout import GraphLayout, Layouts, TensorLayout
from flowprof.profiler.ggml.names import OpNames, TypeTrait
from flowprof.profiler.memory import Memory

_BASIC = "NONE DUP ADD SUB MUL DIV NORM RMS_NORM MUL_MAT MUL_MAT_ID SCALE SET CPY CONT RESHAPE VIEW PERMUTE TRANSPOSE"
_FURTHER = "GET_ROWS SET_ROWS SOFT_MAX ROPE ARGSORT UNARY GLU COUNT_EQUAL"
OPS = tuple(f"{_BASIC} {_FURTHER}".split())
NAMES = OpNames(
    ops=OPS,
    types=(
        TypeTrait("f32", 1, 4),
        TypeTrait("f16", 1, 2),
        TypeTrait("q4_0", 32, 18),
        TypeTrait("retired", 0, 0),
        TypeTrait("q8_0", 32, 34),
        TypeTrait("i32", 1, 4),
    ),
    unary=("ABS", "SILU"),
    glu=("REGLU", "SWIGLU"),
)
TYPES = {trait.name: number for number, trait in enumerate(NAMES.types)}
COMPUTE = 0x10


class MemoryGraph:
    """Tensors in one buffer, built like ggml builds them. Keep the object alive while it is read."""

    def __init__(self, layouts: Layouts, capacity: int = 4096, marked: bool = True) -> None:
        self.layouts = layouts
        self.step = max(layouts.tensor.size, layouts.tensor.extent) + 32
        self.buffer = ctypes.create_string_buffer(capacity * self.step + 4096)
        self.base = (ctypes.addressof(self.buffer) + 63) // 64 * 64
        self.count = 0
        self.marked = marked
        self.nodes: list[int] = []
        self.leafs: list[int] = []
        self.shapes: dict[int, tuple[str, list[int]]] = {}
        self.memory = Memory(os.getpid())

    def put(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))

    def number(self, address: int, value: int, size: int = 8) -> None:
        self.put(address, value.to_bytes(size, "little"))

    def tensor(self, op, name, ne, sources=(), kind="f32", sub=0, view_of=None, offset=0, flags=None) -> int:
        """A tensor; leaves have op NONE. Dense strides."""
        layout: TensorLayout = self.layouts.tensor
        at = self.base + self.count * self.step
        self.count += 1
        shape = [*ne, 1, 1, 1][:4]
        trait = NAMES.types[TYPES[kind]]
        stride = [trait.type_size, shape[0] // trait.block_size * trait.type_size]
        stride += [stride[1] * shape[1], stride[1] * shape[1] * shape[2]]
        self.number(at + layout.type, TYPES[kind], 4)
        self.put(at + layout.ne, np.array(shape, dtype="<i8").tobytes())
        self.put(at + layout.nb, np.array(stride, dtype="<u8").tobytes())
        self.number(at + layout.op, OPS.index(op), 4)
        self.put(at + layout.src, np.array(sources, dtype="<u8").tobytes())
        self.put(at + layout.name, name.encode()[:63] + b"\0")
        data = 0x600000000000 + self.count * 0x10000  # not mapped: nobody looks at it
        if view_of is not None:
            parent = int.from_bytes(ctypes.string_at(view_of + layout.data, 8), "little")
            data = parent + offset
            if layout.view_src is not None:
                self.number(at + layout.view_src, view_of)
                self.number(at + layout.view_src + 8, offset)
        self.number(at + layout.data, data)
        if layout.op_params is not None:
            self.number(at + layout.op_params, sub, 4)
        if layout.flags is not None:
            self.number(at + layout.flags, flags if flags is not None else COMPUTE * (op != "NONE" and self.marked), 4)
        (self.leafs if op == "NONE" else self.nodes).append(at)
        self.shapes[at] = (name, shape)
        return at

    def leaf(self, name, ne, kind="q8_0") -> int:
        return self.tensor("NONE", name, ne, kind=kind)

    def close(self, uid: int = 7, leafs: bool = True) -> int:
        """The finished graph's address. Without `leafs` like a part of a split graph."""
        graph: GraphLayout = self.layouts.graph
        listed = self.leafs if leafs else []
        self.header = ctypes.create_string_buffer(8 * 3 * 4096 + 4096)
        self.arrays = [np.array(array or [0], dtype="<u8") for array in (self.nodes, listed)]
        at = ctypes.addressof(self.header)
        self.number(at + graph.n_nodes, len(self.nodes), 4)
        if graph.n_leafs is not None:
            self.number(at + graph.n_leafs, len(listed), 4)
        for offset, array in zip((graph.nodes, graph.leafs), self.arrays, strict=True):
            if offset is not None and graph.inline:
                self.put(at + offset, array.tobytes())
            elif offset is not None:
                self.number(at + offset, array.ctypes.data if array[0] else 0)
        if graph.uid is not None:
            keys = self.arrays[0].ctypes.data
            for word, value in enumerate((8209, keys + 8, keys, 0, uid)):
                self.number(at + graph.uid - 32 + 8 * word, value)
        return at


def transformer(layouts: Layouts, layers=3, tokens=1, outputs=1, experts=0, marked=True) -> MemoryGraph:
    """A llama-like graph: every operator that a layer has, with llama.cpp's names."""
    g = MemoryGraph(layouts, capacity=64 + layers * 48, marked=marked)
    width, wide, vocabulary = 64, 128, 2048
    ids = g.leaf("inp_tokens", (tokens,), "i32")
    x = g.tensor("GET_ROWS", "embd", (width, tokens), (g.leaf("token_embd.weight", (width, vocabulary)), ids))
    for n in range(layers):
        norm = g.tensor("RMS_NORM", f"norm-{n}", (width, tokens), (x,))
        h = g.tensor(
            "MUL", f"attn_norm-{n}", (width, tokens), (norm, g.leaf(f"blk.{n}.attn_norm.weight", (width,), "f32"))
        )
        q = g.tensor("MUL_MAT", f"Qcur-{n}", (width, tokens), (g.leaf(f"blk.{n}.attn_q.weight", (width, width)), h))
        cache = g.leaf(f"cache_k_l{n}", (width, 32), "f16")
        view = g.tensor("VIEW", f"cache_k_l{n} (view)", (width, 16), (cache,), "f16", view_of=cache, offset=2 * width)
        kq = g.tensor("MUL_MAT", f"kq-{n}", (16, tokens), (view, q))
        soft = g.tensor("SOFT_MAX", f"node_{len(g.nodes)}", (16, tokens), (kq,))
        flat = g.tensor("RESHAPE", f"kqv_out-{n}", (16 * tokens,), (soft,), view_of=soft)
        out = g.tensor("MUL", f"node_{len(g.nodes)}", (width, tokens), (q, flat))
        proj = g.tensor(
            "MUL_MAT",
            f"node_{len(g.nodes)}",
            (width, tokens),
            (g.leaf(f"blk.{n}.attn_output.weight", (width, width)), out),
        )
        x = g.tensor("ADD", f"ffn_inp-{n}", (width, tokens), (proj, x))
        norm = g.tensor("RMS_NORM", f"norm-{n}", (width, tokens), (x,))
        h = g.tensor(
            "MUL", f"ffn_norm-{n}", (width, tokens), (norm, g.leaf(f"blk.{n}.ffn_norm.weight", (width,), "f32"))
        )
        down = _experts(g, n, h, tokens, experts, width) if experts else _dense(g, n, h, tokens, width, wide)
        x = g.tensor("ADD", f"l_out-{n}", (width, tokens), (down, x))
    x = g.tensor("GET_ROWS", f"node_{len(g.nodes)}", (width, outputs), (x, g.leaf("inp_out_ids", (outputs,), "i32")))
    x = g.tensor("RMS_NORM", "norm", (width, outputs), (x,))
    x = g.tensor("MUL", "result_norm", (width, outputs), (x, g.leaf("output_norm.weight", (width,), "f32")))
    g.tensor("MUL_MAT", "result_output", (vocabulary, outputs), (g.leaf("output.weight", (width, vocabulary)), x))
    return g


def _dense(g, n, h, tokens, width, wide) -> int:
    gate = g.tensor("MUL_MAT", f"ffn_gate-{n}", (wide, tokens), (g.leaf(f"blk.{n}.ffn_gate.weight", (width, wide)), h))
    act = g.tensor("UNARY", f"ffn_silu-{n}", (wide, tokens), (gate,), sub=1)
    return g.tensor(
        "MUL_MAT", f"ffn_out-{n}", (width, tokens), (g.leaf(f"blk.{n}.ffn_down.weight", (wide, width)), act)
    )


def _experts(g, n, h, tokens, experts, width) -> int:
    logits = g.tensor(
        "MUL_MAT",
        f"ffn_moe_logits-{n}",
        (experts, tokens),
        (g.leaf(f"blk.{n}.ffn_gate_inp.weight", (width, experts), "f32"), h),
    )
    sort = g.tensor("ARGSORT", f"ffn_moe_argsort-{n}", (experts, tokens), (logits,), "i32")
    ids = g.tensor("VIEW", f"ffn_moe_topk-{n}", (2, tokens), (sort,), "i32", view_of=sort)
    weight = g.leaf(f"blk.{n}.ffn_down_exps.weight", (width, width, experts))
    out = g.tensor("MUL_MAT_ID", f"ffn_moe_down-{n}", (width, 2, tokens), (weight, h, ids))
    act = g.tensor("GLU", f"ffn_moe_swiglu-{n}", (width, 2, tokens), (out,), sub=1)
    return g.tensor("ADD", f"ffn_moe_out-{n}", (width, tokens), (act, h))
