"""Tensor names → layer and block, and what unnamed tensors take over."""

import pytest
from flowprof.profiler.ggml.blocks import own_place, place_nodes

NAMES = [
    ("Qcur-7", 7, "attention"),
    ("Qcur-7 (reshaped) (view)", 7, "attention"),
    ("kq-7", 7, "attention"),
    ("kqv_out-31", 31, "attention"),
    ("kq_soft_max_ext-2", 2, "attention"),
    ("attn_norm-3", 3, "attention"),
    ("cache_k_l3", 3, "attention"),
    ("cache_v_l12 (view) (permuted)", 12, "attention"),
    ("blk.7.attn_q.weight", 7, "attention"),
    ("blk.0.attn_sinks.weight", 0, "attention"),
    ("__fattn__-4", 4, "attention"),
    ("decoder.blocks.3.cross_attn.query.weight", 3, "attention"),
    ("encoder.blocks.0.mlp.0.weight", 0, "ffn"),
    ("enc.blk.2.ffn_up.weight", 2, "ffn"),
    ("ffn_gate-7", 7, "ffn"),
    ("ffn_inp-0", 0, "ffn"),
    ("blk.11.ffn_down.weight", 11, "ffn"),
    ("l_out-5", 5, "ffn"),
    ("ffn_moe_gate-3", 3, "moe"),
    ("ffn_moe_topk-3 (view)", 3, "moe"),
    ("blk.2.ffn_gate_inp.weight", 2, "moe"),
    ("blk.2.ffn_up_exps.weight", 2, "moe"),
    ("blk.2.ffn_up_shexp.weight", 2, "moe"),
    ("result_norm", None, "output"),
    ("result_output", None, "output"),
    ("output.weight", None, "output"),
    ("output_norm.weight", None, "output"),
    ("token_embd.weight", None, "other"),
    ("inp_embd", None, "other"),
    ("node_123", None, "other"),
    ("leaf_12", None, "other"),
    (" (view)", None, "other"),
    ("", None, "other"),
    ("norm-3", 3, "other"),
    ("a-99999999999999999999", None, "other"),
    ("<script>-1", 1, "other"),
]


@pytest.mark.parametrize("name,layer,block", NAMES)
def test_by_name(name, layer, block):
    number, own = own_place(name)
    assert (number, own or "other") == (layer, block)


def place(rows, n_nodes):
    """rows: (name, op, sources)."""
    names, ops, sources = zip(*rows, strict=True)
    return place_nodes(names, ops, sources, n_nodes)


def test_a_norm_belongs_to_its_reader_and_others_to_their_weights_or_sources():
    rows = [
        ("embd", "GET_ROWS", (9, 10)),
        ("norm-4", "RMS_NORM", (0,)),
        ("attn_norm-4", "MUL", (1, 11)),
        ("node_3", "MUL_MAT", (12, 2)),  # by its weight
        (" (view)", "VIEW", (3,)),  # by its source
        ("node_5", "ADD", (4, 0)),
        ("norm-4", "RMS_NORM", (5,)),
        ("ffn_norm-4", "MUL", (6, 13)),
        ("node_8", "ARANGE", ()),  # by the node before it
        ("token_embd.weight", "NONE", ()),
        ("leaf_1", "NONE", ()),
        ("blk.4.attn_norm.weight", "NONE", ()),
        ("blk.4.attn_output.weight", "NONE", ()),
        ("leaf_2", "NONE", ()),  # by its reader
    ]
    assert place(rows, 9) == [
        (None, "other"),
        (4, "attention"),
        (4, "attention"),
        (4, "attention"),
        (4, "attention"),
        (4, "attention"),
        (4, "ffn"),
        (4, "ffn"),
        (4, "ffn"),
        (None, "other"),
        (None, "other"),
        (4, "attention"),
        (4, "attention"),
        (4, "ffn"),
    ]


def test_the_last_norm_is_output():
    rows = [("l_out-1", "ADD", ()), ("norm", "RMS_NORM", (0,)), ("result_norm", "MUL", (1,)), ("", "MUL_MAT", (2,))]
    assert place(rows, 4) == [(1, "ffn"), (None, "output"), (None, "output"), (None, "output")]


def test_a_layer_in_the_own_name_stays():
    rows = [("l_out-1", "ADD", ()), ("strange-2", "MUL", (0,))]
    assert place(rows, 2) == [(1, "ffn"), (2, "ffn")]


def test_nothing_known_and_empty():
    assert place([("a", "ADD", ()), ("b", "ADD", (0,))], 2) == [(None, "other")] * 2
    assert place_nodes([], [], [], 0) == []
