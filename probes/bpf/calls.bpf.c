/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * Calls of functions, paired per thread: one event when a call returns, with its depth and the call around it. Compiled
 * behind event.bpf.c; the engines' programs (torch.bpf.c, cuda.bpf.c) use enter_call and close_call.
 *
 * A frame is known by its stack pointer, for exceptions and longjmp leave functions without passing an exit. Stacks grow
 * downwards: a frame whose stack pointer is not above the current one is gone. It is reported without an end.
 */
#define CALL_DEPTH 32 /* a power of two */

struct frame {
	u64 sp, start, id, key;
	u32 site, pad;
};

struct calls { /* of a thread */
	u32 depth;  /* frames that are open */
	u32 beyond; /* open frames that found no room */
	u32 epoch;
	u32 count;  /* calls so far: with the thread's number, a number of its own for each */
	struct frame frames[CALL_DEPTH];
};
BPF_F_TABLE("hash", u32, struct calls, calling_threads, 4096, 0);
BPF_ARRAY(no_calls, struct calls, 1); /* zeros: too large for the stack */
BPF_F_TABLE("array", u32, u32, call_epoch, 1, 0);     /* probes were attached anew: what was open then says nothing now */
BPF_F_TABLE("array", u32, u64, calls_not_kept, 1, 0); /* calls not seen: too deep, or too many threads */

/* The compiler knows from the code around it that the index fits and would leave out the mask that the verifier needs. */
static inline struct frame *frame_at(struct calls *c, u64 index)
{
	asm volatile("" : "+r"(index));
	return &c->frames[index & (CALL_DEPTH - 1)];
}

static inline void call_not_kept(void)
{
	u32 zero = 0;
	u64 *count = calls_not_kept.lookup(&zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

static inline void report_call(struct calls *c, struct frame *f, u16 kind, u64 now)
{
	u64 index;
	u32 depth = c->depth; /* f's own is not in it any more */
	struct event *e = reserve(kind, f->site, &index);
	if (!e)
		return;
	e->ith = depth;
	e->a = f->start;
	e->b = f->id;
	e->c = depth ? frame_at(c, depth - 1)->id : 0;
	e->d = f->key;
	e->at_ns = now;
	publish(e, index);
}

/* Frames that are gone: those that an exception left. */
static inline void drop_left_frames(struct calls *c, u64 sp, u64 now)
{
	for (int i = 0; i < CALL_DEPTH; i++) {
		u32 depth = c->depth;
		if (!depth || depth > CALL_DEPTH)
			return;
		struct frame *top = frame_at(c, depth - 1);
		if (top->sp > sp)
			return;
		c->depth = depth - 1;
		c->beyond = 0;
		report_call(c, top, CALL_LEFT, now);
	}
}

static inline struct calls *calls_of_thread(void)
{
	u32 tid = bpf_get_current_pid_tgid(), zero = 0;
	struct calls *c = calling_threads.lookup(&tid);
	if (!c) {
		struct calls *none = no_calls.lookup(&zero);
		if (!none)
			return NULL;
		calling_threads.update(&tid, none);
		c = calling_threads.lookup(&tid);
		if (!c)
			return NULL;
	}
	u32 *epoch = call_epoch.lookup(&zero);
	if (epoch && c->epoch != *epoch) {
		c->epoch = *epoch;
		c->depth = c->beyond = 0;
	}
	return c;
}

/* A function begins. Its frame, or NULL: no room for it (counted). */
static inline struct frame *enter_call(struct pt_regs *ctx, u64 key)
{
	u64 now = bpf_ktime_get_ns(), sp = PT_REGS_SP(ctx);
	u16 site = bpf_get_attach_cookie(ctx);
	count_hit(site);
	struct calls *c = calls_of_thread();
	if (!c) {
		call_not_kept();
		return NULL;
	}
	drop_left_frames(c, sp, now);
	u32 depth = c->depth;
	if (depth >= CALL_DEPTH) {
		c->beyond++;
		call_not_kept();
		return NULL;
	}
	struct frame *f = frame_at(c, depth);
	f->sp = sp;
	f->start = now;
	f->id = bpf_get_current_pid_tgid() << 32 | c->count++;
	f->key = key;
	f->site = site;
	c->depth = depth + 1;
	return f;
}

/* The function returns; the cookie's upper part is the number of the site at which it was entered. Its frame, which is
 * still to be reported, or NULL: it was not seen to begin. */
static inline struct frame *close_call(struct pt_regs *ctx, struct calls **of, u64 now)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	u16 site = cookie, entry = cookie >> 16;
	count_hit(site);
	struct calls *c = calls_of_thread();
	if (!c)
		return NULL;
	/* An exit lies within its function: the frame's own stack pointer is above. A return probe comes right behind it. */
	drop_left_frames(c, PT_REGS_SP(ctx) - 16, now);
	u32 depth = c->depth;
	if (!depth || depth > CALL_DEPTH)
		return NULL;
	struct frame *top = frame_at(c, depth - 1);
	if (top->site != entry)
		return NULL; /* it was entered before its probe was there */
	if (c->beyond) {
		c->beyond--;
		return NULL;
	}
	c->depth = depth - 1;
	*of = c;
	return top;
}

int call_end(struct pt_regs *ctx)
{
	struct calls *c = NULL;
	u64 now = bpf_ktime_get_ns();
	struct frame *f = close_call(ctx, &c, now);
	if (f && c)
		report_call(c, f, CALL_RETURN, now);
	return 0;
}
