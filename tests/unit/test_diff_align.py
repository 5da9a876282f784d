"""What is taken for the same work on both sides."""

from __future__ import annotations

import pytest
from flowprof.profiler.diff.rows.align import align
from flowprof.profiler.diff.steps.steps import Group


def op(name: str, tensor: str = "", shape: str = "64 f32", block: str = "ffn", phase: str = "decode") -> Group:
    return Group("operator", phase, block, name, tensor, shape)


def placed(*groups: Group) -> dict[Group, int]:
    return {group: at for at, group in enumerate(groups)}


UP, DOWN = op("MUL_MAT", "ffn_up", "64x128 q8_0"), op("MUL_MAT", "ffn_down", "128x64 q8_0")
NORM = op("RMS_NORM", "norm")
KQ, SOFT, KQV = (
    op("MUL_MAT", "kq", "a", "attention"),
    op("SOFT_MAX", "kq_soft_max", "b", "attention"),
    op("MUL_MAT", "kqv", "c", "attention"),
)
QCUR, OUT = op("MUL_MAT", "Qcur", "64x64 q8_0", "attention"), op("MUL_MAT", "attn_out", "64x64 q8_0", "attention")
FLASH = op("FLASH_ATTN_EXT", "", "64 heads", "attention")


@pytest.mark.parametrize(
    ("a", "b", "how"),
    [
        ([NORM, UP, DOWN], [NORM, UP, DOWN], {""}),
        ([NORM, UP], [NORM, op("MUL_MAT", "ffn_up", "64x128 q4_0")], {""}),  # another type of weights
        ([NORM, UP], [NORM, op("MUL_MAT", "ffn_in", "64x128 q8_0")], {"", "renamed: ffn_up → ffn_in"}),
        ([NORM, UP], [NORM, op("MUL_MAT", "ffn_up", "64x128 q8_0", "moe")], {"", "moved: ffn → moe"}),
        (
            [QCUR, KQ, SOFT, KQV, OUT], [QCUR, FLASH, OUT],
            {"", "fused: MUL_MAT + SOFT_MAX → FLASH_ATTN_EXT"},
        ),
        (
            [QCUR, FLASH, OUT], [QCUR, KQ, SOFT, KQV, OUT],
            {"", "split: FLASH_ATTN_EXT → MUL_MAT + SOFT_MAX"},
        ),
        ([NORM, op("SILU", "gate"), DOWN], [NORM, op("GELU", "act"), DOWN], {"", "replaced: SILU → GELU"}),
    ],
)  # fmt: skip
def test_partners(a: list[Group], b: list[Group], how: set[str]) -> None:
    found = align(placed(*a), placed(*b))
    assert {match.how for match in found} == how
    assert all(match.a and match.b for match in found)
    assert sorted(map(str, (g for match in found for g in match.a))) == sorted(map(str, a))
    assert sorted(map(str, (g for match in found for g in match.b))) == sorted(map(str, b))


def test_no_partner() -> None:
    """An operator in another place of the block, with another name, shape and kind, is new."""
    extra = op("CONT", "copy", "9x9 f32")
    found = align(placed(NORM, UP, DOWN), placed(NORM, UP, extra, DOWN))
    assert [(match.a, match.b) for match in found if not match.a or not match.b] == [((), (extra,))]


def test_phases_are_never_mixed() -> None:
    found = align(placed(UP), placed(op("MUL_MAT", "ffn_up", "64x128 q8_0", phase="prefill")))
    assert all(not match.a or not match.b for match in found)


def test_nothing() -> None:
    assert align({}, {}) == []
