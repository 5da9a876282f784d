/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * One ring of fixed 64-byte events per processor, in arrays that user space maps.
 *
 * A writer takes the next index of its processor's ring with one atomic add, fills the event and publishes it by
 * writing `seq` (index + 1) last; the reader stops at the first event whose `seq` does not fit. Cheaper than the
 * kernel's ring buffer under many threads, as there is no lock: uprobe programs may be preempted and migrated, and an
 * atomic index is all that they share. A full ring is counted, never silent.
 *
 * The loader puts this file in front of an engine's programs (bcc rewrites map accesses in its main file only, so it
 * cannot be an #include). RING_SHIFT (log2 of events per ring) and RING_CPUS come from the loader.
 */
#define BPF_F_MMAPABLE 1024
#define inline inline __attribute__((always_inline))
#define RING_EVENTS (1UL << RING_SHIFT)
#define RING_MARGIN 64 /* writers that may sit between the check for room and the atomic add */

enum kind {
	GRAPH_BEGIN = 1, /* a=cgraph b=key (uid, else a fingerprint with bit 63; 0 unknown) c=n_nodes */
	GRAPH_END = 2,
	OP = 3,          /* a=node: the operator starts */
	OP_WORK = 4,     /* a=node b=start: the thread's own work ended at at_ns (it reached the barrier) */
	REQUEST_POST = 5,  /* a=task id */
	REQUEST_RESULT = 6, /* a=task id b=slot */
	REQUEST_DONE = 7,  /* a=task id */
	CALL = 8,        /* a=first argument: a plain call (tests, watch) */
};

struct event {
	u64 seq;
	u64 at_ns;
	u32 pid, tid;
	u16 kind, site;
	u32 ith;
	u64 a, b, c, d;
};

struct ring_head {
	u64 head;  /* next index to write (kernel) */
	u64 tail;  /* next index to read (reader) */
	u64 drops; /* events that found the ring full (kernel) */
	u64 pad[13]; /* two cache lines: no false sharing between processors */
};

BPF_F_TABLE("array", u32, struct ring_head, ring_heads, RING_CPUS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct event, ring_events, (RING_CPUS << RING_SHIFT), BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(site_hits, u64, MAX_SITES);

static inline void count_hit(u32 site)
{
	u64 *hits = site_hits.lookup(&site);
	if (hits)
		*hits += 1;
}

/* Takes a slot; the caller fills it and calls publish(). NULL: full (counted). */
static inline struct event *reserve(u16 kind, u16 site, u64 *index)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct ring_head *h = ring_heads.lookup(&cpu);
	if (!h)
		return NULL;
	if (h->head - h->tail >= RING_EVENTS - RING_MARGIN) {
		__sync_fetch_and_add(&h->drops, 1);
		return NULL;
	}
	*index = __sync_fetch_and_add(&h->head, 1);
	u32 slot = (cpu << RING_SHIFT) | (*index & (RING_EVENTS - 1));
	struct event *e = ring_events.lookup(&slot);
	if (!e)
		return NULL;
	u64 id = bpf_get_current_pid_tgid();
	e->pid = id >> 32;
	e->tid = id;
	e->kind = kind;
	e->site = site;
	return e;
}

static inline void publish(struct event *e, u64 index)
{
#if defined(__x86_64__)
	asm volatile("" ::: "memory"); /* stores are not reordered on x86 */
	*(volatile u64 *)&e->seq = index + 1;
#else
	__sync_lock_test_and_set(&e->seq, index + 1); /* a full barrier on AArch64 */
#endif
}
