/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * The scheduler, as far as it concerns the targets' threads: why a thread did not run, for how long, and because of whom.
 * Compiled behind event.bpf.c and stacks.bpf.c. A thread that goes is remembered; one event is written when it comes back.
 *
 * The structs are the kernel's tracepoint records as user space reads them (profiler/kernel_side/tracepoints.py compares
 * them with the running kernel's own description before anything is attached).
 */
struct switch_record {
	u64 common;
	char prev_comm[16];
	s32 prev_pid, prev_prio;
	s64 prev_state;
	char next_comm[16];
	s32 next_pid, next_prio;
};

struct waking_record {
	u64 common;
	char comm[16];
	s32 pid, prio, target_cpu;
};

#if defined(__x86_64__)
#define USER_REGS 168
#else
#define USER_REGS 272
#endif
struct fault_record { /* struct bpf_perf_event_data */
	u8 regs[USER_REGS];
	u64 sample_period, addr;
};

struct away {      /* a thread of a target that does not run */
	u64 out, woken;
	u32 state;
	u32 tgid;
	u32 cpu;
	u32 waker;
	u32 stack; /* its key; 0: it did not wait by itself */
	u32 pad;
};

struct name {
	u64 text[2]; /* 16 bytes */
};

/* A thread leaves that never came back, as far as we saw: some hosts hide the switches of a thread of their own. */
BPF_ARRAY(unseen_returns, u64, 1);

#define DYING 0xb0 /* EXIT_DEAD, EXIT_ZOMBIE, TASK_DEAD: it will not come back */

BPF_HASH(traced, u32, u8, 1024);           /* process ids */
BPF_HASH(away_threads, u32, struct away, 16384);
BPF_TABLE("lru_hash", u32, struct name, thread_names, 4096); /* of those to blame: they may be gone when we look */

/* Interrupts that each processor is handling right now, one in the other. The kernel passes over a program now and then,
 * so the count may be off; no interrupt lasts over a switch of threads: there it begins at 0 again. */
BPF_ARRAY(interrupts, u32, RING_CPUS);

static inline u32 *interrupt_depth(void)
{
	u32 cpu = bpf_get_smp_processor_id();
	return interrupts.lookup(&cpu);
}

int interrupt_begin(void *ctx)
{
	u32 *depth = interrupt_depth();
	if (depth)
		*depth += 1;
	return 0;
}

int interrupt_end(void *ctx)
{
	u32 *depth = interrupt_depth();
	if (depth && *depth)
		*depth -= 1;
	return 0;
}

/* Who ran longest on a processor since a thread of a target left it, or lately: whoever came first may have been there
 * for microseconds only. */
struct runner {
	u64 since; /* of the thread that runs now */
	u64 longest, ended;
	u32 running, tid;
};
BPF_ARRAY(runners, struct runner, RING_CPUS);
#define LATELY 20000000 /* ns */

/* Compared each time: programs rename themselves, and numbers are used again. To look is cheaper than to update. */
static inline void note_name(u32 tid, struct name *name)
{
	struct name *known = thread_names.lookup(&tid);
	if (tid && !(known && known->text[0] == name->text[0] && known->text[1] == name->text[1]))
		thread_names.update(&tid, name);
}

static inline void note_comm(u32 tid, const char *comm)
{
	struct name name = {};
	bpf_probe_read_kernel(&name, sizeof(name), comm);
	note_name(tid, &name);
}

static inline void note_unseen_return(void)
{
	u32 zero = 0;
	u64 *count = unseen_returns.lookup(&zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

int sched_switch(struct switch_record *ctx)
{
	u64 now = bpf_ktime_get_ns(), id = bpf_get_current_pid_tgid(), index;
	u32 tgid = id >> 32, prev = ctx->prev_pid, next = ctx->next_pid, cpu = bpf_get_smp_processor_id();
	u32 *depth = interrupt_depth();
	struct runner *here = runners.lookup(&cpu);
	if (!here)
		return 0;
	if (depth)
		*depth = 0;
	if (now - here->since > here->longest || now - here->ended > LATELY) {
		here->longest = now - here->since;
		here->ended = now;
		here->tid = prev;
		note_comm(prev, ctx->prev_comm);
	}
	here->since = now;
	here->running = next;

	struct away *back = away_threads.lookup(&next);
	int goes = traced.lookup(&tgid) && !(ctx->prev_state & DYING);
	u16 site = bpf_get_attach_cookie(ctx);
	if (back || goes)
		count_hit(site);
	if (back) {
		counters_return(next);
		struct event *e = reserve(OFF_CPU, site, &index);
		if (e) {
			u32 left = back->cpu, runner = here->ended > back->woken ? here->tid : prev;
			struct runner *there = runners.lookup(&left);
			if (!back->woken && there) {
				runner = there->tid;
				if (there != here && now - there->since > there->longest)
					runner = there->running;
			}
			e->pid = back->tgid;
			e->tid = next;
			e->ith = cpu;
			e->a = back->state | (u64)back->stack << 32;
			e->b = back->out;
			e->c = back->woken;
			e->d = (u64)runner << 32 | back->waker; /* runner: on whose account it waited for a processor */
			e->at_ns = now;
			publish(e, index);
		}
		away_threads.delete(&next);
	}
	if (goes) {
		struct away gone = {};
		gone.out = now;
		gone.state = ctx->prev_state;
		gone.tgid = tgid;
		gone.cpu = cpu;
		here->longest = 0;
		here->ended = now;
		here->tid = next;
		if (gone.state & 0xff)
			gone.stack = stack_at_kernel(site);
		else
			note_comm(next, ctx->next_comm);
		if (away_threads.lookup(&prev))
			note_unseen_return();
		away_threads.update(&prev, &gone);
		counters_leave(prev);
	}
	return 0;
}

int sched_waking(struct waking_record *ctx)
{
	u32 tid = ctx->pid, waker = bpf_get_current_pid_tgid(), *depth = interrupt_depth();
	struct away *sleeper = away_threads.lookup(&tid);
	if (!sleeper || sleeper->woken || !(sleeper->state & 0xff)) /* preempted on its way to sleep: it never slept */
		return 0;
	struct name name = {};
	count_hit(bpf_get_attach_cookie(ctx));
	if (depth && *depth)
		waker = 0; /* whoever is interrupted by chance did not wake anybody */
	sleeper->woken = bpf_ktime_get_ns();
	sleeper->waker = waker;
	if (waker) {
		bpf_get_current_comm(&name, sizeof(name));
		note_name(waker, &name);
	}
	return 0;
}

/* A software event of period one: a page that was not in memory has been read. */
int major_fault(struct fault_record *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), index;
	u32 tgid = id >> 32;
	if (!traced.lookup(&tgid))
		return 0;
	u16 site = bpf_get_attach_cookie(ctx);
	count_hit(site);
	struct event *e = reserve(MAJOR_FAULT, site, &index);
	if (!e)
		return 0;
	e->a = ctx->addr;
	e->ith = 0;
	e->at_ns = bpf_ktime_get_ns();
	publish(e, index);
	return 0;
}
