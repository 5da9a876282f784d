/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * Resources of the application: somebody waits for, gets, uses or gives back one. Compiled behind event.bpf.c and stacks.bpf.c.
 *
 * What happens at a site, and how its values are read, the loader says in taps (profiler/resources/taps.py); a site's
 * cookie names its first one: site | site of the entry << 16 | tap + 1 << 32 | SAVES | SHARED | TAKES_STACK. Arguments are gone when a function
 * returns: where a tap at the return reads them, or takes a stack, the entry keeps them in a frame, which is known by its
 * stack pointer, for exceptions and longjmp leave functions without passing an exit. A return instruction that other
 * functions pass, too (SHARED), is the function's where the stack pointer is exactly as it was at the entry.
 */
#define WAY_STEPS 6
enum tap_way { SELECTION, CONDITION, INSTANCE, UNIT, UNITS, TASK, HOLDER, VARIABLES }; /* up to four of the last */
#define TAP_WAYS (VARIABLES + 4)
#define MAX_TAPS 1024
#define RESOURCE_DEPTH 16 /* a power of two */
#define SAVES (1UL << 48)
#define SHARED (1UL << 49)
#define TAKES_STACK (1UL << 50)
#define GAVE_UP (1U << 31)
#define ABSENT 255 /* the base of a way that is none */

struct way_step {
	s32 offset;
	u32 mask; /* of the bits to keep in the end; 0: all */
	u8 size;  /* to load; 0: only add */
	u8 is_signed;
	u8 pad[2];
};

struct way {
	u64 value;
	u8 base; /* 0: value; 1 … 6: an argument; 7: what is returned; 8: the thread */
	u8 count;
	u8 pad[6];
	struct way_step steps[WAY_STEPS];
};

struct tap {
	u16 next;       /* one more at the same site: its number + 1; 0: none */
	u8 takes_stack;
	u8 comparison[2]; /* of SELECTION and CONDITION: 0: always; 1 ==, 2 !=, 3 <=, 4 >=, 5 <, 6 > */
	u8 variables;
	u8 only_variables; /* no event of a resource */
	u8 gives_up;       /* when CONDITION fails, what was waited for is not there: that is told */
	u32 pid;        /* of system calls, which are seen of all processes: whose count; 0: of others there are none */
	u32 pad;
	s64 number[2];  /* to compare with */
	struct way ways[TAP_WAYS];
};
BPF_ARRAY(taps, struct tap, MAX_TAPS);
BPF_ARRAY(resource_faults, u64, 1); /* values that could not be read */

struct resource_frame {
	u64 sp, caller, args[6];
	u32 site, pad;
};

struct resource_frames { /* of a thread */
	u32 depth, pad;
	struct resource_frame frames[RESOURCE_DEPTH];
};
#define MANY_THREADS 2048 /* from so many on the oldest of 4096 may be forgotten: not all places are for all processors */
BPF_TABLE("lru_hash", u32, struct resource_frames, resource_threads, 4096); /* threads come and go */
BPF_ARRAY(no_resource_frames, struct resource_frames, 1); /* zeros: too large for the stack */
BPF_ARRAY(resource_not_kept, u64, 1);                     /* entries for which there was no room */
BPF_ARRAY(resource_threads_seen, u64, 2);                 /* threads that were new to functions, to system calls */

struct values {
	u64 words[8]; /* six arguments; what is returned */
	u64 sp, caller;
};

static inline void count_one(u64 *count)
{
	if (count)
		__sync_fetch_and_add(count, 1);
}

/* The same value, of which the verifier knows nothing any more: older ones (6.1) follow every way through a loop once for
 * each combination of values that they know. unknown: any value that it does not know. */
static inline u64 untracked(u64 value, u64 unknown)
{
	value ^= unknown;
	asm volatile("" : "+r"(value));
	return value ^ unknown;
}

/* Whether it could be read; a way that is none is 0 and was read. Loops are kept: unrolled, they take seconds to compile. */
static inline int walk(struct way *w, struct values *v, u64 *into)
{
	u64 value = w->value;
	u32 base = w->base;
	*into = 0;
	if (base == ABSENT)
		return 1;
	if (base >= 1 && base <= 7)
		value += v->words[(base - 1) & 7];
	else if (base == 8)
		value += (u32)bpf_get_current_pid_tgid();
#pragma clang loop unroll(disable)
	for (int i = 0; i < WAY_STEPS; i++) {
		if (i >= w->count)
			break;
		u32 size = w->steps[i].size;
		value += (s64)w->steps[i].offset;
		if (size) {
			u64 word = 0;
			if (read_user(&word, ((size - 1) & 7) + 1, (void *)value)) {
				u32 zero = 0;
				count_one(resource_faults.lookup(&zero));
				return 0;
			}
			u32 up = (64 - 8 * size) & 63;
			value = w->steps[i].is_signed ? (u64)((s64)(word << up) >> up) : word;
		}
		if (w->steps[i].mask)
			value &= w->steps[i].mask;
	}
	*into = value;
	return 1;
}

static inline int compares(u32 comparison, s64 value, s64 number)
{
	switch (comparison) {
	case 1: return value == number;
	case 2: return value != number;
	case 3: return value <= number;
	case 4: return value >= number;
	case 5: return value < number;
	default: return value > number;
	}
}

/* The key of the stack at a site. What tells stacks apart cheaply: the site, the caller, its caller where frame pointers
 * are kept, how deep it is (within a page: stacks of threads begin alike), and the return addresses on its top. */
static inline u32 stack_key(struct pt_regs *ctx, u32 site, struct values *v, int in_kernel)
{
#if defined(__x86_64__)
	if (in_kernel)
		return stack_at_kernel(site);
	/* Without frame pointers rbp may point to any variable, and each of its values would be another stack. */
	u64 frame[2] = {}, outer = 0, fp = ctx->bp;
	if (fp > v->sp && fp - v->sp < 1 << 16 && !read_user(frame, sizeof(frame), (void *)fp) && frame[0] > fp &&
	    frame[0] - fp < 1 << 16)
		outer = frame[1];
	u64 start = (v->caller * 0x9E3779B97F4A7C15UL) ^ (outer * 0xD6E8FEB86659FD93UL) ^ (v->sp & 0xff0) << 32 ^ site;
	struct stack_registers regs = {ctx->ip, ctx->sp, ctx->bp, ctx->bx, ctx->r12, ctx->r13, ctx->r14, ctx->r15};
	u64 hash = hash_of_callers(v->sp, start);
	return hash ? kept_stack(&regs, hash) : 0;
#else
	return 0;
#endif
}

/* In 32 bits: exact below 2^31, else in steps of 4096; what is negative is none. */
static inline u64 packed_units(s64 units)
{
	if (units < 0)
		return 0;
	if (units < 1L << 31)
		return units;
	return units < 1L << 43 ? units >> 12 | 1UL << 31 : 0xffffffff;
}

/* An event, and behind it at the same time what does not fit into it. */
static inline void report_event(u16 kind, u32 site, u32 ith, u64 now, u64 a, u64 b, u64 c, u64 d)
{
	u64 index;
	struct event *e = reserve(kind, site, &index);
	if (!e)
		return;
	e->ith = ith;
	e->a = a;
	e->b = b;
	e->c = c;
	e->d = d;
	e->at_ns = now;
	publish(e, index);
}

/* in_kernel: of a system call, whose program has no registers in its ctx. */
static inline void report_tap(struct pt_regs *ctx, u32 number, u32 site, u64 now, struct values *v, struct tap *t,
			      int in_kernel)
{
	u64 words[TAP_WAYS] = {}, read = 0;
	u32 ways = t->variables ? TAP_WAYS : VARIABLES, gave_up = 0;
	if (t->pid && t->pid != bpf_get_current_pid_tgid() >> 32)
		return;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < TAP_WAYS; i++) {
		u64 word;
		if (i >= ways)
			break;
		if (gave_up && i != INSTANCE && i != TASK)
			continue;
		u64 is_read = walk(&t->ways[i], v, &word);
		if (i <= CONDITION && t->comparison[i & 1] &&
		    (!is_read || !compares(t->comparison[i & 1], word, t->number[i & 1]))) {
			if (i == SELECTION || !is_read || !t->gives_up)
				return;
			gave_up = GAVE_UP;
		}
		read = untracked(read | is_read << i, now);
		words[i] = untracked(word, now);
	}
	u32 key = t->takes_stack && !gave_up ? stack_key(ctx, site, v, in_kernel) : 0;
	u64 units = packed_units(words[UNITS]) | (u64)key << 32;
	if (!t->only_variables)
		report_event(RESOURCE, site, number | read << 16 | gave_up, now, words[INSTANCE], words[UNIT], units, words[TASK]);
	if (gave_up)
		return;
	if (t->ways[HOLDER].base != ABSENT)
		report_event(RESOURCE_HOLDER, site, number | read << 16, now, words[HOLDER], 0, 0, 0);
	if (t->variables)
		report_event(RESOURCE_VARIABLES, site, number | read << 16, now, words[VARIABLES], words[VARIABLES + 1],
			     words[VARIABLES + 2], words[VARIABLES + 3]);
}

/* What a thread has yet to report of a site with several taps: each is a program's work, for the verifier follows every
 * way through it. */
struct taps_left {
	u64 now, next;
	struct values v;
};
BPF_TABLE("lru_hash", u32, struct taps_left, taps_left, 4096);
BPF_PROG_ARRAY(tap_programs, 1);
BPF_PROG_ARRAY(syscall_tap_programs, 1);

/* The number of the next tap at the same site, 0: that was the last. */
static inline u32 report_next(struct pt_regs *ctx, u64 next, u64 cookie, u64 now, struct values *v, int in_kernel)
{
	u32 number = next - 1;
	struct tap *t = next ? taps.lookup(&number) : NULL;
	if (!t)
		return 0;
	report_tap(ctx, number, cookie & 0xffff, now, v, t, in_kernel);
	return t->next;
}

/* Whether there are more taps to report. */
static inline int report_first(struct pt_regs *ctx, u64 cookie, u64 now, struct values *v, int in_kernel)
{
	u32 next = report_next(ctx, cookie >> 32 & 0xffff, cookie, now, v, in_kernel), tid = bpf_get_current_pid_tgid();
	if (!next)
		return 0;
	struct taps_left left = {now, next, *v};
	taps_left.update(&tid, &left);
	return 1;
}

static inline int report_more(struct pt_regs *ctx, u64 cookie, int in_kernel)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct taps_left *left = taps_left.lookup(&tid);
	if (!left)
		return 0;
	struct values v = left->v;
	left->next = report_next(ctx, left->next, cookie, left->now, &v, in_kernel);
	return left->next != 0;
}

int resource_more(struct pt_regs *ctx)
{
	if (report_more(ctx, bpf_get_attach_cookie(ctx), 0))
		tap_programs.call(ctx, 0);
	return 0;
}

/* An exit without an entry: it was entered before its probe was there, or its thread was forgotten meanwhile. */
static inline void count_forgotten(u32 of)
{
	u32 zero = 0;
	u64 *seen = resource_threads_seen.lookup(&of);
	if (seen && *seen >= MANY_THREADS)
		count_one(resource_not_kept.lookup(&zero));
}

static inline struct resource_frames *frames_of_thread(void)
{
	u32 tid = bpf_get_current_pid_tgid(), zero = 0;
	struct resource_frames *f = resource_threads.lookup(&tid);
	if (!f) {
		struct resource_frames *none = no_resource_frames.lookup(&zero);
		if (!none)
			return NULL;
		count_one(resource_threads_seen.lookup(&zero));
		resource_threads.update(&tid, none);
		f = resource_threads.lookup(&tid);
	}
	return f;
}

static inline struct resource_frame *resource_frame_at(struct resource_frames *f, u64 index)
{
	asm volatile("" : "+r"(index)); /* see frame_at in calls.bpf.c */
	return &f->frames[index & (RESOURCE_DEPTH - 1)];
}

/* Frames that are gone. */
static inline void forget_frames(struct resource_frames *f, u64 sp)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < RESOURCE_DEPTH; i++) {
		u32 depth = f->depth;
		if (!depth || depth > RESOURCE_DEPTH || resource_frame_at(f, depth - 1)->sp > sp)
			return;
		f->depth = depth - 1;
	}
}

int resource_enter(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), cookie = bpf_get_attach_cookie(ctx);
	count_hit(cookie & 0xffff);
	struct values v = {
		{PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx), PT_REGS_PARM5(ctx),
		 PT_REGS_PARM6(ctx)},
		PT_REGS_SP(ctx),
	};
	if (cookie & (SAVES | TAKES_STACK)) /* a fifth of the program's time, where it is not needed */
		read_user(&v.caller, 8, (void *)v.sp);
	if (cookie & SAVES) {
		struct resource_frames *f = frames_of_thread();
		u32 zero = 0;
		if (f) {
			forget_frames(f, v.sp);
			u32 depth = f->depth;
			if (depth < RESOURCE_DEPTH) {
				struct resource_frame *top = resource_frame_at(f, depth);
				top->sp = v.sp;
				top->caller = v.caller;
				__builtin_memcpy(top->args, v.words, sizeof(top->args));
				top->site = cookie & 0xffff;
				f->depth = depth + 1;
			} else {
				count_one(resource_not_kept.lookup(&zero));
			}
		} else {
			count_one(resource_not_kept.lookup(&zero));
		}
	}
	if (report_first(ctx, cookie, now, &v, 0))
		tap_programs.call(ctx, 0);
	return 0;
}

int resource_leave(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), cookie = bpf_get_attach_cookie(ctx);
	u32 entry = cookie >> 16 & 0xffff;
	struct values v = {{}, PT_REGS_SP(ctx)};
	v.words[6] = PT_REGS_RC(ctx);
	count_hit(cookie & 0xffff);
	if (entry) {
		struct resource_frames *f = frames_of_thread();
		if (!f)
			return 0;
		/* An exit lies within its function: the frame's own stack pointer is above. A return probe comes right behind. */
		forget_frames(f, v.sp - 16);
		u32 depth = f->depth;
		struct resource_frame *top = depth && depth <= RESOURCE_DEPTH ? resource_frame_at(f, depth - 1) : NULL;
		if (!top || top->site != entry || (cookie & SHARED && top->sp != v.sp)) {
			if (!(cookie & SHARED)) /* it may have been entered from another function */
				count_forgotten(0);
			return 0;
		}
		f->depth = depth - 1;
		__builtin_memcpy(v.words, top->args, sizeof(top->args));
		v.caller = top->caller;
	}
	if (report_first(ctx, cookie, now, &v, 0))
		tap_programs.call(ctx, 0);
	return 0;
}

/* System calls: they do not nest, and their arguments are kept by thread, for every probe at the end of one. */
struct syscall_enter {
	u64 common, number, args[6];
};

struct syscall_exit {
	u64 common, number, returned;
};

struct syscall_args {
	u64 args[6];
};
BPF_TABLE("lru_hash", u32, struct syscall_args, syscalls_open, 4096);

/* Whether the site's taps are of this process. */
static inline int is_ours(u64 cookie)
{
	u32 number = (cookie >> 32 & 0xffff) - 1;
	struct tap *t = taps.lookup(&number);
	return t && t->pid == bpf_get_current_pid_tgid() >> 32;
}

int resource_syscall(struct syscall_enter *ctx)
{
	u64 now = bpf_ktime_get_ns(), cookie = bpf_get_attach_cookie(ctx);
	if (!is_ours(cookie))
		return 0;
	count_hit(cookie & 0xffff);
	struct values v = {{ctx->args[0], ctx->args[1], ctx->args[2], ctx->args[3], ctx->args[4], ctx->args[5]}};
	if (cookie & SAVES) {
		u32 tid = bpf_get_current_pid_tgid(), one = 1;
		struct syscall_args args, *known = syscalls_open.lookup(&tid);
		__builtin_memcpy(args.args, v.words, sizeof(args.args));
		if (known) {
			*known = args;
		} else {
			count_one(resource_threads_seen.lookup(&one));
			syscalls_open.update(&tid, &args);
		}
	}
	if (report_first(NULL, cookie, now, &v, 1))
		syscall_tap_programs.call(ctx, 0);
	return 0;
}

int resource_syscall_end(struct syscall_exit *ctx)
{
	u64 now = bpf_ktime_get_ns(), cookie = bpf_get_attach_cookie(ctx);
	u32 tid = bpf_get_current_pid_tgid();
	if (!is_ours(cookie))
		return 0;
	count_hit(cookie & 0xffff);
	struct syscall_args *args = syscalls_open.lookup(&tid);
	if (!args) {
		count_forgotten(1);
		return 0;
	}
	struct values v = {};
	v.words[6] = ctx->returned;
	__builtin_memcpy(v.words, args->args, sizeof(args->args));
	if (report_first(NULL, cookie, now, &v, 1))
		syscall_tap_programs.call(ctx, 0);
	return 0;
}

int resource_syscall_more(struct syscall_enter *ctx)
{
	if (report_more(NULL, bpf_get_attach_cookie(ctx), 1))
		syscall_tap_programs.call(ctx, 0);
	return 0;
}
