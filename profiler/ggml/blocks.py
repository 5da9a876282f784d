"""Tensor name → layer and block (attention, ffn, moe, output, other).

llama.cpp names the tensors that matter: `Qcur-7`, `ffn_gate-7`, `result_output`; weights are `blk.7.attn_q.weight`;
the cache is `cache_k_l7`. Views carry their parent's name with ` (view)`, ` (reshaped)` … behind it. What the engine
left unnamed (`node_123`, ` (view)`, `norm-7`) takes over in this order: a norm or a lookup of rows takes its
reader's block, anything else that of a weight among its sources, then of its other sources, then of a reader, then
of the node before it. Layer and block are taken together, except that a layer in the tensor's own name stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

Place = tuple[int | None, str]  # layer, block

_LAYER = re.compile(r"(?:(?:^|\.)(?:blk|blocks?|layers?|h)\.|^cache_[a-z]+_l|-)(\d{1,5})(?=\.| \(|$)")
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("output", re.compile(r"^(result_|output(\.|_norm)|lm_head|cls(\.|_)|final_logit)")),
    ("moe", re.compile(r"ffn_moe|_exps|ffn_gate_inp|_shexp|exp_probs|moe_")),
    ("ffn", re.compile(r"ffn|mlp|l_out|post_mlp")),
    (
        "attention",
        re.compile(
            r"attn|^[QKV]cur|^kqv?(_|-|$| )|^cache_|^self_k|qkv|kq_|_rope|rope_|^[kqv]_|^kv_|^[kv](-|$| )"
            r"|kv_cmpr|flash|^sa_|^sinks?"
        ),
    ),
    ("other", re.compile(r"^(token_|inp_|embd|position|pos_|ssm_|time_mix|channel_mix|per_layer)")),
)
_LIKE_READER = frozenset({"RMS_NORM", "NORM", "GROUP_NORM", "L2_NORM", "GET_ROWS"})


@lru_cache(maxsize=16_384)
def own_place(name: str) -> tuple[int | None, str | None]:
    """What the name alone says; None where it says nothing."""
    layer = _LAYER.search(name)
    number = int(layer[1]) if layer else None
    for block, pattern in _RULES:
        if pattern.search(name):
            return number, block
    return number, None


def place_nodes(
    names: Sequence[str], ops: Sequence[str], sources: Sequence[Sequence[int]], n_nodes: int
) -> list[Place]:
    """Layer and block of every tensor of a graph: `n_nodes` nodes in order of execution, then leaves."""
    own = [own_place(name) for name in names]
    known: list[Place | None] = [(layer, block) if block is not None else None for layer, block in own]
    readers: list[list[int]] = [[] for _ in names]
    for node in range(n_nodes):
        for source in sources[node]:
            readers[source].append(node)
    for node in range(n_nodes):
        if known[node] is None and ops[node] not in _LIKE_READER:
            parents = sources[node]
            weights = [at for at in parents if at >= n_nodes]
            known[node] = _first(known, weights, layered=True) or _first(known, parents, layered=False)
    for at in range(len(names) - 1, -1, -1):  # from the end: readers lie behind what they read
        if (at < n_nodes and known[at] is None) or (at >= n_nodes and own[at][1] is None):
            known[at] = _first(known, readers[at], layered=False)
    before: Place = (None, "other")
    places: list[Place] = []
    for at in range(len(names)):
        place = known[at] or (before if at < n_nodes else (None, "other"))
        layer = own[at][0]
        before = place if layer is None else (layer, place[1])
        places.append(before)
    return places


def _first(known: Sequence[Place | None], candidates: Sequence[int], layered: bool) -> Place | None:
    """The first known place among `candidates`; `layered`: only one that belongs to a layer or to the output."""
    for at in candidates:
        place = known[at]
        if place is not None and (not layered or place[0] is not None or place[1] == "output"):
            return place
    return None
