"""FLOPs and bytes of a torch operator from the shapes and types of its arguments.

Shapes are torch's: the slowest dimension first. A multiply-add is 2 FLOPs. Bytes are what a perfect cache moves: every
operand once, the result once; TraceLens counts so, too (its "MB" are MiB). What has no formula here has no cost;
`WITHOUT` says why, of the operators that are probed by default.

gemm         2·B·M·N·K; bytes (M·K + K·N + M·N)·size a matrix. With a bias (addmm, linear): M·N more FLOPs, the bias's
             bytes. `linear`, aiter's and vLLM's products take the weights as [N, K]. beta and alpha are not counted.
             Quantised ones: the weights as they are packed, with their scales; an FP8 product's result has its bias's
             type, else two bytes an element. A recurrent layer: 2·T·B·(its weights).
attention    scaled dot products [B, H, N, D], flash's own layout [B, N, H, D]: 2·B·H·Nq·Nkv·(Dqk + Dv), half of it when
             causal (TraceLens's convention: exact for Nq = Nkv but for the diagonal); bytes Q + K + V + O. The softmax
             is not counted. Backward: 2·B·H·Nq·Nkv·(3·Dqk + 2·Dv); Q, K, V, O and their gradients. With projections
             (_native_multi_head_attention): 8·B·T·E² + 4·B·T²·E, and the biases.
elementwise  1 FLOP per element of the result, however hard the function; bytes operands + result. Operands are
             broadcast; scalars have 8 bytes at most and count as one element. The result has the type that the operands
             promote to: the widest tensor's. An embedding bag: 1 FLOP per element that is read, 2 with weights.
convolution  2·(output elements)·(input channels / groups)·(kernel elements), with padding, stride and dilation; bytes
             input + weights + bias + output. Transposed: 2·(input elements)·(output channels / groups)·(kernel
             elements).
norm         layer, group, batch, instance and RMS norms, softmax: 5 FLOPs per element, as ggml's are counted
             (cost_formulas.py); bytes operands + result.
copy         no FLOPs; bytes read + written. copy_ has the destination first; an embedding reads what it writes.

             cat and stack read and write every tensor of their list, where the recording has them all, with their type
             (Kineto has no type; at most seven tensors are read on a live process).

Source of the GEMM's figures: 2·M·N·K, CuPTI/TraceLens convention for bytes; compared exactly with TraceLens' tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowprof.profiler.torch import attention, convolutions, elements, products
from flowprof.profiler.torch.call import MAX_ELEMENTS, Arg, Cost, arguments, shown

__all__ = ["MAX_ELEMENTS", "WITHOUT", "Arg", "Cost", "arguments", "cost", "shown"]


def cost(name: str, args: Sequence[Arg]) -> Cost | None:
    """The cost of one call; None where there is no formula, or shapes and types that it does not fit."""
    formula = FORMULAS.get(name)
    if formula is None:
        return None
    try:
        found = formula(args)
    except (IndexError, KeyError, ValueError, ZeroDivisionError):
        return None
    return found if found.flops >= 0 and 0 <= found.size_bytes < MAX_ELEMENTS * 8 else None


WITHOUT = {
    "aten::contiguous": "copies only where it must: what it copies is in the clone inside",
    "aten::to": "copies only where it must: what it copies is in the copy_ inside",
    "aten::_to_copy": "the type that it copies to is not recorded: it is in the copy_ inside",
    "aten::einsum": "its equation is not recorded: the products are inside",
    "aten::lstm": "layers and directions are in lists of weights: they are the operators inside",
    "aten::gru": "layers and directions are in lists of weights: they are the operators inside",
    "aten::_transformer_encoder_layer_fwd": "it has more tensors than are read: the products are inside",
}
_NORMS = ("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm", "_fused_rms_norm",
          "batch_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional",
          "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "instance_norm", "softmax", "_softmax",
          "log_softmax", "_log_softmax")  # fmt: skip
_UNARY = ("abs", "ceil", "clamp", "cos", "erf", "exp", "floor", "gelu", "log", "neg", "pow", "reciprocal", "relu",
          "round", "rsqrt", "sigmoid", "sign", "silu", "sin", "sqrt", "tanh")  # fmt: skip
_BINARY = ("add", "div", "mul", "sub", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge")


FORMULAS: dict[str, Callable[[Sequence[Arg]], Cost]] = {
    "aten::mm": lambda args: products.mm(args[0], args[1]),
    "aten::addmm": lambda args: products.mm(args[1], args[2], args[0]),
    "aten::_addmm_activation": lambda args: products.mm(args[1], args[2], args[0]),
    "aten::matmul": products.matmul,
    "aten::mv": products.matmul,
    "aten::addmv": products.addmv,
    "aten::dot": products.matmul,
    "aten::vdot": products.matmul,
    "aten::bmm": lambda args: products.bmm(args[0], args[1]),
    "aten::baddbmm": lambda args: products.bmm(args[1], args[2], args[0]),
    "aten::addbmm": products.addbmm,
    "aten::linear": products.linear,
    "aten::mkldnn_linear": products.linear,
    "aten::_scaled_mm": products.scaled_mm,
    "aten::_int_mm": products.int_mm,
    "aten::_weight_int8pack_mm": products.int8_weights,
    "aten::_weight_int4pack_mm": products.int4_weights,
    "aten::_weight_int4pack_mm_for_cpu": products.int4_weights,
    "aten::_weight_int4pack_mm_with_scales_and_zeros": products.int4_weights,
    "aten::mkldnn_rnn_layer": products.rnn_layer,
    "aiter::gemm_a16w16": products.linear,
    "vllm::rocm_unquantized_gemm": products.linear,
    "aten::conv1d": lambda args: convolutions.convolution(args, 3, 4, 5),
    "aten::conv2d": lambda args: convolutions.convolution(args, 3, 4, 5),
    "aten::conv3d": lambda args: convolutions.convolution(args, 3, 4, 5),
    "aten::conv_transpose1d": lambda args: convolutions.transposed(args, 3, 4, 5, 6, 7),
    "aten::conv_transpose2d": lambda args: convolutions.transposed(args, 3, 4, 5, 6, 7),
    "aten::conv_transpose3d": lambda args: convolutions.transposed(args, 3, 4, 5, 6, 7),
    "aten::convolution": convolutions.either,
    "aten::_convolution": convolutions.either,
    "aten::mkldnn_convolution": lambda args: convolutions.convolution(args, 4, 3, 5),
    "aten::cudnn_convolution": lambda args: convolutions.convolution(args, 3, 2, 4),
    "aten::cudnn_convolution_relu": lambda args: convolutions.convolution(args, 3, 4, 5),
    "aten::cudnn_convolution_add_relu": convolutions.with_addend,
    "aten::cudnn_convolution_transpose": lambda args: convolutions.transposed(args, 4, 2, 3, 6, 5, bias=None),
    "aten::_conv_depthwise2d": convolutions.with_kernel_size,
    "aten::_slow_conv2d_forward": convolutions.with_kernel_size,
    "aten::scaled_dot_product_attention": lambda args: attention.attention(args, 1, 2, 5),
    "aten::_scaled_dot_product_attention_math": lambda args: attention.attention(args, 1, 2, 5),
    "aten::_scaled_dot_product_attention_math_for_mps": lambda args: attention.attention(args, 1, 2, 5),
    "aten::_scaled_dot_product_fused_attention_overrideable": lambda args: attention.attention(args, 1, 2, 5),
    "aten::_scaled_dot_product_flash_attention_for_cpu": lambda args: attention.attention(args, 1, 2, 4),
    "aten::_scaled_dot_product_flash_attention":  # quantised Q, K, V have their scales behind them
    lambda args: attention.attention(args, 1, 2, 7 if len(args) > 7 else 4),
    "aten::_scaled_dot_product_efficient_attention": lambda args: attention.attention(args, 1, 2, 6),
    "aten::_scaled_dot_product_cudnn_attention": lambda args: attention.attention(args, 1, 2, 6),
    "aten::_flash_attention_forward": lambda args: attention.attention(args, 2, 1, 8),
    "aten::_efficient_attention_forward": attention.efficient,
    "aten::_native_multi_head_attention": attention.multi_head,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": lambda args: attention.backward(args, 7),
    "aten::_scaled_dot_product_flash_attention_backward": lambda args: attention.backward(args, 11),
    "aten::_scaled_dot_product_efficient_attention_backward": lambda args: attention.backward(args, 11),
    "aten::_scaled_dot_product_cudnn_attention_backward": lambda args: attention.backward(args, 14),
    "aten::_scaled_dot_product_fused_attention_overrideable_backward": lambda args: attention.backward(args, 13),
    "aten::embedding": elements.embedding,
    "aten::embedding_bag": elements.embedding_bag,
    "aten::_embedding_bag": elements.embedding_bag,
    "aten::_embedding_bag_forward_only": elements.embedding_bag,
    "aten::index_select": elements.index_select,
    "aten::copy_": lambda args: elements.copy(args[0], args[1]),
    "aten::_copy_from": lambda args: elements.copy(args[1], args[0]),
    "aten::clone": elements.clone,
    "aten::cat": elements.cat,
    "aten::stack": elements.cat,
    **{f"aten::{name}": elements.norm for name in _NORMS},
    **{f"aten::{name}{ending}": elements.unary for name in _UNARY for ending in ("", "_")},
    **{f"aten::{name}{ending}": elements.binary for name in _BINARY for ending in ("", "_")},
}
