/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/* Stub: the user-visible register frame, whose layout is ABI (arch uapi/asm/ptrace.h). */
#pragma once
#define PAGE_SIZE 4096
#if defined(__x86_64__) || defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#else
struct pt_regs {
	unsigned long regs[31];
	unsigned long sp, pc, pstate;
};
struct user_pt_regs {
	unsigned long regs[31];
	unsigned long sp, pc, pstate;
};
#endif
