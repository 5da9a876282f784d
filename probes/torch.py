"""PyTorch's operators: every call goes through `at::_ops::NAME::call` in libtorch_cpu.so, on whatever device it runs.

There are some 3 100 of them, and they nest (linear → addmm → …). The default set holds those that move or compute
much: matrix products, attention, convolutions, norms, softmax, embedding, copies, and the collectives of c10d. Their
calls return when the work is queued: a wait for it is a call of its own, and Gloo's threads are seen while they run it.
An operator may throw, and a return probe on a function that an exception leaves ends the program: exits are probed on
instructions (profiler/planning/exit_sites.py).

What Python calls by `torch.ops` (quantized::linear_dynamic, a library's own operators such as vLLM's, the fallbacks of
compiled code) goes to the dispatcher past `at::_ops`: it is seen where Python hands it over, by its name, without
shapes and with the conversion of its arguments.

What Inductor and Triton compile does not come by here (see inductor.py); of the operators that they leave over each is
seen, products as mm_out. Nor does what TorchScript's interpreter itself calls: the operators inside are seen.

Where a backward pass, TorchScript's interpreter and a function that torch.compile made begin and end is watched, too:
a backward pass runs on the thread that asks for it on a CPU, and TorchScript may go on on another one.
"""

from __future__ import annotations

import re

from flowprof.probes.catalogue import Engine, Ladder, Probe, Rung

DEFAULT = (
    r"mm|addmm|bmm|baddbmm|matmul|linear|mv|addmv|dot|vdot|einsum|addbmm|_int_mm|_scaled_mm|_weight_int\w+|"
    r"(mm|addmm|bmm|baddbmm)_out|_addmm_activation|mkldnn_linear|mkldnn_rnn_layer|lstm_input|gru_input|"
    r"\w*scaled_dot_product\w*attention\w*|_flash_attention_forward|_efficient_attention_forward|"
    r"_native_multi_head_attention|_transformer_encoder_layer_fwd|"
    r"conv[123]d(_padding)?|conv_transpose[123]d(_input)?|_?convolution|mkldnn_convolution|cudnn_convolution\w*|"
    r"_conv_depthwise2d|_slow_conv2d_forward|"
    r"(native_|_fused_)?(layer|group|batch|rms|instance)_norm|_native_batch_norm_legit\w*|cudnn_batch_norm|"
    r"_?(log_)?softmax(_int)?|embedding|embedding_bag(_padding_idx)?|_embedding_bag(_forward_only)?|index_select|"
    r"copy_|_to_copy|to_(dtype|device|other|dtype_layout)|clone|contiguous|cat|_copy_from"
)
COLLECTIVES = (
    r"_ZN4c10d\d+ProcessGroup(Gloo|NCCL|MPI|UCC)\d+(broadcast|allreduce\w*|reduce|_?allgather\w*|gather|scatter|"
    r"_?reduce_scatter\w*|alltoall\w*|send|recv|recvAnysource|barrier)E.*"
)
WAIT = r"_ZN4c10d(4Work|16ProcessGroupGloo8(Send|Recv)Work)4waitE.*"  # NCCL's own makes a stream wait, not a thread
RUN = r"_ZN4c10d16ProcessGroupGloo9AsyncWork7executeE.*"  # on a thread of Gloo's; sends and receives have none
BACKWARD = r"_ZN5torch8autograd6Engine7executeE.*"
SCRIPT = r"_ZN5torch3jit16InterpreterState(3run|8runAsync)E.*"
NAMED = r"_ZN5torch3jit24invokeOperatorFromPythonE.*"  # in libtorch_python
COMPILED = "dynamo_eval_custom_code"  # in libtorch_python: runs what torch.compile made of a Python function
FILES = r"libtorch(_cpu|_python)?\.so(\.[0-9.]+)?"  # a wheel's; Debian's with its version
_COLD = r".*\.cold(\.\d+)?"


def _both_ends(name: str, pattern: str, args: int = 0, program: str = "torch_begin") -> tuple[Probe, Probe]:
    """Where functions begin and end that not every build has."""
    return (
        Probe(name, "entry", program, args, pattern=pattern, excluded=_COLD, required=False),
        Probe(f"{name}.return", "exit", "call_end", 0, pattern=pattern, excluded=_COLD, required=False),
    )


def engine(operators: str = "") -> Engine:
    """torch with a set of operators: "" the default one, "all", or a regular expression over names.

    A name is `add_Tensor`: the operator's, and its overload's. Raises ValueError where it is no expression, or none
    that can stand within another.
    """
    chosen = {"": DEFAULT, "all": r"\w+"}.get(operators, operators)
    pattern = rf"_ZN2at4_ops\d+(?:{chosen})4callE.*"
    try:
        for text in (chosen, pattern):
            re.compile(text.encode())  # names are bytes (symbols.py)
    except (re.error, OverflowError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from error
    return Engine(
        "torch",
        b"_ZN2at4_ops2mm4callE",
        "torch.bpf.c",
        (
            Ladder(
                "op",
                "which operator runs, with what arguments, since when",
                (
                    Rung(
                        "dispatch",
                        "at::_ops::*::call: every operator that is called, on its thread, with those inside it",
                        (
                            Probe("torch.call", "entry", "torch_begin", 6, pattern=pattern, excluded=_COLD),
                            Probe("torch.return", "exit", "call_end", 0, pattern=pattern, excluded=_COLD),
                            *_both_ends("torch.collective", COLLECTIVES, 6),
                            *_both_ends("torch.wait", WAIT),
                            *_both_ends("torch.run", RUN),
                            *_both_ends("torch.backward", BACKWARD),
                            *_both_ends("torch.script", SCRIPT),
                            *(_both_ends("torch.named", NAMED, 2, "torch_named") if operators in ("", "all") else ()),
                            Probe("torch.compiled", "entry", "torch_begin", 0, (COMPILED,), required=False),
                            Probe("torch.compiled.return", "exit", "call_end", 0, (COMPILED,), required=False),
                        ),
                    ),
                ),
            ),
        ),
        files=FILES,
    )  # fmt: skip


TORCH = engine()
