"""The measuring itself, in a process of its own: one JSON request per line in, JSON answers per line out.

Its own, so that each thread of ours runs one-threaded BLAS whatever the parent has loaded (the parent sets
OPENBLAS_NUM_THREADS=1 and the like), the memory goes back, and the OOM killer takes no one else. Threads are not
pinned: the scheduler places them as it places an engine's. They release the GIL in numpy and onnxruntime.

* Bandwidth is of *reading*: weights are only read. Two kernels: numpy's maximum of bytes (nothing but loads), and
  sgemv, the product that decode is made of. Pages are written first: untouched ones all map the one page of zeros.
  A working set that fits a cache is read many times in one call, through a broadcast axis of stride 0.
* GEMM: every thread multiplies matrices of its own, f32 by numpy's BLAS, int8 (u8 x s8 → s32), and on AArch64 f16 and
  bf16, by onnxruntime's MLAS, whose kernels use the same instructions as the engines'; on x86-64 bf16 by PyTorch's
  oneDNN (AMX, AVX512-BF16) where it is installed.

One round is timed from the first thread's start to the last one's end, and lasts ≥ ROUND_S.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any

from flowprof.profiler.machine.processor import busy_seconds

ROUND_S = 0.03
FEWEST, MOST = 3, 25  # rounds
SIDE = 1024  # of the f32 matrices
INT8 = (512, 1024, 1024)  # m, k, n: 1.07 GOP; 512 x 2048 x 2048 and larger are no faster
GEMV_ROW = 4096
PASS_BYTES = 32 << 20  # read per call, so that a call lasts long against its start

Call = Callable[[], object]
Prepare = Callable[[], Call]  # runs in its thread; what it returns is one call
Kernel = tuple[str, float, Prepare]  # words, bytes or operations per call and thread


def main() -> None:
    """Per request a line for every kernel, {words, rates, others}, and {done} or {failed: why} at the end."""
    for line in sys.stdin:
        request = json.loads(line)
        end: dict[str, object] = {"done": True}
        try:
            for words, work, prepare in KINDS[request["kind"]](request):
                busy, own, began = busy_seconds(request["cpus"]), time.process_time(), time.perf_counter()
                rates = timed(prepare, work, request["threads"], request["seconds"])
                wall = time.perf_counter() - began
                others = (busy_seconds(request["cpus"]) - busy - (time.process_time() - own)) / wall
                _say({"words": words, "rates": rates, "others": others, "wall": wall})
        except Exception as error:  # a library that is absent or refuses; the parent states it as missing
            end = {"failed": f"{type(error).__name__}: {error}"[:200]}
        _say(end)


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def timed(prepare: Prepare, work: float, threads: int, seconds: float) -> list[float]:
    """The rate of every round: `work` per call and thread over the seconds that all threads together took."""
    together = Barrier(threads)
    spans: list[list[tuple[float, float]]] = [[] for _ in range(threads)]
    plan = [1, FEWEST]  # calls per round, rounds: set by the first thread after a trial
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            call = prepare()
            call()
            together.wait()
            began = time.perf_counter()
            call()
            took = time.perf_counter() - began
            if number == 0:
                plan[0] = max(1, round(ROUND_S / max(took, 1e-6)))
                plan[1] = min(MOST, max(FEWEST, int(seconds / max(took * plan[0], 1e-6))))
            together.wait()
            for _ in range(plan[1]):
                together.wait()
                began = time.perf_counter()
                for _ in range(plan[0]):
                    call()
                spans[number].append((began, time.perf_counter()))
        except BaseException as error:
            failed.append(error)
            together.abort()

    running = [Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for error in failed:
        if not isinstance(error, BrokenBarrierError):
            raise error
    return [
        work * plan[0] * threads / (max(end for _, end in of) - min(start for start, _ in of))
        for of in zip(*spans, strict=True)
    ]


def reading(request: Mapping[str, Any]) -> Iterator[Kernel]:
    """Kernels that read `bytes`, each thread its share."""
    import numpy as np

    floats = max(1, request["bytes"] // request["threads"] // (4 * GEMV_ROW)) * GEMV_ROW
    repeats = max(1, PASS_BYTES // (4 * floats * request["threads"]))

    made: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    kept: list[np.ndarray[Any, np.dtype[np.float32]]] = []  # of the first kernel: to fill 2 GB takes a second

    def memory() -> np.ndarray[Any, np.dtype[np.float32]]:
        mine = kept.pop() if kept else np.ones(floats, np.float32)
        made.append(mine)
        return mine

    def maximum() -> Call:
        looped = np.broadcast_to(memory().view(np.uint8), (repeats, 4 * floats))
        return lambda: looped.max(axis=1)

    def gemv() -> Call:
        matrix = memory().reshape(-1, GEMV_ROW)
        looped, vector = np.broadcast_to(matrix, (repeats, *matrix.shape)), np.ones(GEMV_ROW, np.float32)
        return lambda: np.matmul(looped, vector)

    work = float(4 * floats * repeats)
    yield f"numpy {np.__version__} max of bytes", work, maximum
    kept += made
    yield f"numpy {np.__version__} sgemv ({_blas()})", work, gemv


def f32(request: Mapping[str, Any]) -> Iterator[Kernel]:
    """Square f32 matrices, numpy's BLAS."""
    import numpy as np

    def prepare() -> Call:
        matrix = np.ones((SIDE, SIDE), np.float32)
        product = np.empty_like(matrix)
        return lambda: np.matmul(matrix, matrix, out=product)

    yield f"numpy {np.__version__} sgemm {SIDE}³ ({_blas()})", 2.0 * SIDE**3, prepare


def int8(request: Mapping[str, Any]) -> Iterator[Kernel]:
    """u8 activations by s8 weights, onnxruntime."""
    yield _mlas("uint8", "int8", "int32", "MatMulInteger", {})


def f16(request: Mapping[str, Any]) -> Iterator[Kernel]:
    """f16 by f16, onnxruntime: in f16 arithmetic on AArch64 only, elsewhere it converts to f32."""
    yield _mlas("float16", "float16", "float16", "MatMul", {})


def bf16(request: Mapping[str, Any]) -> Iterator[Kernel]:
    """PyTorch on x86-64; on AArch64 f32 matrices multiplied as bf16 (bfmmla), onnxruntime."""
    if platform.machine() == "x86_64" and importlib.util.find_spec("torch") is not None:
        yield _onednn()
        return
    yield _mlas("float", "float", "float", "MatMul", {"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"})


def _onednn() -> Kernel:
    import torch

    if not torch.backends.mkldnn.is_available():
        raise RuntimeError("this PyTorch is built without oneDNN, which has the instructions for bf16")

    def prepare() -> Call:
        torch.set_num_threads(1)  # of this thread: it starts a pool of its own otherwise
        matrix = torch.ones((SIDE, SIDE), dtype=torch.bfloat16)
        product = torch.empty_like(matrix)
        return lambda: torch.matmul(matrix, matrix, out=product)

    return f"PyTorch {torch.__version__} matmul bf16 {SIDE}³ (oneDNN)", 2.0 * SIDE**3, prepare


def _mlas(left: str, right: str, out: str, operator: str, options: Mapping[str, str]) -> Kernel:
    import numpy as np
    import onnx.numpy_helper
    import onnx.parser
    import onnxruntime

    rows, inner, columns = INT8
    numpy_types: dict[str, type[Any]] = {
        "uint8": np.uint8, "int8": np.int8, "float16": np.float16, "float": np.float32,
    }  # fmt: skip
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> product ({left}[{rows}, {inner}] A) => ({out}[{rows}, {columns}] C)'
        f" {{ C = {operator} (A, B) }}"
    )
    weights = (np.arange(inner * columns) % 7).reshape(inner, columns).astype(numpy_types[right])
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "B"))  # constant: so it is packed once
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    for name, value in options.items():
        settings.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

    def prepare() -> Call:
        inputs = {"A": (np.arange(rows * inner) % 5).reshape(rows, inner).astype(numpy_types[left])}
        return lambda: session.run(None, inputs)

    words = f"onnxruntime {version('onnxruntime')} {operator} {left} x {right}, {rows} x {inner} x {columns}"
    return words, 2.0 * rows * inner * columns, prepare


def _blas() -> str:
    import numpy as np

    try:
        found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{found['name']} {found['version']}"
    except (KeyError, TypeError):
        return "BLAS unknown"


KINDS: dict[str, Callable[[Mapping[str, Any]], Iterator[Kernel]]] = {
    "reading": reading,
    "f32": f32,
    "bf16": bf16,
    "f16": f16,
    "int8": int8,
}

if __name__ == "__main__":
    main()
