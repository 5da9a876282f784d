"""What the graph's weights say about the model: layers, embedding, vocabulary, experts, bytes.

A weight is a leaf that no input names: called `….weight`, `….bias`, `….scale`, or read as the matrix of a MUL_MAT,
MUL_MAT_ID or GET_ROWS and neither an input nor a cache. Of a graph that was split between devices only this part is
seen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_WEIGHT = re.compile(r"\.(weight|bias|scale)$|_exps$")
_NO_WEIGHT = re.compile(r"^(inp_|cache_|kq_|KQ_|node_)|mask|\(|^embd$")
_MATRIX_OPS = frozenset({"MUL_MAT", "MUL_MAT_ID", "GET_ROWS"})
_EMBEDDINGS = frozenset({"token_embd.weight", "tok_embeddings.weight", "model.embed_tokens.weight"})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """None: the graph does not tell."""

    layers: int | None
    embedding: int | None
    vocabulary: int | None
    experts: int | None
    experts_used: int | None
    parameters: int
    weight_bytes: int
    weight_bytes_per_token: int  # read to compute one token: used experts and one embedding row only
    weight_types: tuple[tuple[str, int], ...]  # (type, bytes), largest first


def find_weights(
    names: Sequence[str], ops: Sequence[str], sources: Sequence[Sequence[int]], n_nodes: int
) -> frozenset[int]:
    """Indices of the leaves that are weights."""
    weights = {at for at in range(n_nodes, len(names)) if _WEIGHT.search(names[at])}
    for node in range(n_nodes):
        if ops[node] in _MATRIX_OPS and sources[node]:
            matrix = sources[node][0]
            if matrix >= n_nodes and not _NO_WEIGHT.search(names[matrix]):
                weights.add(matrix)
    return frozenset(weights)


def model_facts(
    names: Sequence[str],
    ops: Sequence[str],
    types: Sequence[str],
    sources: Sequence[Sequence[int]],
    ne: npt.NDArray[np.int64],
    size_bytes: npt.NDArray[np.int64],
    layers: Sequence[int | None],
    n_nodes: int,
) -> ModelFacts:
    """Facts from the weights among the leaves (indices ≥ n_nodes)."""
    weights = find_weights(names, ops, sources, n_nodes)
    per_token: dict[int, int] = {}
    experts = used = embedding = vocabulary = None
    for node in range(n_nodes):
        op = ops[node]
        for slot, at in enumerate(sources[node]):
            if at not in weights:
                continue
            share = int(size_bytes[at])
            if op == "GET_ROWS" and slot == 0:
                share //= max(int(ne[at, 1]), 1)
                if names[at] in _EMBEDDINGS or (embedding is None and ne[at, 1] > 1024):
                    embedding, vocabulary = int(ne[at, 0]), int(ne[at, 1])
            elif op == "MUL_MAT_ID" and slot == 0 and len(sources[node]) > 2:
                experts = int(ne[at, 2])
                used = int(ne[sources[node][2], 0])
                share = share * min(used, experts) // max(experts, 1)
            per_token[at] = max(per_token.get(at, 0), share)
    numbered = [layer for at in weights if (layer := layers[at]) is not None]
    kinds: Counter[str] = Counter()
    for at in weights:
        kinds[types[at]] += int(size_bytes[at])
    rows = sorted(weights)
    return ModelFacts(
        layers=max(numbered) + 1 if numbered else None,
        embedding=embedding,
        vocabulary=vocabulary,
        experts=experts,
        experts_used=used,
        parameters=int(ne[rows].prod(axis=1).sum()) if rows else 0,
        weight_bytes=sum(kinds.values()),
        weight_bytes_per_token=sum(per_token.values()),
        weight_types=tuple(kinds.most_common()),
    )
