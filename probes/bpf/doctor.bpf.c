/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/* What `flowprof doctor` tries out: a program that does nothing (the cost of a hit) and one that writes one event. */

int nothing(struct pt_regs *ctx)
{
	return 0;
}

int ring_event(struct pt_regs *ctx)
{
	u64 index;
	u16 site = bpf_get_attach_cookie(ctx);
	count_hit(site);
	struct event *e = reserve(CALL, site, &index);
	if (!e)
		return 0;
	e->a = 0;
	e->at_ns = bpf_ktime_get_ns();
	publish(e, index);
	return 0;
}
