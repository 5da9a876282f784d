/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/* Stub: bcc includes this file by name; the programs need no kernel configuration beyond BPF itself. */
#pragma once
#define CONFIG_BPF_SYSCALL 1
