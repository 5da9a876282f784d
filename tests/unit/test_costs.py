"""Costs worked out by hand: the arithmetic stands beside each case and shares no code with the formulas."""

import importlib.util
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.machine.ceilings import Ceiling, Ceilings
from flowprof.profiler.roofline.cost_bytes import distinct_experts
from flowprof.profiler.roofline.cost_formulas import FORMULAS, formula_of
from flowprof.profiler.roofline.costs import Cost, GraphCost, Tensor, graph_costs, node_cost
from flowprof.profiler.roofline.least_time import Roof, from_cache, terms

BLOCKS = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "i32": (1, 4), "i64": (1, 8),
          "q8_0": (32, 34), "q4_K": (256, 144)}  # fmt: skip
keys = count(1000)


def size(kind, ne):
    elements, unit = BLOCKS[kind]
    return int(np.prod(ne)) // elements * unit


def tensor(kind, *ne, weight=False, key=None):
    shape = (*ne, 1, 1, 1)[:4]
    return Tensor(kind, shape, size(kind, shape), weight, next(keys) if key is None else key)


def f32(*ne, **more):
    return tensor("f32", *ne, **more)


def f16(*ne, **more):
    return tensor("f16", *ne, **more)


def i32(*ne):
    return tensor("i32", *ne)


def weight(kind, *ne):
    return tensor(kind, *ne, weight=True)


CACHE = 77  # key of a cache
MULTIPLIES = [
    # 1 token: 2·2048·5632 = 23068672; 2048·5632/32·34 = 12255232; in 2048·4 = 8192; out 5632·4 = 22528
    ("q8_0 decode", "MUL_MAT", f32(5632, 1), [weight("q8_0", 2048, 5632), f32(2048, 1)], None,
     (23068672, "int8", 12255232, 8192, 22528)),
    # prefill of 512: 512 times the FLOPs, in and out; the weight once
    ("q8_0 prefill", "MUL_MAT", f32(5632, 512), [weight("q8_0", 2048, 5632), f32(2048, 512)], None,
     (11811160064, "int8", 12255232, 4194304, 11534336)),
    # q4_K [256, 10]: 10 blocks of 144 = 1440; 2·256·10·3 = 15360; in 256·3·4 = 3072; out 10·3·4 = 120
    ("q4_K", "MUL_MAT", f32(10, 3), [weight("q4_K", 256, 10), f32(256, 3)], None, (15360, "int8", 1440, 3072, 120)),
    # 2·64·100·7 = 89600; 64·100·2 = 12800; 64·7·4 = 1792; 100·7·4 = 2800
    ("f16", "MUL_MAT", f32(100, 7), [weight("f16", 64, 100), f32(64, 7)], None, (89600, "f16", 12800, 1792, 2800)),
    ("bf16", "MUL_MAT", f32(100, 7), [weight("bf16", 64, 100), f32(64, 7)], None, (89600, "bf16", 12800, 1792, 2800)),
    # f32: 64·100·4 = 25600
    ("f32", "MUL_MAT", f32(100, 7), [weight("f32", 64, 100), f32(64, 7)], None, (89600, "f32", 25600, 1792, 2800)),
    # K·Q, 8 query heads share 2 cache heads of 64, 256 cells, 1 token: 2·64·(256·1·8) = 262144;
    # cache once 64·256·2·2 = 65536, Q 64·8·4 = 2048; out 256·8·4 = 8192
    ("KQ, GQA", "MUL_MAT", f32(256, 1, 8), [f16(64, 256, 2), f32(64, 1, 8)], None, (262144, "f16", 0, 67584, 8192)),
    # V·softmax: 2·256·(64·1·8) = 262144; V 65536, softmax 256·8·4 = 8192; out 64·8·4 = 2048
    ("KQV, GQA", "MUL_MAT", f32(64, 1, 8), [f16(256, 64, 2), f32(256, 1, 8)], None, (262144, "f16", 0, 73728, 2048)),
    # a q8_0 cache: 64·256·2/32·34 = 34816, + 2048
    ("KQ, q8_0", "MUL_MAT", f32(256, 1, 8), [tensor("q8_0", 64, 256, 2), f32(64, 1, 8)], None,
     (262144, "int8", 0, 36864, 8192)),
    # [5, 4]·[6, 4] over 4 rows: 2·4·30 = 240; 20·4 + 24·4 = 176; 30·4 = 120
    ("outer", "OUT_PROD", f32(5, 6), [f32(5, 4), f32(6, 4)], None, (240, "f32", 0, 176, 120)),
    # one token, 2 of 8 experts, each 64·32 q8_0 = 2176: 2·64·32·2 = 8192 FLOPs; 2 experts 4352;
    # in 64·4 + ids 2·4 = 264; out 32·2·4 = 256
    ("moe, 1 token", "MUL_MAT_ID", f32(32, 2, 1), [weight("q8_0", 64, 32, 8), f32(64, 1, 1), i32(2, 1)], None,
     (8192, "int8", 4352, 264, 256)),
    # 3 tokens: FLOPs ·3; 8·(1 − 0.75³) = 4.625 experts = 10064; in 3·64·4 + 6·4 = 792; out 32·2·3·4 = 768
    ("moe, 3 tokens", "MUL_MAT_ID", f32(32, 2, 3), [weight("q8_0", 64, 32, 8), f32(64, 1, 3), i32(2, 3)], None,
     (24576, "int8", 10064, 792, 768)),
    # the recording saw 5 experts: 5·2176 = 10880; it cannot have seen more than there are: 8·2176 = 17408
    ("moe, 5 seen", "MUL_MAT_ID", f32(32, 2, 3), [weight("q8_0", 64, 32, 8), f32(64, 1, 3), i32(2, 3)], 5,
     (24576, "int8", 10880, 792, 768)),
    ("moe, 9 seen", "MUL_MAT_ID", f32(32, 2, 3), [weight("q8_0", 64, 32, 8), f32(64, 1, 3), i32(2, 3)], 9,
     (24576, "int8", 17408, 792, 768)),
    # bias rows of 2 of 8 experts: 16·4·2 = 128 of 512; a 16·2·4 = 128, ids 8; 32 adds; out 128
    ("moe bias", "ADD_ID", f32(16, 2, 1), [f32(16, 2, 1), weight("f32", 16, 8), i32(2, 1)], None,
     (32, "", 128, 136, 128)),
]  # fmt: skip
ATTENTION = [
    # 4 tokens, 8 heads of 64, 256 cells, 2 cache heads: pairs 256·4·8 = 8192; 8192·(128 + 128 + 5) = 2138112;
    # Q 64·4·8·4 = 8192, K = V = 64·256·2·2 = 65536, mask 256·4·2 = 2048: 141312; out 64·8·4·4 = 8192
    ("flash", "FLASH_ATTN_EXT", f32(64, 8, 4), [f32(64, 4, 8), f16(64, 256, 2), f16(64, 256, 2), f16(256, 4)], None,
     (2138112, "f16", 0, 141312, 8192)),
    # MLA: V [512] is a part of K's rows [576]. 16 heads, 1 token, 128 cells: 2048·(1152 + 1024 + 5) = 4466688;
    # Q 576·16·4 = 36864, K 576·128·2 = 147456, V nothing: 184320; out 512·16·4 = 32768
    ("flash, MLA", "FLASH_ATTN_EXT", f32(512, 16, 1),
     [f32(576, 1, 16), f16(576, 128, 1, key=CACHE), f16(512, 128, 1, key=CACHE)], None,
     (4466688, "f16", 0, 184320, 32768)),
    # q, k and v are parts of one tensor, none of another: all are read, 64·4·3 = 768; 4·4·2 = 32 pairs of 16 + 16 + 5
    ("flash, fused qkv", "FLASH_ATTN_EXT", f32(8, 2, 4), [f32(8, 4, 2, key=5)] * 3, None,
     (1184, "f32", 0, 768, 256)),
    # 256·1·8 scores: 5 each = 10240; 8192 + mask 256·2 = 8704; out 8192
    ("softmax", "SOFT_MAX", f32(256, 1, 8), [f32(256, 1, 8), f16(256, 1)], None, (10240, "", 0, 8704, 8192)),
    # 64·8·3 = 1536 elements = 768 pairs of 6 = 4608; 6144 + positions 12; out 6144
    ("rope", "ROPE", f32(64, 8, 3), [f32(64, 8, 3), i32(3)], None, (4608, "", 0, 6156, 6144)),
    # 16 cells, 3 tokens, 4 heads of 32: per elt 4·(64 + 3) + 1 = 269, 48 of them = 12912;
    # q 1536 + k 1024 + weights 48 + mask 96 = 2704; out 192
    ("indexer", "LIGHTNING_INDEXER", f32(16, 3), [f32(32, 4, 3), f16(32, 1, 16), f32(4, 3), f16(16, 3)], None,
     (12912, "f32", 0, 2704, 192)),
    # forward's 2 products are 5 backward: 8·4·2 = 64 pairs·(10·16 + 10) = 10880
    # q 16·4·2·4 = 512, k 16·8·2·4 = 1024, v 1024, d 512: 3072; gradients of q, k, v: 640·4 = 2560
    ("flash back", "FLASH_ATTN_BACK", f32(640), [f32(16, 4, 2), f32(16, 8, 2), f32(8, 16, 2), f32(16, 2, 4)], None,
     (10880, "f32", 0, 3072, 2560)),
]  # fmt: skip
ROWS = [
    # 2048·3 = 6144 elements of 3 = 18432; 24576 in and out
    ("rms norm", "RMS_NORM", f32(2048, 3), [f32(2048, 3)], None, (18432, "", 0, 24576, 24576)),
    # of 5 = 30720
    ("norm", "NORM", f32(2048, 3), [f32(2048, 3)], None, (30720, "", 0, 24576, 24576)),
    ("group norm", "GROUP_NORM", f32(2048, 3), [f32(2048, 3)], None, (30720, "", 0, 24576, 24576)),
    ("l2 norm", "L2_NORM", f32(2048, 3), [f32(2048, 3)], None, (18432, "", 0, 24576, 24576)),
    # a norm's weight is broadcast over 3 tokens and read once: 8192
    ("mul by weight", "MUL", f32(2048, 3), [f32(2048, 3), weight("f32", 2048)], None, (6144, "", 8192, 24576, 24576)),
    ("add", "ADD", f32(2048, 3), [f32(2048, 3), f32(2048, 3)], None, (6144, "", 0, 49152, 24576)),
    ("scale", "SCALE", f32(10), [f32(10)], None, (10, "", 0, 40, 40)),
    ("silu", "UNARY(SILU)", f32(100), [f32(100)], None, (400, "", 0, 400, 400)),
    ("relu", "UNARY(RELU)", f32(100), [f32(100)], None, (100, "", 0, 400, 400)),
    # a function that we do not know: bytes, no FLOPs
    ("new function", "UNARY(WOBBLE)", f32(100), [f32(100)], None, (None, "", 0, 400, 400)),
    # gate and up: 5632·5 = 28160; 2·22528 = 45056
    ("swiglu", "GLU(SWIGLU)", f32(5632), [f32(5632), f32(5632)], None, (28160, "", 0, 45056, 22528)),
    # both in one tensor twice as wide
    ("swiglu, one source", "GLU(SWIGLU)", f32(5632), [f32(11264)], None, (28160, "", 0, 45056, 22528)),
    ("sum rows", "SUM_ROWS", f32(1, 8), [f32(100, 8)], None, (800, "", 0, 3200, 32)),
    ("argmax", "ARGMAX", i32(8), [f32(100, 8)], None, (800, "", 0, 3200, 32)),
    ("count equal", "COUNT_EQUAL", tensor("i64", 1), [i32(50), i32(50)], None, (100, "", 0, 400, 8)),
    # 3 rows of 64: 64·log2 64 = 384 each
    ("argsort", "ARGSORT", i32(64, 3), [f32(64, 3)], None, (1152, "", 0, 768, 768)),
    # the best 8 of 64: 64·log2 8 = 192 each
    ("top k", "TOP_K", i32(8, 3), [f32(64, 3)], None, (576, "", 0, 768, 96)),
]  # fmt: skip
COPIES = [
    # embedding rows of 3 tokens of 32000: a row of 2048 q8_0 = 2176; ids 12; out 3·8192
    ("embedding", "GET_ROWS", f32(2048, 3), [weight("q8_0", 2048, 32000), i32(3)], None, (0, "", 6528, 12, 24576)),
    # 2 experts' probabilities of 8, for each of 3 tokens: 6 of 24 values = 24 bytes, ids 24
    ("probabilities", "GET_ROWS", f32(1, 2, 3), [f32(1, 8, 3), i32(2, 3)], None, (0, "", 0, 48, 24)),
    # more rows than the table has: the table once, 10·4·4 = 160, + 80
    ("repeated rows", "GET_ROWS", f32(4, 20), [f32(4, 10), i32(20)], None, (0, "", 0, 240, 320)),
    # 3 new rows of 512 into an f16 cache of 4096 rows: read 6144 + ids 24; written 3·512·2, not the cache
    ("cache", "SET_ROWS", f16(512, 4096, key=CACHE), [f32(512, 3), tensor("i64", 3), f16(512, 4096, key=CACHE)], None,
     (0, "", 0, 6168, 3072)),
    # before the destination became a source; a q8_0 cache: 3·512/32·34 = 1632
    ("cache, older", "SET_ROWS", tensor("q8_0", 512, 4096), [f32(512, 3), tensor("i64", 3)], None,
     (0, "", 0, 6168, 1632)),
    # the destination is not read: 6144 in, 3072 out
    ("cpy", "CPY", f16(512, 3, key=CACHE), [f32(512, 3), f16(512, 3, key=CACHE)], None, (0, "", 0, 6144, 3072)),
    ("cont", "CONT", f16(64, 32, 2), [f16(64, 32, 2)], None, (0, "", 0, 8192, 8192)),
    ("concat", "CONCAT", f32(10, 5), [f32(10, 2), f32(10, 3)], None, (0, "", 0, 200, 200)),
    ("repeat", "REPEAT", f32(10, 4), [f32(10)], None, (0, "", 0, 40, 160)),
    ("fill", "FILL", f32(10), [f32(10)], None, (0, "", 0, 0, 40)),
    ("mask", "DIAG_MASK_INF", f32(8, 8), [f32(8, 8)], None, (0, "", 0, 256, 256)),
    ("arange", "ARANGE", f32(10), [], None, (10, "", 0, 0, 40)),
    # 6 of 30 elements are added; counted as a copy of the whole: 120 + 24 read, 120 written
    ("acc", "ACC", f32(10, 3), [f32(10, 3), f32(6)], None, (6, "", 0, 144, 120)),
    ("view", "VIEW", f32(10), [f32(100)], None, (0, "", 0, 0, 0)),
    ("nothing", "NONE", f32(10), [], None, (0, "", 0, 0, 0)),
    ("custom", "MAP_CUSTOM1", f32(10), [f32(10)], None, (None, "", 0, 40, 40)),
]  # fmt: skip
STATES = [
    # Mamba 1: 16 states · 100 channels · 2 tokens = 3200 cells of 7 = 22400; state 6400, x 800, dt 800, A 6400,
    # B, C 128 each, ids 4 = 14660; out 200 + 1600 values = 7200
    ("mamba 1", "SSM_SCAN", f32(1800),
     [f32(16, 1, 100, 1), f32(1, 100, 2, 1), f32(100, 2, 1), f32(16, 100), f32(16, 1, 2, 1), f32(16, 1, 2, 1), i32(1)],
     None, (22400, "", 0, 14660, 7200)),
    # Mamba 2: 16 · (8·4 channels) · 2 tokens = 1024 cells of 5 = 5120. One of 3 stored states 16·8·4·4 = 2048, x 256,
    # dt 32, A 16, B, C 128 each, ids 4 = 2612; out 64 + 512 values = 2304
    ("mamba 2", "SSM_SCAN", f32(576),
     [f32(16, 8, 4, 3), f32(8, 4, 2, 1), f32(4, 2, 1), f32(1, 4), f32(16, 1, 2, 1), f32(16, 1, 2, 1), i32(1)], None,
     (5120, "", 0, 2612, 2304)),
    # 4 taps on 16 channels · 5 tokens: 2·4·80 = 640; in 8·16·4 = 512; weight 4·16·4 = 256; out 320
    ("ssm conv", "SSM_CONV", f32(16, 5), [f32(8, 16), weight("f32", 4, 16)], None, (640, "", 256, 512, 320)),
    # 2 heads of 8, 3 tokens: 8·8·2·3 = 384 cells of 7 = 2688; k v r td 192 each, tf 64, state 512 = 1344;
    # out 48 + 128 values = 704
    ("rwkv 6", "RWKV_WKV6", f32(16, 11), [*[f32(8, 2, 3)] * 3, f32(8, 2), f32(8, 2, 3), f32(128)], None,
     (2688, "", 0, 1344, 704)),
    # of 9 = 3456; six of 192 + 512 = 1664
    ("rwkv 7", "RWKV_WKV7", f32(16, 11), [f32(8, 2, 3)] * 6 + [f32(128)], None, (3456, "", 0, 1664, 704)),
    # of 5 = 1920; four of 192 + 512 = 1280
    ("gla", "GATED_LINEAR_ATTN", f32(16, 11), [f32(8, 2, 3)] * 4 + [f32(128)], None, (1920, "", 0, 1280, 704)),
    # q, k with 1 head, v with 2: cells 384 of 7 = 2688; q k 96 each, v 192, g beta 24 each, state 512 = 944; out 704
    ("delta net", "GATED_DELTA_NET", f32(16, 11),
     [f32(8, 1, 3), f32(8, 1, 3), f32(8, 2, 3), f32(1, 2, 3), f32(1, 2, 3), f32(8, 8, 2)], None,
     (2688, "", 0, 944, 704)),
    # 4x4 triangle, 3 columns: rows of 2, 4, 6, 8 operations = 20, ·3 = 60; 64 + 48 read
    ("triangle", "SOLVE_TRI", f32(3, 4), [f32(4, 4), f32(3, 4)], None, (60, "", 0, 112, 48)),
    # 4 streams of 10, 2 tokens: multiply and add 80 values = 160; 320 + 32; out 80
    ("hc pre", "DSV4_HC_PRE", f32(10, 2), [f32(10, 4, 2), f32(4, 2)], None, (160, "", 0, 352, 80)),
    # per value 1 + 2·4 = 9: 80 of them = 720; 80 + 320 + 32 + 128 = 560; out 320
    ("hc post", "DSV4_HC_POST", f32(10, 4, 2), [f32(10, 2), f32(10, 4, 2), f32(4, 2), f32(4, 4, 2)], None,
     (720, "", 0, 560, 320)),
]  # fmt: skip
CONVOLUTIONS = [
    # 3x3, 4 → 8 channels, 10x10 → 8x8: 2·9·4·(64·8) = 36864; kernel 288·2 = 576; image 1600; out 512·4 = 2048
    ("conv 2d", "CONV_2D", f32(8, 8, 8), [weight("f16", 3, 3, 4, 8), f32(10, 10, 4)], None,
     (36864, "f16", 576, 1600, 2048)),
    # depthwise, 4 channels: 2·9·(64·4) = 4608; kernel 36·4 = 144; out 1024
    ("depthwise", "CONV_2D_DW", f32(8, 8, 4), [weight("f32", 3, 3, 1, 4), f32(10, 10, 4)], None,
     (4608, "", 144, 1600, 1024)),
    # 2x2x2, 3 → 5 channels, 4x4x4 → 3x3x3, 2 images: 2·8·3·(27·10) = 12960; 8·15·2 = 240; 64·6·4 = 1536; 270·4 = 1080
    ("conv 3d", "CONV_3D", f32(3, 3, 3, 10), [weight("f16", 2, 2, 2, 15), f32(4, 4, 4, 6)], None,
     (12960, "f16", 240, 1536, 1080)),
    # 4 taps, 5 ← 3 channels, 10 samples: each of 30 inputs meets 4·5 weights: 2·20·30 = 1200; 60·2; 30·4; 22·5·4 = 440
    ("transposed 1d", "CONV_TRANSPOSE_1D", f32(22, 5), [weight("f16", 4, 5, 3), f32(10, 3)], None,
     (1200, "f16", 120, 120, 440)),
    # 2x2, 5 ← 3 channels, 4x4: 48 inputs · 20 weights · 2 = 1920; 60·2 = 120; 192; 8·8·5·4 = 1280
    ("transposed 2d", "CONV_TRANSPOSE_2D", f32(8, 8, 5), [weight("f16", 2, 2, 5, 3), f32(4, 4, 3)], None,
     (1920, "f16", 120, 192, 1280)),
    # the kernel gives only its shape
    ("im2col", "IM2COL", f16(36, 8, 8), [weight("f16", 3, 3, 4, 8), f32(10, 10, 4)], None, (0, "", 0, 1600, 4608)),
    ("pool", "POOL_2D", f32(5, 5, 4), [f32(10, 10, 4)], None, (400, "", 0, 1600, 400)),
    ("upscale", "UPSCALE", f32(20, 20), [f32(10, 10)], None, (0, "", 0, 400, 1600)),
]  # fmt: skip
ELEMENTS = [
    # 10 elements of one operation; the scalar is 4 bytes more
    ("add one", "ADD1", f32(10), [f32(10), f32(1)], None, (10, "", 0, 44, 40)),
    ("subtract", "SUB", f32(10), [f32(10), f32(10)], None, (10, "", 0, 80, 40)),
    # a row of 10 is broadcast over 3 and read once: 120 + 40
    ("divide", "DIV", f32(10, 3), [f32(10, 3), f32(10)], None, (30, "", 0, 160, 120)),
    *((op.lower(), op, f32(10), [f32(10)], None, (10, "", 0, 40, 40)) for op in ("SQR", "SQRT", "LOG", "SIN", "COS")),
    # two comparisons; a comparison and a product
    ("clamp", "CLAMP", f32(10), [f32(10)], None, (20, "", 0, 40, 40)),
    ("leaky relu", "LEAKY_RELU", f32(10), [f32(10)], None, (20, "", 0, 40, 40)),
    # two biases on 16 elements: 32; 64 + 16 + 16 read
    ("relative positions", "ADD_REL_POS", f32(16), [f32(16), f32(4), f32(4)], None, (32, "", 0, 96, 64)),
    # 5 steps, 32 values each: a product, a sine or cosine, and its frequency: 160·3 = 480
    ("timesteps", "TIMESTEP_EMBEDDING", f32(32, 5), [f32(5)], None, (480, "", 0, 20, 640)),
    ("new unary", "UNARY", f32(10), [f32(10)], None, (None, "", 0, 40, 40)),
    ("new glu", "GLU", f32(10), [f32(20)], None, (None, "", 0, 80, 40)),
    # a sum over all: 800 additions; 3200 read
    ("sum", "SUM", f32(1), [f32(100, 8)], None, (800, "", 0, 3200, 4)),
    ("mean", "MEAN", f32(1, 8), [f32(100, 8)], None, (800, "", 0, 3200, 32)),
    ("running sum", "CUMSUM", f32(100, 8), [f32(100, 8)], None, (800, "", 0, 3200, 3200)),
]  # fmt: skip
TRAINING = [
    # 24 elements: of 5 = 120, 7 = 168, 9 = 216, 3 = 72; two sources of 96
    ("softmax back", "SOFT_MAX_BACK", f32(8, 3), [f32(8, 3), f32(8, 3)], None, (120, "", 0, 192, 96)),
    ("rms norm back", "RMS_NORM_BACK", f32(8, 3), [f32(8, 3), f32(8, 3)], None, (168, "", 0, 192, 96)),
    ("silu back", "SILU_BACK", f32(8, 3), [f32(8, 3), f32(8, 3)], None, (216, "", 0, 192, 96)),
    ("rope back", "ROPE_BACK", f32(8, 3), [f32(8, 3), i32(3)], None, (72, "", 0, 108, 96)),
    # 4 copies of 10 are added up: 40
    ("repeat back", "REPEAT_BACK", f32(10), [f32(10, 4)], None, (40, "", 0, 160, 40)),
    # 3 rows of 4 are added to rows of a table that begins at nothing: 12; 48 + ids 12; the whole table is written
    ("rows back", "GET_ROWS_BACK", f32(4, 10), [f32(4, 3), i32(3), f32(4, 10)], None, (12, "", 0, 60, 160)),
    # 100 gradients go to where the maximum was: 400 + 1600 read
    ("pool back", "POOL_2D_BACK", f32(10, 10, 4), [f32(5, 5, 4), f32(10, 10, 4)], None, (100, "", 0, 2000, 1600)),
    # 36·8·8 = 2304 gradients are added to 400 pixels; the kernel gives only its shape
    ("im2col back", "IM2COL_BACK", f32(10, 10, 4), [f32(36, 8, 8), f32(3, 3, 4, 8)], None, (2304, "", 0, 9216, 1600)),
    # 400 values, 7 each forward, 8 back
    ("cross entropy", "CROSS_ENTROPY_LOSS", f32(1), [f32(100, 4), f32(100, 4)], None, (2800, "", 0, 3200, 4)),
    ("cross entropy back", "CROSS_ENTROPY_LOSS_BACK", f32(100, 4), [f32(1), f32(100, 4), f32(100, 4)], None,
     (3200, "", 0, 3204, 1600)),
    # weight, gradient, two moments and 7 parameters are read; weight and moments are written
    ("adamw", "OPT_STEP_ADAMW", f32(10), [f32(10)] * 4 + [f32(7)], None, (140, "", 0, 188, 120)),
    ("sgd", "OPT_STEP_SGD", f32(10), [f32(10), f32(10), f32(2)], None, (30, "", 0, 88, 40)),
]  # fmt: skip
MOVES = [
    *((op.lower(), op, f32(10), [f32(10)], None, (0, "", 0, 40, 40)) for op in ("DUP", "ROLL")),
    *((op.lower(), op, f32(8, 8), [f32(8, 8)], None, (0, "", 0, 256, 256)) for op in ("DIAG_MASK_ZERO", "TRI")),
    *((op.lower(), op, f32(10), [f32(10)], None, (0, "", 0, 0, 0)) for op in ("RESHAPE", "PERMUTE", "TRANSPOSE")),
    # 8 values on the diagonal of 64
    ("diagonal", "DIAG", f32(8, 8), [f32(8)], None, (0, "", 0, 32, 256)),
    # 10x8 with a border: 12x10
    ("pad", "PAD", f32(12, 10), [f32(10, 8)], None, (0, "", 0, 320, 480)),
    ("pad, reflected", "PAD_REFLECT_1D", f32(14), [f32(10)], None, (0, "", 0, 40, 56)),
    # 4 channels of 14x14 as 4 windows of 7x7, and back
    ("windows", "WIN_PART", f32(4, 7, 7, 4), [f32(4, 14, 14)], None, (0, "", 0, 3136, 3136)),
    ("windows back", "WIN_UNPART", f32(4, 14, 14), [f32(4, 7, 7, 4)], None, (0, "", 0, 3136, 3136)),
    # 6 of 30 elements are replaced; counted as a copy of the whole
    ("set", "SET", f32(10, 3), [f32(10, 3), f32(6)], None, (0, "", 0, 144, 120)),
    # 9 rows of 5 are more than there are: the table once
    ("relative rows", "GET_REL_POS", f32(4, 3, 3), [f32(4, 5)], None, (0, "", 0, 80, 144)),
    # 10 samples in windows of 2
    ("pool 1d", "POOL_1D", f32(5, 4), [f32(10, 4)], None, (40, "", 0, 160, 80)),
    # 20 taps · 10 columns are added to 22·5 samples
    ("col2im", "COL2IM_1D", f32(22, 5), [f32(20, 10)], None, (200, "", 0, 800, 440)),
    # 2x2x2 of 3 channels = 24 values for each of 27 places
    ("im2col 3d", "IM2COL_3D", f16(24, 3, 3, 3), [weight("f16", 2, 2, 2, 15), f32(4, 4, 4, 3)], None,
     (0, "", 0, 768, 1296)),
    ("custom, 2", "MAP_CUSTOM2", f32(10), [f32(10), f32(10)], None, (None, "", 0, 80, 40)),
    ("custom, 3", "MAP_CUSTOM3", f32(10), [f32(10)] * 3, None, (None, "", 0, 120, 40)),
    ("custom, any", "CUSTOM", f32(10), [f32(10)], None, (None, "", 0, 40, 40)),
    ("hc comb", "DSV4_HC_COMB", f32(4, 2), [f32(4, 2)] * 3, None, (None, "", 0, 96, 32)),
]  # fmt: skip
CASES = [*MULTIPLIES, *ATTENTION, *ROWS, *ELEMENTS, *COPIES, *MOVES, *STATES, *CONVOLUTIONS, *TRAINING]


def test_every_operator_has_a_case():
    assert set(FORMULAS) - {case[1] for case in CASES} == set()


@pytest.mark.parametrize(
    ("op", "result", "sources", "experts", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_cost(op, result, sources, experts, expected):
    cost = node_cost(op, result, sources, experts)
    assert (cost.flops, cost.path, cost.weight_bytes, cost.read_bytes, cost.write_bytes) == expected


@pytest.mark.parametrize(
    ("op", "sources"),
    [
        ("NEXT_YEARS_ATTENTION", [f32(8), f32(8)]),
        ("MUL_MAT", [f32(8)]),  # a source was lost
        ("MUL_MAT_ID", [f32(8), f32(8)]),
        ("FLASH_ATTN_EXT", []),
    ],
)
def test_nothing_known(op, sources):
    assert node_cost(op, f32(8), sources) is None


@pytest.mark.parametrize("op", sorted(FORMULAS))
def test_every_formula_copes_with_any_shape(op):
    for ne in ((1, 1, 1, 1), (32, 3, 2, 5), (32, 0, 1, 1)):
        cost = node_cost(op, f32(*ne), [f32(*ne) for _ in range(8)])
        assert cost.flops is None or cost.flops >= 0
        assert min(cost.weight_bytes, cost.read_bytes, cost.write_bytes) >= 0


@pytest.mark.parametrize(
    ("experts", "used", "tokens", "expected"),
    [(8, 2, 1, 2.0), (128, 8, 1, 8.0), (8, 2, 2, 3.5), (8, 8, 5, 8.0), (8, 9, 1, 8.0), (4, 2, 1000, 4.0)],
)
def test_distinct_experts(experts, used, tokens, expected):  # 8·(1 − (3/4)²) = 3.5
    assert distinct_experts(experts, used, tokens) == pytest.approx(expected)


# ---------------------------------------------------------------------- against the engine and the paper

_NAMES = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
for function, number in (pair.split("=") for pair in sys.argv[2:]):
    accessor = getattr(library, function)
    accessor.restype, accessor.argtypes = ctypes.c_char_p, [ctypes.c_int]
    print(*(accessor(i).decode() for i in range(int(number))))
"""


def test_no_operator_of_the_installed_engine_is_missing():
    found = importlib.util.find_spec("xllamacpp")
    if found is None:
        pytest.skip("xllamacpp is not installed")
    library = next(Path(found.origin).parent.glob("xllamacpp*.so"))
    symbols = ElfFile(str(library)).symbols()
    tables = {
        "ggml_op_name": "GGML_OP_NAME",
        "ggml_unary_op_name": "GGML_UNARY_OP_NAME",
        "ggml_glu_op_name": "GGML_GLU_OP_NAME",
    }
    numbers = [f"{function}={symbols.get(table).size // 8}" for function, table in tables.items()]
    # in a process of its own: the library is large and starts things
    run = subprocess.run([sys.executable, "-c", _NAMES, library, *numbers], capture_output=True, text=True, check=True)
    ops, unary, glu = (line.split() for line in run.stdout.splitlines())
    assert len(ops) > 90 and "MUL_MAT" in ops and "SILU" in unary and "SWIGLU" in glu
    assert [op for op in ops if op not in FORMULAS] == []
    functions = [f"UNARY({name})" for name in unary] + [f"GLU({name})" for name in glu]
    assert [name for name in functions if formula_of(name).flops(f32(8), [f32(8)]) is None] == []


# LLaMA-2-70B, 2048 tokens, 80 layers, hidden 8192, intermediate 28672, GQA 8, 2 bytes per element (NanoFlow, Table 2)
NANOFLOW = [("KQV", 8192, 8192 + 2 * 1024, 27487.8, 19.5), ("O", 8192, 8192, 21990.2, 16.1),
            ("UG", 8192, 2 * 28672, 153931.6, 96.6), ("D", 28672, 8192, 76965.8, 49.7)]  # fmt: skip


@pytest.mark.parametrize(("name", "k", "m", "gflop", "gigabytes"), NANOFLOW, ids=[row[0] for row in NANOFLOW])
def test_nanoflow_table_2(name, k, m, gflop, gigabytes):
    cost = node_cost("MUL_MAT", f16(m, 2048), [weight("f16", k, m), f16(k, 2048)])
    moved = cost.weight_bytes + cost.read_bytes + cost.write_bytes
    assert round(80 * cost.flops / 1e9, 1) == gflop
    assert round(80 * moved / 1e9, 1) == gigabytes


# ---------------------------------------------------------------------- graphs


class Graph:
    """The columns of graph_node, built node by node."""

    def __init__(self):
        self.rows, self.leaves = [], []

    def leaf(self, name, kind, *ne):
        self.leaves.append(("NONE", name, kind, ne, [], False))
        return -len(self.leaves)  # leaves come after the nodes, whose number is not known yet

    def node(self, op, name, ne, sources, kind="f32", runs=True):
        self.rows.append((op, name, kind, ne, sources, runs))
        return len(self.rows) - 1

    def columns(self):
        n_nodes = len(self.rows)
        rows = self.rows + self.leaves
        shapes = [(*row[3], 1, 1, 1)[:4] for row in rows]
        return {
            "op": [row[0] for row in rows], "name": [row[1] for row in rows], "type": [row[2] for row in rows],
            "ne": shapes, "data_bytes": [size(row[2], ne) for row, ne in zip(rows, shapes, strict=True)],
            "leaf": [at >= n_nodes for at in range(len(rows))], "executes": [row[5] for row in rows],
            "sources": [[n_nodes - at - 1 if at < 0 else at for at in row[4]] for row in rows],
        }  # fmt: skip


def decode(layers, cells=256, tied=True):
    """A llama of 4 heads of 32, 2 cache heads, f16 cache of 1024 cells, q8_0 weights; one token."""
    g = Graph()
    embedding = g.leaf("token_embd.weight", "q8_0", 128, 1000)
    tokens, position, cell = g.leaf("inp_tokens", "i32", 1), g.leaf("inp_pos", "i32", 1), g.leaf("inp_k_idxs", "i64", 1)
    x = g.node("GET_ROWS", "inp_embd", (128, 1), [embedding, tokens])
    for il in range(layers):

        def w(name, *ne, kind="q8_0", il=il):
            return g.leaf(f"blk.{il}.{name}.weight", kind, *ne)

        cache_k, cache_v = g.leaf(f"cache_k_l{il}", "f16", 64, 1024), g.leaf(f"cache_v_l{il}", "f16", 64, 1024)
        norm = g.node(
            "MUL",
            f"attn_norm-{il}",
            (128, 1),
            [g.node("RMS_NORM", f"norm-{il}", (128, 1), [x]), w("attn_norm", 128, kind="f32")],
        )
        q = g.node("MUL_MAT", f"Qcur-{il}", (128, 1), [w("attn_q", 128, 128), norm])
        k = g.node("MUL_MAT", f"Kcur-{il}", (64, 1), [w("attn_k", 128, 64), norm])
        v = g.node("MUL_MAT", f"Vcur-{il}", (64, 1), [w("attn_v", 128, 64), norm])
        q = g.node(
            "ROPE",
            f"Qcur-{il}",
            (32, 4, 1),
            [g.node("RESHAPE", f"Qcur-{il} (reshaped)", (32, 4, 1), [q], runs=False), position],
        )
        g.node("SET_ROWS", f"cache_k_l{il} (view)", (64, 1024), [k, cell, cache_k], kind="f16")
        g.node("SET_ROWS", f"cache_v_l{il} (view)", (64, 1024), [v, cell, cache_v], kind="f16")
        q = g.node("PERMUTE", "q", (32, 1, 4), [q], runs=False)
        k = g.node(
            "PERMUTE",
            "k",
            (32, cells, 2),
            [g.node("VIEW", "k", (32, 2, cells), [cache_k], kind="f16", runs=False)],
            kind="f16",
            runs=False,
        )
        v = g.node(
            "PERMUTE",
            "v",
            (cells, 32, 2),
            [g.node("VIEW", "v", (32, 2, cells), [cache_v], kind="f16", runs=False)],
            kind="f16",
            runs=False,
        )
        kq = g.node(
            "SOFT_MAX", f"kq_soft_max-{il}", (cells, 1, 4), [g.node("MUL_MAT", f"kq-{il}", (cells, 1, 4), [k, q])]
        )
        kqv = g.node("CONT", f"kqv_out-{il}", (128, 1), [g.node("MUL_MAT", f"kqv-{il}", (32, 1, 4), [v, kq])])
        x = g.node(
            "ADD",
            f"l_out-{il}",
            (128, 1),
            [g.node("MUL_MAT", f"attn_out-{il}", (128, 1), [w("attn_output", 128, 128), kqv]), x],
        )
    output = embedding if tied else g.leaf("output.weight", "q8_0", 128, 1000)
    g.node("MUL_MAT", "result_output", (1000, 1), [output, x])
    return g.columns()


LAYER_WEIGHTS = 512 + 17408 + 8704 + 8704 + 17408  # norm 128·4; q, o 128·128/32·34; k, v 128·64/32·34


def test_decode_reads_every_weight_once():
    _, tied = graph_costs(decode(3))
    assert tied.weight_bytes == 3 * LAYER_WEIGHTS + 136000  # 128·1000/32·34: the row looked up is a part of it
    _, untied = graph_costs(decode(3, tied=False))
    assert untied.weight_bytes == 3 * LAYER_WEIGHTS + 136000 + 136  # and the row of the other table


def test_decode_reads_the_cells_in_use_and_writes_one():
    columns = decode(3)
    costs, total = graph_costs(columns)
    assert total.kv_bytes == 3 * 2 * 32768  # 32·2·256·2 of K and of V, not the 1024 cells
    assert total.unknown == 0
    by_name = {columns["name"][at]: cost for at, cost in costs.items()}
    assert by_name["cache_k_l0 (view)"] == Cost(0.0, "", 0, 64 * 4 + 8, 128, "copy", 0)  # one row of 64 f16
    assert (by_name["kq-2"].read_bytes, by_name["kq-2"].cache_bytes) == (32768 + 512, 32768)
    assert sorted(costs) == [at for at, runs in enumerate(columns["executes"]) if runs]
    # per layer: products 2·128·(128 + 64 + 64 + 128) = 98304, attention 2·2·32·256·4 = 131072, softmax 5·1024,
    # rms norm 384, its weight 128, rope 384, add 128; then the output 2·128·1000
    assert total.flops == 3 * (98304 + 131072 + 5120 + 384 + 128 + 384 + 128) + 256000
    assert total.read_bytes == sum(cost.read_bytes for cost in costs.values())
    assert total.write_bytes == sum(cost.write_bytes for cost in costs.values())


def test_a_recurrent_state_is_as_far_away_as_the_weights():
    """One of 4 stored states of 16·8·4 f32 = 2048 bytes; the rest of what the scan reads was computed just now."""
    g = Graph()
    states = g.leaf("cache_s_l0", "f32", 512, 4)
    view = g.node("VIEW", "", (16, 8, 4, 4), [states], runs=False)
    new = [g.leaf(f"inp_{ne}", "f32", *ne) for ne in ((8, 4, 2, 1), (4, 2, 1), (1, 4), (16, 1, 2, 1), (16, 1, 2, 1))]
    scan = g.node("SSM_SCAN", "", (576,), [view, *new, g.leaf("inp_ids", "i32", 1)])
    costs, total = graph_costs(g.columns())
    assert (costs[scan].read_bytes, costs[scan].cache_bytes, total.kv_bytes) == (2612, 2048, 2048)
    ceilings = Ceilings("", tuple(Ceiling(what, "", 1, 1e9, 1e9, 1e9, "") for what in ("dram_read", "llc_read")))
    least = terms(costs[scan], Roof(ceilings, 1, 1 << 20, 1 << 30))
    assert least.dram_ns == pytest.approx(2048.0) and least.bytes == 2612 + 2304
    alone = node_cost("SSM_SCAN", f32(8), [f32(8)] * 6)
    assert alone.cache_bytes is None and from_cache(alone) == 0
    assert from_cache(node_cost("MUL_MAT", f32(8, 1), [f16(8, 8), f32(8, 1)])) == 8 * 8 * 2 + 8 * 4


def test_a_cache_without_a_name_is_what_the_graph_writes_into():
    g = Graph()
    cache, new, q = g.leaf("leaf_7", "f16", 64, 1024), g.leaf("inp_k", "f32", 64, 2), g.leaf("inp_q", "f32", 64, 1)
    rows = g.node("VIEW", "", (64, 2), [cache], kind="f16", runs=False)
    g.node("CPY", "", (64, 2), [new, rows], kind="f16")
    k = g.node("VIEW", "", (64, 256), [cache], kind="f16", runs=False)
    g.node("MUL_MAT", "", (256, 1), [k, q])
    g.node("MUL_MAT", "", (256, 1), [k, q])  # the same cells again
    costs, total = graph_costs(g.columns())
    assert total.kv_bytes == 32768
    assert total.read_bytes == 512 + 2 * (32768 + 256)
    assert costs[1].write_bytes == 256


def test_parts_of_a_weight_are_added_up_to_the_whole():
    g = Graph()
    w, x = g.leaf("blk.0.attn_kv_b.weight", "f16", 64, 100), g.leaf("inp", "f32", 64)
    part = g.node("VIEW", "", (64, 40), [w], kind="f16", runs=False)
    rest = g.node("VIEW", "", (64, 60), [w], kind="f16", runs=False)
    g.node("MUL_MAT", "", (40, 1), [part, x])
    assert graph_costs(g.columns())[1].weight_bytes == 64 * 40 * 2
    g.node("MUL_MAT", "", (60, 1), [rest, x])
    assert graph_costs(g.columns())[1].weight_bytes == 64 * 100 * 2
    g.node("MUL_MAT", "", (40, 1), [part, x])
    assert graph_costs(g.columns())[1].weight_bytes == 64 * 100 * 2


def test_experts_that_the_recording_saw():
    g = Graph()
    w = g.leaf("blk.0.ffn_up_exps.weight", "q8_0", 64, 32, 8)
    x, ids = g.leaf("inp", "f32", 64, 1, 3), g.leaf("inp_ids", "i32", 2, 3)
    node = g.node("MUL_MAT_ID", "ffn_moe_up-0", (32, 2, 3), [w, x, ids])
    assert graph_costs(g.columns())[1].weight_bytes == 10064  # 4.625 of 2176
    assert graph_costs(g.columns(), {node: 3})[1].weight_bytes == 6528


def test_unknown_operators_are_counted():
    g = Graph()
    x = g.leaf("inp", "f32", 8)
    known = g.node("SQR", "", (8,), [x])
    new = g.node("NEXT_YEARS_ATTENTION", "", (8,), [known])
    g.node("MAP_CUSTOM1", "", (8,), [new])
    costs, total = graph_costs(g.columns())
    assert costs[new] is None
    assert total == GraphCost(weight_bytes=0, read_bytes=64, write_bytes=64, flops=8.0, kv_bytes=0, unknown=2)


def test_an_empty_graph():
    assert graph_costs(Graph().columns()) == ({}, GraphCost(0, 0, 0, 0.0, 0, 0))


def test_columns_as_a_query_returns_them():
    columns = decode(2)
    arrays = {
        name: np.array(values) if name in ("ne", "data_bytes", "leaf", "executes") else values
        for name, values in columns.items()
    }
    arrays["sources"] = [np.array(row, np.int32) for row in columns["sources"]]
    assert graph_costs(arrays) == graph_costs(columns)
