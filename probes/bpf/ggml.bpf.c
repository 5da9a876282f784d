/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * ggml on the CPU: graphs, operators, barriers; and llama-server's requests. Compiled behind event.bpf.c.
 *
 * Levels are programs, not branches: a probe that is not attached costs nothing, a program that returns early still
 * costs the trap. `op` reports the first thread's operators; `op_begin` + `barrier` report every thread's.
 */
struct layout {         /* filled by the loader from the resolved struct layouts; offsets in bytes */
	u32 n_nodes, nodes, uid; /* ggml_cgraph; uid 0: this build has none */
	u32 inline_nodes;        /* 1: the nodes are an array within the struct (2023) */
	u32 ne;                  /* ggml_tensor */
	u32 ith;                 /* ggml_compute_params */
	u32 watched;             /* without a uid: 1 + index of a node whose shape follows the context's length */
	u32 described;           /* 0 until the layout is verified: read nothing through it */
	u32 op, ids, data, nb;   /* ggml_tensor; ids: where src[2] is */
	u32 expert_op;           /* the operator number of MUL_MAT_ID; 0 while no graph with experts was seen */
};
BPF_ARRAY(layouts, struct layout, 1);

/* Graphs that the reader has described, by key and site (every process counts its graphs from 1). An unknown one rings, so
 * that it is read while it is there. A server makes new ones for ever: the oldest give way. */
BPF_TABLE("lru_hash", u64, u64, known_graphs, 65536);
BPF_RINGBUF_OUTPUT(doorbell, 1);

struct running {        /* what a thread of the pool is at */
	u64 node, start;
	u32 ith, open;
};
BPF_HASH(threads, u32, struct running, 16384);
BPF_ARRAY(thread_table_full, u64, 1);

static inline u16 site_of(struct pt_regs *ctx)
{
	return bpf_get_attach_cookie(ctx); /* the cookie is the site's number in the plan */
}

/* one event with up to two values, now */
static inline int report_at(u64 now, u16 site, u16 kind, u64 a, u64 b)
{
	u64 index;
	struct event *e = reserve(kind, site, &index);
	if (!e)
		return 0;
	e->a = a;
	e->b = b;
	e->ith = 0;
	e->at_ns = now;
	publish(e, index);
	return 0;
}

static inline int report(struct pt_regs *ctx, u16 kind, u64 a, u64 b)
{
	u64 now = bpf_ktime_get_ns();
	u16 site = site_of(ctx);
	count_hit(site);
	return report_at(now, site, kind, a, b);
}

/* A key for builds whose graphs have no uid: the first, the last and the watched node's shapes tell graphs apart. */
static inline u64 fingerprint(struct layout *l, u64 graph, u32 n_nodes)
{
	u64 nodes = graph + l->nodes, watched = 0;
	if (!l->inline_nodes)
		nodes = word_at(nodes);
	u64 first = word_at(word_at(nodes) + l->ne + 8);
	u64 last = word_at(word_at(nodes + 8UL * (n_nodes - 1)) + l->ne + 8);
	if (l->watched && l->watched <= n_nodes)
		watched = word_at(word_at(nodes + 8UL * (l->watched - 1)) + l->ne);
	u64 key = (graph ^ (u64)n_nodes << 48) * 0x9E3779B97F4A7C15UL;
	key = (key ^ first ^ last << 20 ^ watched << 40) * 0xD6E8FEB86659FD93UL;
	return key | 1UL << 63; /* never a uid */
}

struct expert_read {    /* the last tensor of ids that a thread came across in this graph */
	u64 ids, at;
	u32 next, pad;  /* event to write */
};
BPF_TABLE("lru_hash", u32, struct expert_read, expert_reads, 4096);
BPF_PROG_ARRAY(expert_programs, 1);
BPF_ARRAY(expert_ids_left, u64, 1); /* not read: too many, no room, or of a shape that nobody has */

int graph_begin(struct pt_regs *ctx)
{
	u16 site = site_of(ctx);
	u32 zero = 0;
	u64 index;
	count_hit(site);
	struct layout *l = layouts.lookup(&zero);
	struct event *e = reserve(GRAPH_BEGIN, site, &index);
	if (!e || !l)
		return 0;
	u64 graph = PT_REGS_PARM1(ctx);
	u64 key = 0;
	s32 n_nodes = 0;
	if (l->described) {
		read_user(&n_nodes, sizeof(n_nodes), (void *)(graph + l->n_nodes));
		if (l->uid) {
			read_user(&key, sizeof(key), (void *)(graph + l->uid));
		}
		if (!key && n_nodes > 0)
			key = fingerprint(l, graph, n_nodes);
	}
	if (l->expert_op) {
		u32 tid = bpf_get_current_pid_tgid();
		expert_reads.delete(&tid); /* a model with one layer of experts has the same ids tensor in every graph */
	}
	e->a = graph;
	e->b = key;
	e->c = (u32)n_nodes;
	e->d = 0;
	u64 known = key ^ (u64)site << 40;
	if (!key || !known_graphs.lookup(&known))
		doorbell.ringbuf_output(&key, sizeof(key), BPF_RB_FORCE_WAKEUP);
	e->ith = 0;
	e->at_ns = bpf_ktime_get_ns();
	publish(e, index);
	return 0;
}

int graph_end(struct pt_regs *ctx)
{
	counters_end(bpf_get_current_pid_tgid(), site_of(ctx)); /* of the last operator; the reader takes it with the graph */
	return report(ctx, GRAPH_END, PT_REGS_RC(ctx), 0);
}

static inline u32 thread_index(struct pt_regs *ctx)
{
	u32 zero = 0, ith = 0;
	struct layout *l = layouts.lookup(&zero);
	if (l)
		read_user(&ith, sizeof(ith), (void *)(PT_REGS_PARM1(ctx) + l->ith));
	return ith;
}

/*
 * Mixture of experts. MUL_MAT_ID reads the ids of the experts [used, tokens] when it starts, and the buffer is soon used
 * for something else: so they are copied here, by the first thread. A layer has two or three such operators with the same
 * ids: the first one counts. A program of its own, for it is long; where the kernel refuses it nothing is read.
 */
static inline void read_experts(struct pt_regs *ctx, u64 node, u64 now)
{
	u32 zero = 0, number = 0, tid = bpf_get_current_pid_tgid();
	struct layout *l = layouts.lookup(&zero);
	if (!l || !l->expert_op)
		return;
	read_user(&number, sizeof(number), (void *)(node + l->op));
	if (number != l->expert_op)
		return;
	struct expert_read fresh = {};
	fresh.ids = word_at(node + l->ids);
	fresh.at = now;
	struct expert_read *last = expert_reads.lookup(&tid);
	if (last && last->ids == fresh.ids)
		return;
	expert_reads.update(&tid, &fresh);
	expert_programs.call(ctx, 0);
}

#define EXPERTS_PER_EVENT 8
#define EVENTS_PER_RUN 128 /* the verifier walks through each; the program calls itself for more: 33 runs, 4224 events */

/* One event per token and 8 experts; ith = token | part of its experts << 20 | how many are in this part << 24 */
int expert_ids(struct pt_regs *ctx)
{
	u32 zero = 0, tid = bpf_get_current_pid_tgid();
	u64 ne[2] = {}, nb[2] = {}, index;
	u16 site = site_of(ctx);
	struct layout *l = layouts.lookup(&zero);
	struct expert_read *read = expert_reads.lookup(&tid);
	u64 *left = expert_ids_left.lookup(&zero);
	if (!l || !read || !left)
		return 0;
	u64 at = read->at, data = word_at(read->ids + l->data);
	read_user(&ne, sizeof(ne), (void *)(read->ids + l->ne));
	read_user(&nb, sizeof(nb), (void *)(read->ids + l->nb));
	u32 used = ne[0], tokens = ne[1], first = read->next, i;
	u32 parts = (used + EXPERTS_PER_EVENT - 1) / EXPERTS_PER_EVENT;
	u32 missing = parts * EXPERTS_PER_EVENT - used; /* in the last part */
	u64 events = (u64)tokens * parts;
	if (!used || used > 15 * EXPERTS_PER_EVENT || nb[0] != 4 || tokens >= 1 << 20)
		events = 0;
	for (i = 0; i < EVENTS_PER_RUN; i++) {
		u32 number = first + i;
		if (number >= events)
			break;
		struct event *e = reserve(EXPERTS, site, &index);
		if (!e)
			break;
		u32 token = number / parts, part = number % parts;
		u32 count = EXPERTS_PER_EVENT - (part + 1) / parts * missing; /* a branch would double the verifier's work */
		e->a = e->b = e->c = e->d = ~0UL;
		read_user(&e->a, ((count - 1 & 7) + 1) * 4,
				    (void *)(data + token * nb[1] + part * EXPERTS_PER_EVENT * 4));
		e->ith = token | part << 20 | count << 24;
		e->at_ns = at;
		publish(e, index);
	}
	read->next = first + i;
	if (i == EVENTS_PER_RUN)
		expert_programs.call(ctx, 0);
	u64 done = (u64)((first + i) / (parts ?: 1)) * used;
	if (ne[0] * ne[1] > done)
		__sync_fetch_and_add(left, ne[0] * ne[1] - done);
	return 0;
}

/* op level: the first thread's operator starts */
int op(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), index;
	u16 site = site_of(ctx);
	count_hit(site);
	if (thread_index(ctx))
		return 0;
	counters_begin(bpf_get_current_pid_tgid(), now, 0, site, 1);
	struct event *e = reserve(OP, site, &index);
	if (!e)
		return 0;
	e->a = PT_REGS_PARM2(ctx);
	e->ith = 0;
	e->at_ns = now;
	publish(e, index);
	read_experts(ctx, PT_REGS_PARM2(ctx), now);
	return 0;
}

static inline void report_work(struct running *r, u16 kind, u16 site, u64 now)
{
	u64 index;
	struct event *e = reserve(kind, site, &index);
	if (!e)
		return;
	e->a = r->node;
	e->b = r->start;
	e->ith = r->ith;
	e->at_ns = now;
	publish(e, index);
}

/* thread level: an operator starts on any thread */
int op_begin(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u16 site = site_of(ctx);
	u32 tid = bpf_get_current_pid_tgid(), ith;
	u64 node = PT_REGS_PARM2(ctx);
	count_hit(site);
	struct running *r = threads.lookup(&tid);
	if (!r) {
		struct running fresh = {};
		fresh.node = node;
		fresh.start = now;
		fresh.ith = ith = thread_index(ctx);
		fresh.open = 1;
		if (threads.update(&tid, &fresh)) {
			u32 zero = 0;
			u64 *full = thread_table_full.lookup(&zero);
			if (full)
				__sync_fetch_and_add(full, 1);
		}
	} else {
		if (r->open == 1) {
			if (r->node == node) /* nested operator functions of one node: the outer one counts */
				return 0;
			report_work(r, OP, site, r->start); /* no barrier in between: all that is known of it is its start */
		}
		r->node = node;
		r->start = now;
		r->ith = ith = thread_index(ctx);
		r->open = 1;
	}
	if (!ith)
		read_experts(ctx, node, now);
	counters_begin(tid, now, ith, site, 0);
	return 0;
}

/* thread level: a thread's own work on its operator is done */
int barrier(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u16 site = site_of(ctx);
	u32 tid = bpf_get_current_pid_tgid();
	count_hit(site);
	struct running *r = threads.lookup(&tid);
	if (!r || !r->open)
		return 0;
	r->open = 2; /* reported; a later barrier of the same operator moves its end */
	counters_work(tid, site);
	report_work(r, OP_WORK, site, now);
	return 0;
}

/* llama-server: void server_response::add_waiting_task_id(int), remove_waiting_task_id(int) */
int request_post(struct pt_regs *ctx)
{
	return report(ctx, REQUEST_POST, (u32)PT_REGS_PARM2(ctx), 0);
}

int request_done(struct pt_regs *ctx)
{
	return report(ctx, REQUEST_DONE, (u32)PT_REGS_PARM2(ctx), 0);
}

#define TASKS_AT_ONCE 128 /* of one HTTP request with several prompts */

/* The variants for several take const std::unordered_set<int>&: first element at _M_before_begin._M_nxt (+16); an
 * element: the next one, value. An event for each. */
static inline int report_set(struct pt_regs *ctx, u16 kind)
{
	u64 now = bpf_ktime_get_ns(), node = 0;
	u16 site = site_of(ctx);
	count_hit(site);
	read_user(&node, sizeof(node), (void *)(PT_REGS_PARM2(ctx) + 16));
#pragma clang loop unroll(disable)
	for (int i = 0; i < TASKS_AT_ONCE; i++) {
		u64 element[2] = {};
		if (!node || read_user(element, sizeof(element), (void *)node))
			break;
		report_at(now, site, kind, (u32)element[1], 0);
		node = element[0];
	}
	return 0;
}

int request_post_set(struct pt_regs *ctx)
{
	return report_set(ctx, REQUEST_POST);
}

int request_done_set(struct pt_regs *ctx)
{
	return report_set(ctx, REQUEST_DONE);
}

/* llama-server: void server_response::send(std::unique_ptr<server_task_result>&&); the result: vptr, int id, int id_slot */
int request_result(struct pt_regs *ctx)
{
	u64 result = 0;
	u32 ids[2] = {0xffffffff, 0xffffffff};
	read_user(&result, sizeof(result), (void *)PT_REGS_PARM2(ctx));
	if (result)
		read_user(&ids, sizeof(ids), (void *)(result + 8));
	return report(ctx, REQUEST_RESULT, ids[0], ids[1]);
}

/* llama-server: bool server_context_impl::launch_slot_with_task(server_slot&, server_task&&); both begin with int id */
int slot_start(struct pt_regs *ctx)
{
	u32 slot = 0xffffffff, task = 0xffffffff;
	read_user(&slot, sizeof(slot), (void *)PT_REGS_PARM2(ctx));
	read_user(&task, sizeof(task), (void *)PT_REGS_PARM3(ctx));
	return report(ctx, SLOT_START, task, slot);
}

/* llama-server: bool server_context_impl::process_token(completion_token_output&, server_slot&) */
int slot_token(struct pt_regs *ctx)
{
	u32 slot = 0xffffffff;
	read_user(&slot, sizeof(slot), (void *)PT_REGS_PARM3(ctx));
	return report(ctx, SLOT_TOKEN, slot, 0);
}

/* llama-server: void server_slot::release() */
int slot_release(struct pt_regs *ctx)
{
	u32 slot = 0xffffffff;
	read_user(&slot, sizeof(slot), (void *)PT_REGS_PARM1(ctx));
	return report(ctx, SLOT_RELEASE, slot, 0);
}

/*
 * llama.cpp: llama_context::process_ubatch(llama_ubatch const&, …), once before each graph of a model. The struct:
 * u32 equal_seqs, n_tokens, n_seq_tokens, n_seqs, …; then pointers, of which there are more in newer versions, and from
 * `pos` on always pos, n_seq_id, seq_id, seq_id_unq, seq_idx, output. Tokens come in n_seqs groups of n_seq_tokens of one
 * sequence each. A token that belongs to several sequences (a shared prompt) is told as the first one's.
 */
#define GROUPS_PER_RUN 128 /* as EVENTS_PER_RUN */
#define MAX_SEQUENCES 256  /* LLAMA_MAX_SEQ */

struct batch_read {
	u64 at, pos, sequences, outputs; /* the arrays */
	u32 groups, size, next, context;
	u32 sequence, tokens, first, pad; /* the part at hand */
};
BPF_TABLE("lru_hash", u32, struct batch_read, batch_reads, 4096);
BPF_PROG_ARRAY(batch_programs, 1);
BPF_ARRAY(batch_tokens_left, u64, 1); /* not read: too many, or no array where one should be */

static inline void leave_tokens(u64 tokens)
{
	u32 zero = 0;
	u64 *left = batch_tokens_left.lookup(&zero);
	if (left)
		__sync_fetch_and_add(left, tokens);
}

/* whether `pos` lies at this offset: then one to 256 sequences have the first token, and the first is a number below 256 */
static inline int fits(u64 batch, u32 offset)
{
	u32 count = 0, first = ~0U;
	read_user(&count, sizeof(count), (void *)word_at(batch + offset + 8));
	if (read_user(&first, sizeof(first), (void *)word_at(word_at(batch + offset + 16))))
		return 0;
	return count - 1 < MAX_SEQUENCES && first < MAX_SEQUENCES;
}

#define POS_2025 40
#define POS_2026 48
BPF_ARRAY(batch_offsets, u32, MAX_SITES); /* what fitted last: to try in vain is dear, it faults */

int batch(struct pt_regs *ctx)
{
	u32 tid = bpf_get_current_pid_tgid(), site = site_of(ctx), head[4] = {}, offset = POS_2026;
	u64 batch = PT_REGS_PARM2(ctx);
	u32 *known = batch_offsets.lookup(&site);
	count_hit(site);
	read_user(&head, sizeof(head), (void *)batch);
	if (known && *known)
		offset = *known;
	if (!fits(batch, offset)) {
		offset = offset == POS_2026 ? POS_2025 : POS_2026;
		if (!fits(batch, offset))
			offset = 0;
	}
	if (known)
		*known = offset;
	if (!offset || !head[2] || head[2] * head[3] != head[1]) {
		leave_tokens(head[1]);
		return 0;
	}
	struct batch_read fresh = {};
	fresh.at = bpf_ktime_get_ns();
	fresh.pos = word_at(batch + offset);
	fresh.sequences = word_at(batch + offset + 16);
	fresh.outputs = word_at(batch + offset + 40);
	fresh.size = head[2];
	fresh.groups = head[3];
	fresh.context = PT_REGS_PARM1(ctx);
	batch_reads.update(&tid, &fresh);
	batch_programs.call(ctx, 0);
	leave_tokens(head[1]); /* no such program */
	return 0;
}

static inline void report_part(struct batch_read *r, u16 site)
{
	u64 index;
	u32 position = 0;
	u8 output = 0;
	struct event *e = reserve(BATCH_PART, site, &index);
	if (!e)
		return;
	read_user(&position, sizeof(position), (void *)(r->pos + 4UL * r->first));
	read_user(&output, sizeof(output), (void *)(r->outputs + r->first + r->tokens - 1));
	e->a = r->sequence;
	e->b = r->tokens;
	e->c = position;
	e->d = output;
	e->ith = r->context;
	e->at_ns = r->at;
	publish(e, index);
}

int batch_parts(struct pt_regs *ctx)
{
	u32 tid = bpf_get_current_pid_tgid(), i;
	u16 site = site_of(ctx);
	struct batch_read *r = batch_reads.lookup(&tid);
	if (!r)
		return 0;
	for (i = 0; i < GROUPS_PER_RUN; i++) {
		u32 sequence = ~0U, group = r->next;
		if (group < r->groups)
			read_user(&sequence, sizeof(sequence), (void *)word_at(r->sequences + 8UL * group * r->size));
		if (sequence != r->sequence || group >= r->groups) {
			if (r->tokens)
				report_part(r, site);
			r->sequence = sequence;
			r->first = group * r->size;
			r->tokens = 0;
		}
		if (group >= r->groups)
			return 0;
		r->tokens += r->size;
		r->next = group + 1;
	}
	batch_programs.call(ctx, 0);
	report_part(r, site); /* called too often: what follows is not read */
	leave_tokens((u64)(r->groups - r->next) * r->size);
	return 0;
}

/*
 * llama.cpp: bool llama_memory_seq_rm(llama_memory_t, llama_seq_id, llama_pos from, llama_pos to), void
 * llama_memory_clear(llama_memory_t, bool), which is all of them, and bool llama_context::memory_update(bool optimize):
 * before every batch, and with `optimize` only when a batch has found no room.
 */
static inline int cells_freed(struct pt_regs *ctx, u32 sequence, u32 from, u32 to)
{
	return report(ctx, CELLS_FREED, PT_REGS_PARM1(ctx) << 32 | sequence, (u64)to << 32 | from);
}

int cells_of_sequence(struct pt_regs *ctx)
{
	return cells_freed(ctx, PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx));
}

int cells_of_all(struct pt_regs *ctx)
{
	return cells_freed(ctx, ~0U, ~0U, ~0U);
}

int memory_update(struct pt_regs *ctx)
{
	if (PT_REGS_PARM2(ctx) & 255)
		return report(ctx, NO_CELLS, (u32)PT_REGS_PARM1(ctx), 0);
	count_hit(site_of(ctx));
	return 0;
}

/* any function: its calls (tests, and the measured cost of a hit) */
int call(struct pt_regs *ctx)
{
	counters_begin(bpf_get_current_pid_tgid(), bpf_ktime_get_ns(), 0, site_of(ctx), 1); /* they are part of the cost */
	return report(ctx, CALL, PT_REGS_PARM1(ctx), 0);
}
