"""Schemas from texts, and where their arguments are passed: by hand, and as g++ passes them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import cast

import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.torch.schemas import (
    FLAG,
    MAX_SCHEMA,
    MAYBE_TENSOR,
    NUMBER,
    NUMBERS,
    OLD_MAYBE_TENSOR,
    TENSOR,
    TENSORS,
    TENSORS_AT,
    Schema,
    has_old_optional,
    operator_name,
    read_schemas,
    struct_name,
)  # fmt: skip

T, MT, TS, N, NS, F = TENSOR, MAYBE_TENSOR, TENSORS, NUMBER, NUMBERS, FLAG


class Rodata:
    """A file that has nothing but these bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def section(self, name: str) -> object:
        return self if name == ".rodata" else None

    def section_bytes(self, section: object) -> bytes:
        assert section is self
        return self.data


def schemas(*texts: str | bytes) -> dict[str, Schema]:
    data = b"\0" + b"\0".join(text.encode() if isinstance(text, str) else text for text in texts) + b"\0"
    return read_schemas(cast(ElfFile, Rodata(data)))


def schema(text: str) -> Schema:
    [found] = schemas(text).values()
    return found


# (kind, where, length, index) of what is read; 0–5 are registers, 6 … the stack. A result in memory takes register 0.
PLACES = [
    ("mm(Tensor self, Tensor mat2) -> Tensor", [(T, 1, 0, 0), (T, 2, 0, 1)]),
    (
        "add_.Tensor(Tensor(a!) self, Tensor other, *, Scalar alpha=1) -> Tensor(a!)",
        [(T, 0, 0, 0), (T, 1, 0, 1)],
    ),
    (
        "addmm.out(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1, Tensor(a!) out) "
        "-> Tensor(a!)",
        [(T, 0, 0, 0), (T, 1, 0, 1), (T, 2, 0, 2), (T, 5, 0, 5)],
    ),
    (
        "max.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)",
        [(T, 1, 0, 0), (N, 2, 0, 1), (F, 3, 0, 2)],
    ),
    (
        "max.dim_max(Tensor self, int dim, *, Tensor(a!) max, Tensor(b!) max_values) "
        "-> (Tensor(a!) values, Tensor(b!) indices)",
        [(T, 1, 0, 0), (T, 3, 0, 2), (T, 4, 0, 3), (N, 2, 0, 1)],
    ),
    ("is_same_size(Tensor self, Tensor other) -> bool", [(T, 0, 0, 0), (T, 1, 0, 1)]),
    ("sym_size.int(Tensor self, int dim) -> SymInt", [(T, 1, 0, 0), (N, 2, 0, 1)]),
    (
        "conv2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, SymInt[2] padding=0, "
        "SymInt[2] dilation=1, SymInt groups=1) -> Tensor",
        [(T, 1, 0, 0), (T, 2, 0, 1), (MT, 3, 0, 2), (NS, 4, 5, 3), (NS, 6, 7, 4), (NS, 8, 9, 5)],
    ),
    (  # the last four flags find no room
        "_convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
        "bool transposed, SymInt[] output_padding, SymInt groups, bool benchmark, bool deterministic, "
        "bool cudnn_enabled, bool allow_tf32) -> Tensor",
        [
            (T, 1, 0, 0),
            (T, 2, 0, 1),
            (MT, 3, 0, 2),
            (NS, 4, 5, 3),
            (NS, 6, 7, 4),
            (NS, 8, 9, 5),
            (NS, 11, 12, 7),
            (F, 10, 0, 6),
        ],
    ),
    (
        "scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, "
        "float dropout_p=0.0, bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor",
        [(T, 1, 0, 0), (T, 2, 0, 1), (T, 3, 0, 2), (MT, 4, 0, 3), (F, 5, 0, 5), (F, 8, 0, 7)],
    ),
    (  # the pair finds no room and goes to the stack, and the flag behind it takes the register that is left
        "pair_last(Tensor self, int a, Tensor b, Tensor c, SymInt[2] size, bool last) -> Tensor",
        [(T, 1, 0, 0), (T, 3, 0, 2), (T, 4, 0, 3), (NS, 6, 7, 4), (N, 2, 0, 1), (F, 5, 0, 5)],
    ),
    (
        "maybe_number(Tensor a, Tensor b, Tensor c, Tensor d, int? n, bool last, bool further) -> Tensor",
        [(T, 1, 0, 0), (T, 2, 0, 1), (T, 3, 0, 2), (T, 4, 0, 3), (F, 5, 0, 5), (F, 8, 0, 6)],
    ),
    (
        "mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor",
        [(T, 1, 0, 0), (F, 2, 0, 2)],
    ),
    (
        "in_memory(Tensor self, int[1]? dim, Tensor a, Tensor b, Tensor c, Tensor d, Tensor e, bool last) -> Tensor",
        [(T, 1, 0, 0), (T, 2, 0, 2), (T, 3, 0, 3), (T, 4, 0, 4), (T, 5, 0, 5), (T, 9, 0, 6), (F, 10, 0, 7)],
    ),
    (
        "half(float? a, float b, Tensor c, float? d, SymInt[] e, float? f, bool g, float? h, bool i) -> Tensor",
        [(T, 2, 0, 2), (NS, 4, 5, 4), (F, 8, 0, 6), (F, 11, 0, 8)],
    ),
    (
        "native_layer_norm_backward(Tensor grad_out, Tensor input, SymInt[] normalized_shape, Tensor mean, "
        "Tensor rstd, Tensor? weight, Tensor? bias, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
        [(T, 1, 0, 0), (T, 2, 0, 1), (T, 5, 0, 3), (T, 6, 0, 4), (MT, 7, 0, 5), (MT, 8, 0, 6), (NS, 3, 4, 2)],
    ),
    ("einsum(str equation, Tensor[] tensors, *, int[]? path=None) -> Tensor", [(TS, 3, 4, 1)]),
    (
        "index_put_(Tensor(a!) self, Tensor?[] indices, Tensor values, bool accumulate=False) -> Tensor(a!)",
        [(T, 0, 0, 0), (T, 2, 0, 2), (F, 3, 0, 3)],
    ),
    (
        "normal_(Tensor(a!) self, float mean=0, float std=1, *, Generator? generator=None, bool x=True) -> Tensor(a!)",
        [(T, 0, 0, 0), (F, 2, 0, 4)],
    ),
    (
        "split.sizes(Tensor(a -> *) self, SymInt[] split_size, int dim=0) -> Tensor(a)[]",
        [(T, 1, 0, 0), (NS, 2, 3, 1), (N, 4, 0, 2)],
    ),
    (
        'pad(Tensor self, SymInt[2] pad=[0, 0], str mode="constant", float? value=None, bool x=False) -> Tensor',
        [(T, 1, 0, 0), (NS, 2, 3, 1), (F, 8, 0, 4)],
    ),
    ("_foreach_add_.Scalar(Tensor(a!)[] self, Scalar scalar, int n) -> ()", [(N, 3, 0, 2), (TS, 0, 1, 0)]),
    (
        "to.dtype_layout(Tensor(a) self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, "
        "bool? pin_memory=None, bool non_blocking=False, bool copy=False, MemoryFormat? memory_format=None) "
        "-> Tensor(a)",
        [(T, 1, 0, 0), (F, 6, 0, 5), (F, 7, 0, 6)],
    ),
]


@pytest.mark.parametrize(("text", "expected"), PLACES, ids=[text.split("(")[0] for text, _ in PLACES])
def test_places_by_hand(text: str, expected: list[tuple[int, int, int, int]]) -> None:
    found = schema(text).places("_ZN2at4_ops1x4callE")
    assert [(one.kind, one.where, one.length, one.index) for one in found] == expected


def test_a_list_by_reference_is_not_read_as_a_pair() -> None:
    cat = schema("cat(Tensor[] tensors, int dim=0) -> Tensor")
    by_reference = cat.places("4callERKN3c108IListRefINS_6TensorEEEl")
    assert [(p.kind, p.where, p.length) for p in by_reference] == [(N, 2, 0), (TENSORS_AT, 1, 0)]
    assert [(p.kind, p.where, p.length) for p in cat.places("4callEN3c108ArrayRef")] == [(N, 3, 0), (TS, 1, 2)]


OLD = "_ZN2at4_ops8mean_dim4callERKNS_6TensorEN3c108optionalINS5_8ArrayRefIlEEEEb"


def test_optionals_of_old() -> None:
    """Old builds have an optional of their own: one of a list takes two words, and says first whether it is there."""
    assert has_old_optional(["_ZN2at4_ops2mm4callERKNS_6TensorES4_", OLD])
    assert has_old_optional(["_ZN2at4_ops6linear4callERKNS_6TensorES4_RKNS5_8optionalIS2_EE"])
    assert not has_old_optional(["_ZN2at4_ops6linear4callERKNS_6TensorES4_RKSt8optionalIS2_E"])
    mean = schema("mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor")
    assert [(p.kind, p.where) for p in mean.places(OLD, True)] == [(T, 1), (F, 4)]
    linear = schema("linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor")
    assert [(p.kind, p.where) for p in linear.places(OLD, True)] == [(T, 1), (T, 2), (OLD_MAYBE_TENSOR, 3)]


def test_a_text_within_another() -> None:
    """A linker keeps `addmm(…` only at the end of `sspaddmm(…`."""
    text = "(Tensor self, Tensor mat1, Tensor mat2) -> Tensor"
    data = f"\0sspaddmm{text}\0arccos.out(Tensor self) -> Tensor\0acos.out(Tensor self) -> Tensor\0".encode()
    data += b"\0long_cos(Tensor self) -> Tensor\0other_cos(Tensor self, int n) -> Tensor\0"
    elf = cast(ElfFile, Rodata(data))
    found = read_schemas(elf, ["addmm", "cos_out", "cos", "sspaddmm", "out", "_out", "nothing", "x" * 5000])
    assert set(found) == {"sspaddmm", "arccos_out", "acos_out", "long_cos", "other_cos", "addmm", "cos_out"}
    assert found["addmm"] == Schema("addmm", "", ("Tensor", "Tensor", "Tensor"), "Tensor")
    assert (found["cos_out"].name, found["cos_out"].overload) == ("cos", "out")


def test_far_up_the_stack_and_unknown_types() -> None:
    many = ", ".join(f"Tensor?[] a{n}" for n in range(60))
    assert [one.index for one in schema(f"far({many}, bool last) -> Tensor").places("")] == []
    assert schema("named(Tensor self, Dimname dim) -> Tensor").places("") == ()
    assert schema("none() -> Tensor").places("") == ()


# -- as g++ does it ---------------------------------------------------------------------------------------------------

TYPES = {
    "Tensor": ("const Tensor &", "t[{n}]"), "Tensor?": ("const std::optional<Tensor> &", "mt[{n}]"),
    "Tensor[]": ("ArrayRef<Tensor>", "{{t + {n}, {n} + 70}}"), "Tensor?[]": ("const List &", "list"),
    "Scalar": ("const Scalar &", "scalar"), "SymInt": ("SymInt", "SymInt()"), "int": ("int64_t", "{n} + 7000"),
    "bool": ("bool", "true"), "float": ("double", "1.5"), "int?": ("std::optional<int64_t>", "int64_t(2)"),
    "float?": ("std::optional<double>", "2.5"), "bool?": ("std::optional<bool>", "false"),
    "ScalarType?": ("std::optional<int8_t>", "int8_t(2)"), "Layout?": ("std::optional<int8_t>", "int8_t(2)"),
    "MemoryFormat?": ("std::optional<int8_t>", "int8_t(2)"), "Device?": ("std::optional<Device>", "Device{{2, 4}}"),
    "Generator?": ("std::optional<Generator>", "Generator()"), "str": ("ArrayRef<char>", '{{"mm", 2}}'),
    "SymInt[]": ("ArrayRef<SymInt>", "{{symbols + {n}, {n} + 80}}"),
    "int[]?": ("std::optional<ArrayRef<int64_t>>", "ArrayRef<int64_t>{{nullptr, 2}}"),
    "bools": ("std::array<bool, 3>", "std::array<bool, 3>{{}}"),
}  # fmt: skip
RESULTS = {
    "Tensor": "Tensor", "Tensor(a)": "Tensor", "Tensor(a!)": "Tensor &", "bool": "bool", "()": "void",
    "SymInt": "SymInt", "Tensor(a)[]": "std::vector<Tensor>",
    "(Tensor values, Tensor indices)": "std::tuple<Tensor, Tensor>",
    "(Tensor(a!) values, Tensor(b!) indices)": "std::tuple<Tensor &, Tensor &>",
    "(Tensor, Tensor, Tensor)": "std::tuple<Tensor, Tensor, Tensor>",
}  # fmt: skip
PROGRAM = r"""
#include <array>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <tuple>
#include <vector>
struct Tensor { void *impl; Tensor(); Tensor(const Tensor &); ~Tensor(); };
struct Scalar { int64_t tag, value[2]; ~Scalar(); };
struct SymInt { int64_t value; SymInt(); SymInt(const SymInt &); ~SymInt(); };
struct Generator { void *impl; Generator(); Generator(const Generator &); ~Generator(); };
struct List { void *impl; ~List(); };
struct Device { int8_t type, index; };
template <typename T> struct ArrayRef { const T *data; size_t size; };
Tensor::Tensor() {} Tensor::Tensor(const Tensor &) {} Tensor::~Tensor() {} Scalar::~Scalar() {} List::~List() {}
SymInt::SymInt() {} SymInt::SymInt(const SymInt &) {} SymInt::~SymInt() {}
Generator::Generator() {} Generator::Generator(const Generator &) {} Generator::~Generator() {}
Tensor t[64]; std::optional<Tensor> mt[64]; Scalar scalar; List list; SymInt symbols[64]; uint64_t words[40];
static void told(int schema, int index, uint64_t word, uint64_t length) {
    printf("%d %d %lu %lu\n", schema, index, (unsigned long)word, (unsigned long)length);
}
static void seen(int schema) { for (int i = 0; i < 40; i++) told(schema, 100 + i, words[i], 0); }
"""
STUB = """
asm(".globl {name}\\n{name}: lea words(%rip), %r10\\n movq %rdi, (%r10)\\n movq %rsi, 8(%r10)\\n movq %rdx, 16(%r10)\\n"
    " movq %rcx, 24(%r10)\\n movq %r8, 32(%r10)\\n movq %r9, 40(%r10)\\n movq %rdi, %rax\\n xorl %ecx, %ecx\\n"
    "1: movq 8(%rsp,%rcx,8), %r11\\n movq %r11, 48(%r10,%rcx,8)\\n incl %ecx\\n cmpl $34, %ecx\\n jb 1b\\n ret\\n");
"""


def test_places_as_the_compiler_has_them(tmp_path: Path) -> None:
    """Each schema's C++ signature is called for real; where its arguments then stand is what `places` says."""
    source, body, read = PROGRAM, "", [schema(text) for text, _ in PLACES]
    for number, one in enumerate(read):
        types = ", ".join(TYPES[kind][0] for kind in one.args)
        values = ", ".join(TYPES[kind][1].format(n=n) for n, kind in enumerate(one.args))
        source += STUB.format(name=f"call{number}")
        source += f'extern "C" {RESULTS[one.result]} call{number}({types});\n'
        kept = "" if one.result == "()" else f"auto &&r{number} = "
        body += f"  {kept}call{number}({values});\n  seen({number});\n"
    for number, one in enumerate(read):
        for n, kind in enumerate(one.args):
            word = {"Tensor": f"&t[{n}]", "Tensor?": f"&mt[{n}]", "Tensor[]": f"t + {n}", "int": f"{n} + 7000",
                    "bool": "1", "SymInt[]": f"symbols + {n}"}.get(kind)  # fmt: skip
            length = {"Tensor[]": n + 70, "SymInt[]": n + 80}.get(kind, 0)
            if word:
                body += f"  told({number}, {n}, (uint64_t)({word}), {length});\n"
    (tmp_path / "p.cpp").write_text(f"{source}\nint main() {{\n{body}  fflush(stdout); _Exit(0);\n}}\n".replace(
        "#include <cstdio>", "#include <cstdio>\n#include <cstdlib>"))  # fmt: skip
    program = tmp_path / "p"
    subprocess.run(["g++", "-std=c++17", "-O0", "-w", "-o", program, tmp_path / "p.cpp"], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True, timeout=20).stdout.splitlines()
    told = {(int(a), int(b)): (int(c), int(d)) for a, b, c, d in map(str.split, lines)}
    checked = 0
    for number, one in enumerate(read):
        for place in one.places("_ZN2at4_ops1x4callE"):
            stands = told[number, 100 + place.where][0]
            word, length = told[number, place.index]
            where = f"{one.name}, argument {place.index}, at {place.where}"
            assert (stands & 1 if place.kind == FLAG else stands) == word, where
            if place.length:
                assert told[number, 100 + place.length][0] == length, where
            checked += 1
    assert checked == sum(len(expected) for _, expected in PLACES)


# -- texts ------------------------------------------------------------------------------------------------------------


def test_reading() -> None:
    found = schemas("noise", "mm(Tensor self, Tensor mat2) -> Tensor", "printf(%s)", "add.Tensor(Tensor a) -> Tensor",
                    "aten::mul(Tensor a) -> Tensor", "mm(int later) -> int", "x(Tensor", "y) -> Tensor")  # fmt: skip
    assert list(found) == ["mm", "add_Tensor"]
    assert found["mm"] == Schema("mm", "", ("Tensor", "Tensor"), "Tensor"), "the first of a name counts"
    begins = cast(ElfFile, Rodata(b"mm(Tensor self) -> Tensor\0"))
    assert list(read_schemas(begins)) == ["mm"], "at the very beginning of the section"
    assert read_schemas(cast(ElfFile, type("E", (), {"section": lambda *_: None})())) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"\0f(" + b"(" * 4000 + b") -> Tensor\0",
        b"\0f(" + b")" * 4000 + b") -> Tensor\0",
        b"\0f(" + b"Tensor a[, " * 300 + b") -> Tensor\0",
        b"\0f(\xff\xfe\xc3 \x80=) -> \xff\0",
        b"\0f(, ,,  ,=,*) -> Tensor\0",
        b"\0f(Tensor(a!) -> Tensor\0",
        b"\0" + b"f" * 300 + b"(Tensor a) -> Tensor\0",
        b"\0f(" + b"a" * (MAX_SCHEMA + 10) + b") -> Tensor\0",
        b"\0f(",
        b"",
    ],
)
def test_hostile_texts(data: bytes) -> None:
    for one in read_schemas(cast(ElfFile, Rodata(data))).values():
        assert one.places("x") == ()
        assert len("".join(one.args)) <= MAX_SCHEMA


def test_many_texts_that_nearly_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with hundreds of arrows: a search that tries all of them takes long."""
    nearly = b"f(" + b") -> " * 700 + b"x" * 500
    data = b"\0".join([nearly] * 2000)
    found = read_schemas(cast(ElfFile, Rodata(data)))
    assert len(found) <= 1
    monkeypatch.setattr("flowprof.profiler.torch.schemas.MAX_SCHEMAS", 5)
    assert len(schemas(*(f"f{n}(Tensor a) -> Tensor" for n in range(50)))) == 5


@pytest.mark.parametrize(
    ("symbol", "struct", "name"),
    [
        ("_ZN2at4_ops2mm4callERKNS_6TensorES4_", "mm", "aten::mm"),
        ("_ZN2at4_ops10add_Tensor4callERKNS_6TensorES4_RKN3c106ScalarE", "add_Tensor", "aten::add"),
        (
            "_ZN2at4_ops2mm10redispatchEN3c1014DispatchKeySetE",
            None,
            "_ZN2at4_ops2mm10redispatchEN3c1014DispatchKeySetE",
        ),
        ("_ZN2at4_ops999mm4callE", None, "_ZN2at4_ops999mm4callE"),
        ("_ZN2at4_ops5sum_x4callE", "sum_x", "aten::sum_x"),
        ("_ZN4c10d16ProcessGroupGloo9allreduceERSt6vector", None, "c10d::allreduce"),
        ("_ZN4c10d16ProcessGroupNCCL13recvAnysourceERSt6vector", None, "c10d::recvAnysource"),
        ("_ZN4c10d4Work4waitENSt6chrono8durationE", None, "c10d::wait"),
        ("_ZN4c10d16ProcessGroupGloo8SendWork4waitENSt6chrono8durationE", None, "c10d::wait"),
        ("", None, ""),
    ],
)
def test_names(symbol: str, struct: str | None, name: str) -> None:
    known = schemas("add.Tensor(Tensor self, Tensor other) -> Tensor", "mm(Tensor self) -> Tensor")
    assert struct_name(symbol) == struct
    assert operator_name(symbol, known) == name
