/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/* Stub: bcc picks helper signatures by kernel version; ours are those of 5.8 (ring buffer) and later. */
#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
