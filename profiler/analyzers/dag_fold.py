"""Layers of the same structure as one group, and what is drawn of them: nodes, groups and edges. Part of dag.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowprof.profiler.analyzers.contract import ratio
from flowprof.profiler.analyzers.dag_edges import Kind, Resolved, resolve
from flowprof.profiler.analyzers.dag_tensors import Tensor, canonical, leaf_kind
from flowprof.profiler.sections.bound import BOUNDS
from flowprof.profiler.sections.dag import DAG_IN, DAG_OUT, DagEdge, DagGroup, DagLeaf, DagNode

MAX_NODES = 300  # after folding
MAX_LISTED = 16  # sources, leaves and fused nodes named per node


def fold(tensors: Mapping[int, Tensor], found: Mapping[int, Resolved]) -> list[tuple[int, ...]]:
    """The layers in groups of the same structure, ordered by their first layer's first operator."""
    by_layer: dict[int, list[int]] = defaultdict(list)
    position: dict[int, int] = {}
    for index in found:
        layer = tensors[index].layer
        if layer is not None:
            position[index] = len(by_layer[layer])
            by_layer[layer].append(index)
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for layer, members in by_layer.items():
        structure = []
        for index in members:
            tensor, own = tensors[index], found[index]
            structure.append(
                (
                    tensor.op,
                    tensor.block,
                    canonical(tensor.name),
                    tuple(
                        sorted(
                            {
                                (position[other] if tensors[other].layer == layer else DAG_IN, kind)
                                for other, kind in own.edges.items()
                            }
                        )
                    ),
                    tuple(sorted({(leaf_kind(tensors[leaf]), canonical(tensors[leaf].name)) for leaf in own.leaves})),
                    tuple(canonical(tensors[one].name) for one in own.fused),
                )
            )
        groups[tuple(structure)].append(layer)
    return [tuple(sorted(layers)) for layers in groups.values()]


@dataclass(slots=True)
class _Build:
    """One graph under construction: which tensors make which node of which item."""

    tensors: dict[int, Tensor]
    graph_id: int
    graph_ns: float
    tokens: float
    bounds: Mapping[tuple[int, int], str]

    def columns(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """The layers of each group, and the members of every node (after folding), by first member."""
        executing = [index for index, tensor in self.tensors.items() if tensor.executes and not tensor.leaf]
        found = resolve(self.tensors, executing)
        groups = fold(self.tensors, found)
        by_layer: dict[int, list[int]] = defaultdict(list)
        alone = []
        for index in found:
            layer = self.tensors[index].layer
            if layer is None:
                alone.append((index,))
            else:
                by_layer[layer].append(index)
        nodes = [members for layers in groups for members in zip(*(by_layer[layer] for layer in layers), strict=True)]
        return groups, sorted(alone + nodes)

    def total(self, members: Sequence[int]) -> float:
        return sum(self.tensors[index].mean_ns for index in members)

    def node(self, members: tuple[int, ...], found: Mapping[int, Resolved]) -> DagNode:
        first = self.tensors[members[0]]
        own = found[members[0]]
        times = [self.tensors[index].mean_ns for index in members]
        total = sum(times)
        leaves = [self.tensors[index] for index in list(own.leaves)[:MAX_LISTED]]
        return DagNode(
            op=first.op,
            name=canonical(first.name) or own.alias,
            block=first.block,
            type=first.type,
            ne=first.ne,
            members=members,
            layers=tuple(layer for index in members if (layer := self.tensors[index].layer) is not None),
            calls=sum(self.tensors[index].calls for index in members),
            mean_ns=total / len(members),
            min_ns=min(times),
            max_ns=max(times),
            total_ns=total,
            ns_per_token=ratio(total, self.tokens),
            share=ratio(total, self.graph_ns) or 0.0,
            sources=tuple(self.sources(members, found)),
            leaves=tuple(
                DagLeaf(leaf_kind(leaf), canonical(leaf.name), leaf.type, leaf.ne, leaf.size_bytes) for leaf in leaves
            ),
            fused=tuple(canonical(one.name) or one.op for one in map(self.tensors.__getitem__, own.fused[:MAX_LISTED])),
            bound=self.bound(members),
        )  # fmt: skip

    def sources(self, members: Sequence[int], found: Mapping[int, Resolved]) -> list[str]:
        """What a node reads. The first layer reads what lies before the layers, the second what the first made."""
        names = {
            self.source(self.tensors[index], other, kind, found): None
            for index in members[:2]
            for other, kind in found[index].edges.items()
        }
        return list(names)[:MAX_LISTED]

    def source(self, reader: Tensor, index: int, kind: Kind, found: Mapping[int, Resolved]) -> str:
        """The name of what a node reads, with where it is when that is not the reader's layer."""
        tensor = self.tensors[index]
        name = canonical(tensor.name) or found[index].alias or tensor.op
        if tensor.layer != reader.layer:
            before = reader.layer is not None and tensor.layer == reader.layer - 1
            name += " (layer before)" if before else f" (layer {tensor.layer})" if tensor.layer is not None else ""
        return f"{name} (through the cache)" if kind == "cache" else name

    def bound(self, members: Sequence[int]) -> str:
        weight: dict[str, float] = defaultdict(float)
        for index in members:
            verdict = self.bounds.get((self.graph_id, index), "")
            if verdict:
                weight[verdict if verdict in BOUNDS else "unknown"] += self.tensors[index].mean_ns
        return max(weight, key=lambda name: (weight[name], name)) if weight else ""


def build(
    tensors: dict[int, Tensor], graph_id: int, graph_ns: float, tokens: float,
    bounds: Mapping[tuple[int, int], str] | None = None, max_nodes: int = MAX_NODES,
) -> tuple[tuple[DagNode | DagGroup, ...], tuple[DagEdge, ...], int, float]:  # fmt: skip
    """Items and edges of one graph, how many operators were left out, and their share of `graph_ns`."""
    made = _Build(tensors, graph_id, graph_ns, tokens, bounds or {})
    groups, nodes = made.columns()
    kept = nodes
    if len(nodes) > max_nodes:
        kept = sorted(sorted(nodes, key=lambda members: (-made.total(members), members))[:max_nodes])
    left_out = sum(len(members) for members in nodes) - sum(len(members) for members in kept)
    missing = sum(made.total(members) for members in nodes) - sum(made.total(members) for members in kept)
    found = resolve(tensors, {index for members in kept for index in members})

    group_of = {layer: number for number, layers in enumerate(groups) for layer in layers}
    inside: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    keys: list[tuple[int, int | None, tuple[int, ...]]] = []  # first operator, group, members
    for members in kept:
        layer = tensors[members[0]].layer
        if layer is None:
            keys.append((members[0], None, members))
        else:
            inside[group_of[layer]].append(members)
    keys += [(columns[0][0], number, ()) for number, columns in inside.items()]
    keys.sort(key=lambda key: key[0])

    item: dict[int, int] = {}  # tensor → position in items
    place: dict[int, int] = {}  # tensor → position in its group's nodes
    for position, (_, number, members) in enumerate(keys):
        item.update(dict.fromkeys(members, position))
        for row, column in enumerate(inside[number] if number is not None else ()):
            item.update(dict.fromkeys(column, position))
            place.update(dict.fromkeys(column, row))

    between: dict[tuple[int, int], Kind] = {}
    within: dict[int, dict[tuple[int, int], Kind]] = defaultdict(dict)
    for target, own in found.items():
        for source, kind in own.edges.items():
            same = tensors[source].layer is not None and tensors[source].layer == tensors[target].layer
            if same:
                _connect(within[item[target]], place[source], place[target], kind)
                continue
            if target in place:
                _connect(within[item[target]], DAG_IN, place[target], kind)
            if source in place:
                _connect(within[item[source]], place[source], DAG_OUT, kind)
            if item[source] != item[target]:
                _connect(between, item[source], item[target], kind)

    items: list[DagNode | DagGroup] = []
    for position, (_, number, members) in enumerate(keys):
        if number is None:
            items.append(made.node(members, found))
        else:
            items.append(_group(groups[number], [made.node(column, found) for column in inside[number]],
                                _edges(within[position]), tensors, graph_ns))  # fmt: skip
    return tuple(items), _edges(between), left_out, ratio(missing, graph_ns) or 0.0


def _connect(edges: dict[tuple[int, int], Kind], source: int, target: int, kind: Kind) -> None:
    if edges.get((source, target)) != "data":
        edges[source, target] = kind


def _edges(edges: Mapping[tuple[int, int], Kind]) -> tuple[DagEdge, ...]:
    return tuple(DagEdge(source, target, kind) for (source, target), kind in sorted(edges.items()))


def _group(
    layers: tuple[int, ...], nodes: list[DagNode], edges: tuple[DagEdge, ...], tensors: Mapping[int, Tensor],
    whole: float,
) -> DagGroup:  # fmt: skip
    per_layer = [sum(tensors[node.members[row]].mean_ns for node in nodes) for row in range(len(nodes[0].members))]
    return DagGroup(
        layers=layers,
        nodes=tuple(nodes),
        edges=edges,
        total_ns=sum(per_layer),
        min_ns=min(per_layer),
        max_ns=max(per_layer),
        share=ratio(sum(per_layer), whole) or 0.0,
    )
