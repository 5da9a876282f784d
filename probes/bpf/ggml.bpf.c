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
static inline int report(struct pt_regs *ctx, u16 kind, u64 a, u64 b)
{
	u64 now = bpf_ktime_get_ns(), index;
	u16 site = site_of(ctx);
	count_hit(site);
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
	u64 nodes = 0, node = 0, first = 0, last = 0, watched = 0, key = 0;
	s32 n_nodes = 0;
	if (l->described) {
		bpf_probe_read_user(&n_nodes, sizeof(n_nodes), (void *)(graph + l->n_nodes));
		if (l->uid) {
			bpf_probe_read_user(&key, sizeof(key), (void *)(graph + l->uid));
		}
		if (!key && n_nodes > 0) { /* no uid: the first, the last and the watched node's shapes tell graphs apart */
			nodes = graph + l->nodes;
			if (!l->inline_nodes)
				bpf_probe_read_user(&nodes, sizeof(nodes), (void *)nodes);
			bpf_probe_read_user(&node, sizeof(node), (void *)nodes);
			bpf_probe_read_user(&first, sizeof(first), (void *)(node + l->ne + 8));
			bpf_probe_read_user(&node, sizeof(node), (void *)(nodes + 8UL * (u32)(n_nodes - 1)));
			bpf_probe_read_user(&last, sizeof(last), (void *)(node + l->ne + 8));
			if (l->watched && l->watched <= (u32)n_nodes) {
				bpf_probe_read_user(&node, sizeof(node), (void *)(nodes + 8UL * (l->watched - 1)));
				bpf_probe_read_user(&watched, sizeof(watched), (void *)(node + l->ne));
			}
			key = (graph ^ (u64)(u32)n_nodes << 48) * 0x9E3779B97F4A7C15UL;
			key = (key ^ first ^ last << 20 ^ watched << 40) * 0xD6E8FEB86659FD93UL;
			key |= 1UL << 63; /* never a uid */
		}
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
	return report(ctx, GRAPH_END, PT_REGS_RC(ctx), 0);
}

static inline u32 thread_index(struct pt_regs *ctx)
{
	u32 zero = 0, ith = 0;
	struct layout *l = layouts.lookup(&zero);
	if (l)
		bpf_probe_read_user(&ith, sizeof(ith), (void *)(PT_REGS_PARM1(ctx) + l->ith));
	return ith;
}

/* op level: the first thread's operator starts */
int op(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), index;
	u16 site = site_of(ctx);
	count_hit(site);
	if (thread_index(ctx))
		return 0;
	struct event *e = reserve(OP, site, &index);
	if (!e)
		return 0;
	e->a = PT_REGS_PARM2(ctx);
	e->ith = 0;
	e->at_ns = now;
	publish(e, index);
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
	u32 tid = bpf_get_current_pid_tgid();
	count_hit(site);
	struct running *r = threads.lookup(&tid);
	if (!r) {
		struct running fresh = {};
		fresh.node = PT_REGS_PARM2(ctx);
		fresh.start = now;
		fresh.ith = thread_index(ctx);
		fresh.open = 1;
		if (threads.update(&tid, &fresh)) {
			u32 zero = 0;
			u64 *full = thread_table_full.lookup(&zero);
			if (full)
				__sync_fetch_and_add(full, 1);
		}
		return 0;
	}
	u64 node = PT_REGS_PARM2(ctx);
	if (r->open == 1) {
		if (r->node == node) /* nested operator functions of one node: the outer one counts */
			return 0;
		report_work(r, OP, site, r->start); /* no barrier in between: all that is known of it is its start */
	}
	r->node = node;
	r->start = now;
	r->ith = thread_index(ctx);
	r->open = 1;
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

/* The variants for several take const std::unordered_set<int>&: first element at _M_before_begin._M_nxt (+16), value +8. */
static inline u64 first_of_set(u64 set)
{
	u64 node = 0;
	u32 id = 0xffffffff;
	bpf_probe_read_user(&node, sizeof(node), (void *)(set + 16));
	if (node)
		bpf_probe_read_user(&id, sizeof(id), (void *)(node + 8));
	return id;
}

int request_post_set(struct pt_regs *ctx)
{
	return report(ctx, REQUEST_POST, first_of_set(PT_REGS_PARM2(ctx)), 0);
}

int request_done_set(struct pt_regs *ctx)
{
	return report(ctx, REQUEST_DONE, first_of_set(PT_REGS_PARM2(ctx)), 0);
}

/* llama-server: void server_response::send(std::unique_ptr<server_task_result>&&); the result: vptr, int id, int id_slot */
int request_result(struct pt_regs *ctx)
{
	u64 result = 0;
	u32 ids[2] = {0xffffffff, 0xffffffff};
	bpf_probe_read_user(&result, sizeof(result), (void *)PT_REGS_PARM2(ctx));
	if (result)
		bpf_probe_read_user(&ids, sizeof(ids), (void *)(result + 8));
	return report(ctx, REQUEST_RESULT, ids[0], ids[1]);
}

/* any function: its calls (tests, and the measured cost of a hit) */
int call(struct pt_regs *ctx)
{
	return report(ctx, CALL, PT_REGS_PARM1(ctx), 0);
}
