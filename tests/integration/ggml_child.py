"""Run by the layout tests in a process of its own: build and compute a small graph through a ggml library's exported
functions.

    python ggml_child.py LIBRARY… < pipe

The libraries are loaded in order (what they need first). Prints one JSON line with the graph's address and the truth
about its nodes, as this program built them, then waits for the end of its input. Weights are Q8_0 and zero; the
names are llama.cpp's. A line "COUNT THREADS" on its input makes it compute the graph so many times more and say "done".
"""

import ctypes
import json
import os
import sys
from pathlib import Path

F32, Q8_0, I32 = 0, 8, None  # the number of I32 has shifted: it is asked for
LAYERS, WIDTH, WIDE, VOCABULARY, TOKENS = 3, 64, 128, 256, 5


class InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Ggml:
    """The functions wherever they are: `ggml.mul_mat(ctx, a, b)`; pointers are plain integers."""

    def __init__(self, paths):
        self.libraries = [ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL) for path in paths]

    def __getattr__(self, name):
        for library in self.libraries:
            function = getattr(library, f"ggml_{name}", None)
            if function is not None:
                break
        else:
            raise AttributeError(name)
        function.restype = ctypes.c_char_p if name.endswith("_name") and name != "get_name" else ctypes.c_void_p

        def call(*values):
            passed = [ctypes.c_uint64(value) if type(value) is int else value for value in values]
            return function(*passed)

        return call


class Builder:
    """Builds tensors and remembers what they must look like."""

    def __init__(self, ggml):
        self.ggml = ggml
        self.ctx = ggml.init(InitParams(64 << 20, None, False))
        self.tensors = {}
        self.i32 = next(at for at in range(40) if ggml.type_name(at) == b"i32")

    def note(self, tensor, name, op, ne, sources=(), kind="f32"):
        self.ggml.set_name(tensor, name.encode())
        shape = list(ne) + [1] * (4 - len(ne))
        self.tensors[tensor] = {"name": name, "op": op, "ne": shape, "type": kind, "sources": list(sources)}
        return tensor

    def weight(self, name, *ne, kind=Q8_0):
        make = {1: self.ggml.new_tensor_1d, 2: self.ggml.new_tensor_2d}[len(ne)]
        tensor = make(self.ctx, kind, *ne)
        elements = ne[0] * (ne[1] if len(ne) > 1 else 1)
        ctypes.memset(self.ggml.get_data(tensor), 0, elements if kind == Q8_0 else elements * 4)
        return self.note(tensor, name, "NONE", ne, kind={F32: "f32", Q8_0: "q8_0"}.get(kind, "i32"))

    def op(self, name, op, ne, *arguments):
        """`arguments`: source tensors, then plain values."""
        tensor = getattr(self.ggml, op[0])(self.ctx, *arguments)
        last = 1 if op[1] == "REPEAT" else len(arguments)  # its second argument gives only the shape
        sources = [value for value in arguments[:last] if isinstance(value, int) and value in self.tensors]
        return self.note(tensor, name, op[1], ne, sources)


def layer(b, n, x):
    eps = ctypes.c_float(1e-5)
    row = (WIDTH, TOKENS)
    norm = b.op(f"norm-{n}", ("rms_norm", "RMS_NORM"), row, x, eps)
    gain = b.weight(f"blk.{n}.attn_norm.weight", WIDTH, kind=F32)
    h = b.op(f"attn_norm-{n}", ("mul", "MUL"), row, norm, gain)
    q = b.op(f"Qcur-{n}", ("mul_mat", "MUL_MAT"), row, b.weight(f"blk.{n}.attn_q.weight", WIDTH, WIDTH), h)
    k = b.op(f"Kcur-{n}", ("mul_mat", "MUL_MAT"), row, b.weight(f"blk.{n}.attn_k.weight", WIDTH, WIDTH), h)
    q3 = b.op(f"Qcur-{n} (reshaped)", ("reshape_3d", "RESHAPE"), (16, 4, TOKENS), q, 16, 4, TOKENS)
    k3 = b.op(f"Kcur-{n} (reshaped)", ("reshape_3d", "RESHAPE"), (16, 4, TOKENS), k, 16, 4, TOKENS)
    qp = b.op(f"q-{n}", ("permute", "PERMUTE"), (16, TOKENS, 4), q3, 0, 2, 1, 3)
    kp = b.op(f"k-{n}", ("permute", "PERMUTE"), (16, TOKENS, 4), k3, 0, 2, 1, 3)
    kq = b.op(f"kq-{n}", ("mul_mat", "MUL_MAT"), (TOKENS, TOKENS, 4), kp, qp)
    soft = b.op(f"kq_soft_max-{n}", ("soft_max", "SOFT_MAX"), (TOKENS, TOKENS, 4), kq)
    flat = b.op(f"kq_flat-{n}", ("view_1d", "VIEW"), (TOKENS,), soft, TOKENS, 4 * TOKENS)
    total = b.op(f"kq_sum-{n}", ("repeat", "REPEAT"), (TOKENS, TOKENS, 4), flat, soft)
    out = b.op(f"kqv-{n}", ("cont", "CONT"), (TOKENS, TOKENS, 4), total)
    b.extra.append(out)
    x = b.op(f"ffn_inp-{n}", ("add", "ADD"), row, q, x)
    gate = b.op(
        f"ffn_gate-{n}", ("mul_mat", "MUL_MAT"), (WIDE, TOKENS), b.weight(f"blk.{n}.ffn_gate.weight", WIDTH, WIDE), x
    )
    act = b.op(f"ffn_silu-{n}", ("silu", "UNARY(SILU)"), (WIDE, TOKENS), gate)
    down = b.op(f"ffn_out-{n}", ("mul_mat", "MUL_MAT"), row, b.weight(f"blk.{n}.ffn_down.weight", WIDE, WIDTH), act)
    return b.op(f"l_out-{n}", ("add", "ADD"), row, down, x)


def main():
    ggml = Ggml(sys.argv[1:])
    b = Builder(ggml)
    b.extra = []
    ids = b.weight("inp_tokens", TOKENS, kind=b.i32)
    table = b.weight("token_embd.weight", WIDTH, VOCABULARY)
    x = b.op("embd", ("get_rows", "GET_ROWS"), (WIDTH, TOKENS), table, ids)
    for n in range(LAYERS):
        x = layer(b, n, x)
    x = b.op("result_norm", ("rms_norm", "RMS_NORM"), (WIDTH, TOKENS), x, ctypes.c_float(1e-5))
    x = b.op(
        "result_output", ("mul_mat", "MUL_MAT"), (VOCABULARY, TOKENS), b.weight("output.weight", WIDTH, VOCABULARY), x
    )
    graph = ggml.new_graph(b.ctx)
    for tensor in [*b.extra, x]:
        ggml.build_forward_expand(graph, tensor)
    ggml.graph_compute_with_ctx(b.ctx, graph, 1)
    truth = {
        str(address): tensor | {"name_offset": ggml.get_name(address) - address, "data": ggml.get_data(address)}
        for address, tensor in b.tensors.items()
    }
    library = {Path(path).name: path for path in sys.argv[1:]}
    print(json.dumps({"pid": os.getpid(), "cgraph": graph, "tensors": truth, "libraries": library}), flush=True)
    for line in sys.stdin:
        count, threads = map(int, line.split())
        for _ in range(count):
            ggml.graph_compute_with_ctx(b.ctx, graph, threads)
        print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
