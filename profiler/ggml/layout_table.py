"""Layouts of ggml's structs in known versions, newest first. Each was taken from that version's header; each is
still checked on live tensors before use. Adding a version is one entry."""

from __future__ import annotations

from flowprof.profiler.ggml.layout import GraphLayout, Layouts, ParamsLayout, TensorLayout

_THREAD = ParamsLayout(ith=0, nth=4)
_TASK_TYPE_AND_THREAD = ParamsLayout(ith=4, nth=8)  # an enum ggml_task_type came first, until June 2024

# ggml_cgraph {int size, n_nodes, n_leafs; nodes, grads, grad_accs, leafs; use_counts; hash set; order; uid};
# uid only since April 2026: `layout` drops it where the build has none
_GRAPH_2024_11 = GraphLayout(n_nodes=4, n_leafs=8, nodes=16, leafs=40, uid=88)
# {int size, n_nodes, n_leafs; nodes, grads, leafs; …}
_GRAPH_2023_11 = GraphLayout(n_nodes=4, n_leafs=8, nodes=16, leafs=32)
# {int n_nodes, n_leafs; nodes[4096], grads[4096], leafs[4096]; …}
_GRAPH_2023_07 = GraphLayout(n_nodes=0, n_leafs=4, nodes=8, leafs=8 + 2 * 4096 * 8, inline=True)
# {int n_nodes, n_leafs, n_threads; size_t work_size; work; nodes[4096], …}
_GRAPH_2023_05 = GraphLayout(n_nodes=0, n_leafs=4, nodes=32, leafs=32 + 2 * 4096 * 8, inline=True)

_TENSOR_2024_11 = TensorLayout(
    type=0, ne=16, nb=48, op=80, op_params=84, flags=148, src=152, n_src=10, view_src=232, data=248, name=256, size=336
)
_TENSOR_2024_06 = TensorLayout(  # with grad before src
    type=0, ne=16, nb=48, op=80, op_params=84, flags=148, src=160, n_src=10, view_src=240, data=256, name=264, size=336
)
_TENSOR_2023_11 = TensorLayout(  # with grad, and perf_* between src and view_src
    type=0, ne=16, nb=48, op=80, op_params=84, flags=148, src=160, n_src=10, view_src=264, data=280, name=288, size=368
)
_TENSOR_2023_10 = TensorLayout(  # the same with op_params of 32 bytes and 6 sources
    type=0, ne=16, nb=48, op=80, op_params=84, src=128, n_src=6, view_src=200, data=216, name=224, size=304
)
_TENSOR_2023_07 = TensorLayout(  # with n_dims, without view_src
    type=0, ne=16, nb=48, op=80, op_params=84, src=128, n_src=6, data=200, name=208, size=288
)
_TENSOR_2023_05 = TensorLayout(  # src0, src1, opt[4]; no op_params; n_tasks and perf_* behind; name[32]
    type=0, ne=16, nb=48, op=80, src=96, n_src=6, data=168, name=176, size=224
)

KNOWN: tuple[Layouts, ...] = (
    Layouts(_TENSOR_2024_11, _GRAPH_2024_11, _THREAD, "ggml since November 2024"),
    Layouts(_TENSOR_2024_06, _GRAPH_2023_11, _THREAD, "ggml of June to November 2024"),
    Layouts(_TENSOR_2023_11, _GRAPH_2023_11, _TASK_TYPE_AND_THREAD, "ggml of November 2023 to June 2024"),
    Layouts(_TENSOR_2023_10, _GRAPH_2023_11, _TASK_TYPE_AND_THREAD, "ggml of autumn 2023"),
    Layouts(_TENSOR_2023_10, _GRAPH_2023_07, _TASK_TYPE_AND_THREAD, "ggml of autumn 2023, arrays within the graph"),
    Layouts(_TENSOR_2023_07, _GRAPH_2023_07, _TASK_TYPE_AND_THREAD, "ggml of summer 2023"),
    Layouts(_TENSOR_2023_05, _GRAPH_2023_05, _TASK_TYPE_AND_THREAD, "ggml of spring 2023"),
)
