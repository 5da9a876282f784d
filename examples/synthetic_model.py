"""Synthetic GGUF models: the speed and the memory of a real model, and nonsense for text.

`llama` architecture, random Q8_0 blocks (an f16 scale and 32 signed bytes; of `-q4` kinds Q4_0 blocks, an f16 scale and
32 halves of bytes), norms of 1, and a made-up SPM
vocabulary that holds the 256 byte tokens, so that any prompt can be tokenised. Scales are such that
activations keep a variance near 1 and nothing overflows. The same kind gives the same bytes on every host; a
file that is already in the cache is used as it is.

    python -m flowprof.examples.synthetic_model dense-150m [PATH]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from flowprof.profiler import cache

FORMAT = 1  # part of the file's name: raise it when the bytes change
BLOCK_WEIGHTS = 32
HOT = 16  # times larger are the router's values for the hot experts


@dataclass(frozen=True, slots=True)
class Quantisation:
    """`deviation`: of uniformly random values, before the block's scale."""

    type: gguf.GGMLQuantizationType
    file_type: gguf.LlamaFileType
    block_bytes: int
    deviation: float


Q8_0 = Quantisation(gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0, 34, 73.9)
Q4_0 = Quantisation(gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0, 18, 4.61)


@dataclass(frozen=True, slots=True)
class Shape:
    """What `llama` needs to know of a model. `experts` = 0 is a dense one."""

    embedding: int
    layers: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: int = 32000
    experts: int = 0
    experts_used: int = 0
    hot_experts: int = 0  # so many, an even number, take all tokens
    context: int = 8192
    weights: Quantisation = Q8_0


KINDS: dict[str, Shape] = {
    "thin": Shape(embedding=64, layers=16, feed_forward=192, heads=2, kv_heads=2),  # 5 M parameters, many operators
    "tiny": Shape(embedding=256, layers=6, feed_forward=768, heads=4, kv_heads=4),  # 21 M parameters
    "dense-150m": Shape(embedding=768, layers=14, feed_forward=2048, heads=12, kv_heads=12),  # 148 M
    "dense-150m-q4": Shape(768, layers=14, feed_forward=2048, heads=12, kv_heads=12, weights=Q4_0),
    "dense-1b": Shape(embedding=2048, layers=22, feed_forward=5632, heads=32, kv_heads=4),  # 1.1 B
    "moe": Shape(512, layers=8, feed_forward=512, heads=8, kv_heads=8, experts=8, experts_used=2),  # 92 M
    "moe-hot": Shape(512, layers=8, feed_forward=512, heads=8, kv_heads=8, experts=8, experts_used=2, hot_experts=4),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One weight: `shape` is ([experts,] rows, columns); quantised ones are blocks of `Shape.weights`, others f32."""

    name: str
    shape: tuple[int, ...]
    quantised: bool = True


def tensors(shape: Shape) -> Iterator[Tensor]:
    """Every weight of the model, in the order of the file."""
    width, kv_width = shape.embedding, shape.embedding // shape.heads * shape.kv_heads
    yield Tensor("token_embd.weight", (shape.vocabulary, width))
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield Tensor(f"{block}.attn_norm.weight", (width,), quantised=False)
        yield Tensor(f"{block}.attn_q.weight", (width, width))
        yield Tensor(f"{block}.attn_k.weight", (kv_width, width))
        yield Tensor(f"{block}.attn_v.weight", (kv_width, width))
        yield Tensor(f"{block}.attn_output.weight", (width, width))
        yield Tensor(f"{block}.ffn_norm.weight", (width,), quantised=False)
        several = (shape.experts,) if shape.experts else ()
        suffix = "_exps" if shape.experts else ""
        if shape.experts:
            yield Tensor(f"{block}.ffn_gate_inp.weight", (shape.experts, width), quantised=False)
        yield Tensor(f"{block}.ffn_gate{suffix}.weight", (*several, shape.feed_forward, width))
        yield Tensor(f"{block}.ffn_up{suffix}.weight", (*several, shape.feed_forward, width))
        yield Tensor(f"{block}.ffn_down{suffix}.weight", (*several, width, shape.feed_forward))
    yield Tensor("output_norm.weight", (width,), quantised=False)
    yield Tensor("output.weight", (shape.vocabulary, width))


def write(kind: str, path: str | Path | None = None) -> Path:
    """Write the model `kind` (a key of `KINDS`) and return its path.

    Without `path` it goes into the cache folder, unless it is there already.
    Raises KeyError for an unknown kind and OSError when the file cannot be written.
    """
    shape = KINDS[kind]
    target = Path(path) if path is not None else cache.made() / f"{kind}-v{FORMAT}.gguf"
    if path is None and target.exists():
        return target
    part = target.with_name(f"{target.name}.{os.getpid()}.part")  # a killed writer leaves no half model
    try:
        _write(part, kind, shape)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _write(path: Path, kind: str, shape: Shape) -> None:
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, kind, shape)
    _vocabulary(writer, shape.vocabulary)
    weights = list(tensors(shape))
    for tensor in weights:
        if tensor.quantised:
            bytes_shape = (*tensor.shape[:-1], tensor.shape[-1] // BLOCK_WEIGHTS * shape.weights.block_bytes)
            size, kept = int(np.prod(bytes_shape)), shape.weights.type
            writer.add_tensor_info(tensor.name, bytes_shape, np.dtype(np.uint8), size, raw_dtype=kept)
        else:
            size = 4 * int(np.prod(tensor.shape))
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.Generator(np.random.SFC64(len(weights)))
    for tensor in weights:
        values = _values(tensor, shape.weights, random)
        if shape.hot_experts and tensor.name.endswith("ffn_gate_inp.weight"):
            values[1 : shape.hot_experts : 2] = -values[0 : shape.hot_experts : 2]  # one of each pair is positive
            values[: shape.hot_experts] *= HOT
        writer.write_tensor_data(values)
    writer.close()


def _values(
    tensor: Tensor, weights: Quantisation, random: np.random.Generator
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    if len(tensor.shape) == 1:
        return np.ones(tensor.shape, np.float32)  # a norm
    columns = tensor.shape[-1]
    deviation = 1.0 if tensor.name == "token_embd.weight" else columns**-0.5
    if not tensor.quantised:
        return random.standard_normal(tensor.shape, np.float32) * np.float32(deviation)
    count = int(np.prod(tensor.shape)) // BLOCK_WEIGHTS
    size = weights.block_bytes
    blocks = np.frombuffer(random.bytes(count * size), np.uint8).reshape(count, size).copy()
    blocks[:, :2] = np.frombuffer(np.float16(deviation / weights.deviation).tobytes(), np.uint8)
    return blocks.reshape(*tensor.shape[:-1], columns // BLOCK_WEIGHTS * size)


def _describe(writer: gguf.GGUFWriter, kind: str, shape: Shape) -> None:
    writer.add_name(f"flowprof synthetic {kind}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.embedding // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(shape.weights.file_type)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)


def _vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """<unk>, <s>, </s>, the 256 byte tokens, and words `▁w0`, `▁w1`, … for the rest."""
    words = size - 259
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + [f"▁w{n}" for n in range(words)]
    )
    writer.add_token_scores([0.0] * 259 + [-float(n) for n in range(words)])
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * words])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


if __name__ == "__main__":
    print(write(*sys.argv[1:3]))
