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
 *
 * What an engine needs is compiled when it is found: the modules of one recording have the maps in common that both
 * declare.
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
	OFF_CPU = 9,     /* a thread runs again: a=state it left in | key of the stack << 32 b=since c=woken (0: preempted) d=runner << 32 | waker ith=cpu */
	MAJOR_FAULT = 10, /* a=address */
	EXPERTS = 11,    /* a…d=up to 8 experts that one token uses (i32; -1: none) at_ns=the operator's start; ith, see expert_ids */
	CALL_RETURN = 13, /* a function returned: a=start b=number of the call c=number of the call around it (0: none)
	                     d=key of its arguments (0: not read) ith=calls around it */
	CALL_LEFT = 14,  /* the same; it was left by an exception, at_ns=when that was noticed */
	CALL_ABOUT = 15, /* what a call of CUDA or NCCL is about: a…d, see cuda.bpf.c; ith=lower half of the call's number */
	RESOURCE = 16,   /* a=instance b=unit c=units, packed | key of the stack << 32 d=task ith=tap | which were read << 16
	                    | 1 << 31: given up */
	RESOURCE_HOLDER = 17,    /* behind a RESOURCE at the same time: a=thread that has it ith=tap */
	RESOURCE_VARIABLES = 18, /* likewise: a…d=variables ith=tap | which were read << 16 */
	SLOT_START = 19, /* a=task id b=slot: the task leaves the queue */
	SLOT_TOKEN = 20, /* a=slot: a token was chosen for it */
	SLOT_RELEASE = 21, /* a=slot */
	BATCH_PART = 22, /* neighbouring tokens of one sequence in the batch of the thread's next graph: a=sequence
	                    b=tokens c=position of the first d=1: logits of the last one are computed
	                    ith=lower half of the context's address; at_ns is the batch's */
	CELLS_FREED = 23, /* KV cells are given back: a=sequence | lower half of the memory's address << 32
	                     b=from this position | to this one << 32, all i32 */
	NO_CELLS = 24,   /* a batch found no room in the KV cache: a=lower half of the context's address */
	CALL_NAME = 25,  /* behind a CALL_ABOUT: the next 32 bytes of a name a…d, see cuda.bpf.c; ith as there */
	COUNTS = 12,     /* a…d=8 counters of an operator (u32), see counters.bpf.c; at_ns=the operator's start ith=thread */
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
/* Mapped, too: while a system call reads a map, the kernel passes over the tracepoint programs of that processor. */
BPF_F_TABLE("array", u32, u64, site_hits, (RING_CPUS * MAX_SITES), BPF_F_MMAPABLE);

static inline void count_hit(u32 site)
{
	u32 slot = bpf_get_smp_processor_id() * MAX_SITES + site;
	u64 *hits = site < MAX_SITES ? site_hits.lookup(&slot) : NULL;
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

/* bpf_probe_read_user by another name: for that one bcc looks through all symbols of the kernel, which takes longer than
 * to compile. Every kernel that flowprof knows has it. */
static long (*read_user)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_user;

static long (*read_user_text)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_user_str;

static inline u64 word_at(u64 address)
{
	u64 word = 0;
	read_user(&word, sizeof(word), (void *)address);
	return word;
}
