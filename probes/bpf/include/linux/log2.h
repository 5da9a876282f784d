/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/* Stub: bcc's stack maps round their size up with this. */
#pragma once
static inline unsigned long roundup_pow_of_two(unsigned long n)
{
	unsigned long p = 1;
	while (p < n)
		p <<= 1;
	return p;
}
