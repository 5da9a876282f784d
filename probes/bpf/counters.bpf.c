/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * Counters per operator and thread: perf events of every processor, read when an operator starts and when its work is
 * done. A processor's counters count for whoever runs there, so what is counted while the thread is away is taken off
 * when it comes back (sched.bpf.c calls): the difference is the thread's own, wherever it went meanwhile.
 *
 * Compiled behind event.bpf.c in front of the engines' programs. COUNTERS is the number of kinds of perf events, the
 * first of those in profiler/record/count_rows.py; where it is 0 nothing of this is left.
 */
#if COUNTERS
#define MAX_KINDS 6 /* an event holds so many, and two of the program's own */

BPF_PERF_ARRAY(counter_events, (COUNTERS * RING_CPUS)); /* kind × processors + processor */
BPF_ARRAY(counters_spoiled, u64, 1); /* operators left out: the kernel passed over a switch, or a figure beyond 32 bits */

struct readings {
	u64 value[COUNTERS];
	u64 before, after; /* ns: reading takes a while, and is not the operator's */
	u32 seen; /* bit: this kind could be read */
	u32 cpu;
};

struct counted { /* a thread's operator that is being counted */
	u64 start; /* as the operator's own event says: its key */
	struct readings since, out; /* since: start or last report, less what was others'; out: when it left the processor */
	u32 ith, switches;
	u8 open, away, to_the_next; /* to_the_next: it ends where the next operator starts (op level) */
};
BPF_HASH(counted_threads, u32, struct counted, 16384);

static inline void read_counters(struct readings *into)
{
	u32 kind, seen = 0, cpu = bpf_get_smp_processor_id();
	into->before = bpf_ktime_get_ns();
#pragma unroll
	for (kind = 0; kind < COUNTERS; kind++) {
		struct bpf_perf_event_value value = {};
		if (!counter_events.perf_counter_value(kind * RING_CPUS + cpu, &value, sizeof(value)))
			seen |= 1 << kind;
		into->value[kind] = value.counter;
	}
	into->seen = seen;
	into->cpu = cpu;
	into->after = bpf_ktime_get_ns();
}

/* One event: ns on a processor, switches, the kinds; 32 bits each. Several of one operator add up. */
static inline void report_counters(struct counted *c, struct readings *now, u16 site)
{
	u32 figures[2 + MAX_KINDS] = {}, kind, zero = 0;
	u64 index, clock = now->before - c->since.after, high = clock >> 32;
	figures[0] = clock;
	figures[1] = c->switches;
#pragma unroll
	for (kind = 0; kind < COUNTERS; kind++) {
		u64 more = now->value[kind] - c->since.value[kind];
		high |= more >> 32;
		figures[2 + kind] = more;
	}
	if (high || c->away || now->cpu != c->since.cpu || now->seen != c->since.seen) {
		u64 *spoiled = counters_spoiled.lookup(&zero);
		if (spoiled)
			__sync_fetch_and_add(spoiled, 1);
		return;
	}
	struct event *e = reserve(COUNTS, site, &index);
	if (!e)
		return;
	e->ith = c->ith;
	e->at_ns = c->start;
	__builtin_memcpy(&e->a, figures, sizeof(figures));
	publish(e, index);
}

static inline void counters_begin(u32 tid, u64 start, u32 ith, u16 site, u8 to_the_next)
{
	struct readings now;
	struct counted *c = counted_threads.lookup(&tid);
	if (!c) {
		struct counted fresh = {};
		counted_threads.update(&tid, &fresh);
		c = counted_threads.lookup(&tid);
		if (!c)
			return;
	}
	read_counters(&now);
	if (c->open && c->to_the_next)
		report_counters(c, &now, site);
	c->start = start;
	c->ith = ith;
	c->switches = c->away = 0;
	c->to_the_next = to_the_next;
	c->since = now;
	c->open = 1;
}

static inline void counters_work(u32 tid, u16 site)
{
	struct readings now;
	struct counted *c = counted_threads.lookup(&tid);
	if (!c || !c->open)
		return;
	read_counters(&now);
	report_counters(c, &now, site);
	c->switches = c->away = 0;
	c->since = now; /* a later barrier of this operator reports what came on top */
}

static inline void counters_end(u32 tid, u16 site)
{
	struct counted *c = counted_threads.lookup(&tid);
	if (!c)
		return;
	if (c->open && c->to_the_next)
		counters_work(tid, site);
	c->open = 0;
}

static inline void counters_leave(u32 tid)
{
	struct counted *c = counted_threads.lookup(&tid);
	if (!c || !c->open)
		return;
	read_counters(&c->out);
	c->away = 1;
}

static inline void counters_return(u32 tid)
{
	struct readings now;
	u32 kind;
	struct counted *c = counted_threads.lookup(&tid);
	if (!c || !c->open || !c->away)
		return;
	read_counters(&now);
#pragma unroll
	for (kind = 0; kind < COUNTERS; kind++)
		c->since.value[kind] += now.value[kind] - c->out.value[kind];
	c->since.after += now.after - c->out.before;
	c->since.cpu = now.cpu;
	c->switches += 1;
	c->away = 0;
}
#else
static inline void counters_begin(u32 tid, u64 start, u32 ith, u16 site, u8 to_the_next) {}
static inline void counters_work(u32 tid, u16 site) {}
static inline void counters_end(u32 tid, u16 site) {}
static inline void counters_leave(u32 tid) {}
static inline void counters_return(u32 tid) {}
#endif
