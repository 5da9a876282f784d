/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * Stacks of the targets' threads: each is copied once, under a key that is cheap to make, and unwound by the reader
 * (profiler/record/stacks.py). Compiled behind event.bpf.c. MAX_STACKS comes from the loader.
 */
#define STACK_BYTES 8192
#define STACK_STEP 512
#define TOP_WORDS 64
#define PART_WORDS 8
#define SEEN_BITS 13

struct stack_registers {
	u64 ip, sp, bp, bx, r12, r13, r14, r15;
};

struct stack_top {
	u64 uses; /* so that a program that was preempted by another one knows it */
	u64 words[TOP_WORDS];
};

struct user_stack {
	struct stack_registers registers;
	u32 length, pad;
	u8 bytes[STACK_BYTES]; /* from sp on */
};
BPF_TABLE("lru_hash", u64, struct user_stack, user_stacks, MAX_STACKS);
BPF_ARRAY(no_user_stack, struct user_stack, 1); /* zeros: too large for the stack */
BPF_PERCPU_ARRAY(stack_tops, struct stack_top, 1); /* for the same reason */
/* Words like addresses of code, and whether a call ends there: process << 48 | word << 1 | it does. */
BPF_ARRAY(words_seen, u64, 1 << SEEN_BITS);

#if defined(__x86_64__)
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
/* By number, for distributions' headers are older than 5.15: bpf_get_current_task_btf, bpf_task_pt_regs. */
static void *(*current_task)(void) = (void *)158;
static void *(*registers_of)(void *task) = (void *)175;

/* Whether a call ends where this points to: e8 with a displacement, or ff /2 in its lengths. */
static inline int behind_a_call(u64 address)
{
	u8 b[8];
	if (read_user(b, sizeof(b), (void *)(address - sizeof(b))))
		return 0;
	return b[3] == 0xe8 || (b[6] == 0xff && (b[7] & 0x38) == 0x10) || (b[5] == 0xff && (b[6] & 0x38) == 0x10) ||
	       (b[4] == 0xff && (b[5] & 0x38) == 0x10) || (b[2] == 0xff && (b[3] & 0x38) == 0x10) ||
	       (b[1] == 0xff && (b[2] & 0x38) == 0x10);
}

/* The key that a hash of the stack becomes; the stack is kept when it is new. */
static inline u32 kept_stack(struct stack_registers *regs, u64 hash)
{
	u64 key = ((hash ^ hash >> 32) & 0xffffffff) ^ (u32)(bpf_get_current_pid_tgid() >> 32);
	u32 zero = 0;
	key |= !key;
	if (user_stacks.lookup(&key))
		return key;
	struct user_stack *none = no_user_stack.lookup(&zero);
	if (!none)
		return 0;
	user_stacks.update(&key, none);
	struct user_stack *s = user_stacks.lookup(&key);
	if (!s)
		return 0;
	s->registers = *regs;
	/* As much as there is: the last page of a stack may end before. */
	if (!read_user(s->bytes, STACK_BYTES, (void *)regs->sp)) {
		s->length = STACK_BYTES;
		return key;
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < STACK_BYTES / STACK_STEP; i++) {
		if (read_user(s->bytes + i * STACK_STEP, STACK_STEP, (void *)(regs->sp + i * STACK_STEP)))
			break;
		s->length = (i + 1) * STACK_STEP;
	}
	return key;
}
#endif

#if defined(__x86_64__)
/* The words on top of a stack; zeros behind its end, which the kernel puts where it cannot read. */
static inline void copy_top(struct stack_top *top, u64 sp)
{
	if (!read_user(top->words, sizeof(top->words), (void *)sp))
		return;
#pragma clang loop unroll(disable)
	for (int part = 0; part < TOP_WORDS / PART_WORDS; part++) /* its last page ends before */
		read_user(&top->words[part * PART_WORDS], sizeof(u64) * PART_WORDS,
			  (void *)(sp + part * sizeof(u64) * PART_WORDS));
}

/* A hash of `start` and the return addresses on top of a stack: the words like addresses of code, which data on this stack
 * and what is small are not, that stand behind a call. 0: another program came in between. */
static inline u64 hash_of_callers(u64 sp, u64 hash)
{
	u32 zero = 0;
	u64 process = bpf_get_current_pid_tgid() >> 32 << 48;
	struct stack_top *top = stack_tops.lookup(&zero);
	if (!top)
		return 0;
	u64 mine = ++top->uses;
	copy_top(top, sp);
#pragma clang loop unroll(disable)
	for (int i = 0; i < TOP_WORDS; i++) {
		u64 word = top->words[i];
		if (!(word >> 22) || word >> 47 || !(word - sp >> 20))
			continue;
		u32 at = word * 0x9E3779B97F4A7C15UL >> (64 - SEEN_BITS);
		u64 *seen = words_seen.lookup(&at), known = process | word << 1;
		if (!seen)
			break;
		u64 now = *seen;
		if ((now | 1) != (known | 1))
			*seen = now = known | behind_a_call(word);
		if (now & 1)
			hash = (hash ^ word) * 0xFF51AFD7ED558CCDUL;
	}
	return top->uses == mine ? hash : 0;
}
#endif

/* The key of the stack with which the running thread entered the kernel, 0 if it has none. Told apart by where it did,
 * how deep it is (within a page: stacks of threads begin alike), and the return addresses among the words on its top.
 * A kernel without BTF does not let us ask. */
static inline u32 stack_at_kernel(u32 site)
{
#if defined(__x86_64__) && defined(HAS_BTF)
	struct pt_regs *there = registers_of(current_task());
	struct {
		u64 r15, r14, r13, r12, bp, bx;
	} first; /* of struct pt_regs */
	struct {
		u64 ip, cs, flags, sp;
	} last;
	if (read_kernel(&first, sizeof(first), there) || read_kernel(&last, sizeof(last), &there->ip) || !last.ip)
		return 0;
	struct stack_registers regs = {last.ip, last.sp, first.bp, first.bx, first.r12, first.r13, first.r14, first.r15};
	u64 hash = hash_of_callers(regs.sp, (regs.ip ^ (regs.sp & 0xff0) << 32) * 0x9E3779B97F4A7C15UL ^ site);
	return hash ? kept_stack(&regs, hash) : 0;
#else
	return 0;
#endif
}
