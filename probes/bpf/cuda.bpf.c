/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * What calls of CUDA and NCCL are about: four words when they begin, as an event of their own; their return tells the
 * result (calls.bpf.c). Which word is what: probes/device_functions.py. Compiled behind calls.bpf.c. The frame's key is
 * where the address of new memory, or of a graph, will be written (0: nowhere), and the words are read as the System V
 * convention for x86-64 has them: a dim3 by value takes two registers, what is beyond six registers is on the stack.
 */
#if defined(__x86_64__)
#define STACK_WORD(ctx, n) word_at(PT_REGS_SP(ctx) + 8 + 8 * (n)) /* behind the return address */
#else
#define STACK_WORD(ctx, n) 0 /* the plan refuses such sites elsewhere */
#endif

static inline u64 at_most(u64 value, u64 limit)
{
	return value < limit ? value : limit;
}

/* x up to 2^32-1, y and z up to 65535: as large as a grid can be */
static inline u64 packed_grid(u32 x, u32 y, u32 z)
{
	return x | at_most(y, 65535) << 32 | at_most(z, 65535) << 48;
}

/* x and y up to 4095, z up to 255: a block has 1024 threads at most; and the shared memory's bytes */
static inline u64 packed_block(u32 x, u32 y, u32 z, u64 shared)
{
	return at_most(x, 4095) | at_most(y, 4095) << 12 | at_most(z, 255) << 24 | at_most(shared, ~0U) << 32;
}

static inline int begin(struct pt_regs *ctx, u64 a, u64 b, u64 c, u64 d, u64 out)
{
	u64 index;
	struct frame *f = enter_call(ctx, out);
	if (!f)
		return 0;
	struct event *e = reserve(CALL_ABOUT, f->site, &index);
	if (!e)
		return 0;
	e->ith = f->id; /* its lower half; the upper is the thread's number */
	e->a = a;
	e->b = b;
	e->c = c;
	e->d = d;
	e->at_ns = f->start;
	publish(e, index);
	return 0;
}

int device_call(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx), 0);
}

int device_allocate(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx), PT_REGS_PARM1(ctx));
}

#define NAME_WORDS 32 /* of 8 bytes: longer names are cut off */

/* (where the handle will be written, module or library, name): the name follows in events of its own */
int function_named(struct pt_regs *ctx)
{
	u64 name[NAME_WORDS] = {}, index;
	u32 call = 0, tid = bpf_get_current_pid_tgid();
	u16 site = bpf_get_attach_cookie(ctx);
	begin(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), 0, 0, PT_REGS_PARM1(ctx));
	struct calls *c = calling_threads.lookup(&tid);
	if (!c || !c->count)
		return 0;
	call = c->count - 1;
	long length = read_user_text(name, sizeof(name), (void *)PT_REGS_PARM3(ctx));
	for (int i = 0; i < NAME_WORDS; i += 4) {
		if (8 * i >= length)
			break;
		struct event *e = reserve(CALL_NAME, site, &index);
		if (!e)
			break;
		e->ith = call;
		e->a = name[i];
		e->b = name[i + 1];
		e->c = name[i + 2];
		e->d = name[i + 3];
		e->at_ns = bpf_ktime_get_ns();
		publish(e, index);
	}
	return 0;
}

/* (stream, where the graph's handle will be written) */
int graph_captured(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), 0, 0, PT_REGS_PARM2(ctx));
}

/* A copy's source with its cudaMemcpyKind above it */
static inline u64 with_kind(u64 source, u64 kind)
{
	return (source & ~0UL >> 4) | at_most((u32)kind, 15) << 60;
}

int cuda_copy(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM1(ctx), with_kind(PT_REGS_PARM2(ctx), PT_REGS_PARM4(ctx)), PT_REGS_PARM3(ctx),
		     PT_REGS_PARM5(ctx), 0);
}

/* ~0, which is no size, where it is more than memory has */
static inline u64 bytes_of(u64 a, u64 b)
{
	return a && b > (1UL << 56) / a ? ~0UL : a * b;
}

/* (to, pitch, from, pitch, width, height, kind, stream) */
int cuda_copy_2d(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM1(ctx), with_kind(PT_REGS_PARM3(ctx), STACK_WORD(ctx, 0)),
		     bytes_of(PT_REGS_PARM5(ctx), PT_REGS_PARM6(ctx)), STACK_WORD(ctx, 1), 0);
}

/* (to, its device or context, from, its device or context, bytes, stream) */
int copy_peer(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM5(ctx), PT_REGS_PARM6(ctx), 0);
}

struct copied { /* one side of cudaMemcpy3DParms */
	u64 array, at[3], address, pitch, sizes[2];
};

/* Bytes of an extent; of arrays it counts elements, whose size is not said. */
static inline u64 extent(u64 *sizes, u64 array, u64 other)
{
	return array || other ? ~0UL : bytes_of(bytes_of(sizes[0], sizes[1]), sizes[2]);
}

int cuda_copy_3d(struct pt_regs *ctx)
{
	struct { /* cudaMemcpy3DParms */
		struct copied from, to;
		u64 extent[3], kind;
	} p = {};
	read_user(&p, sizeof(p), (void *)PT_REGS_PARM1(ctx));
	return begin(ctx, p.to.address, with_kind(p.from.address, p.kind), extent(p.extent, p.from.array, p.to.array),
		     PT_REGS_PARM2(ctx), 0);
}

int cuda_copy_3d_peer(struct pt_regs *ctx)
{
	struct { /* cudaMemcpy3DPeerParms */
		struct copied from;
		u64 from_device;
		struct copied to;
		u64 to_device, extent[3];
	} p = {};
	read_user(&p, sizeof(p), (void *)PT_REGS_PARM1(ctx));
	return begin(ctx, p.to.address, p.from.address, extent(p.extent, p.from.array, p.to.array), PT_REGS_PARM2(ctx), 0);
}

struct cu_copied { /* where one side of CUDA_MEMCPY2D and 3D is */
	u64 type, host, device, array;
};

/* By CUmemorytype: 1 the host's, 2 a device's, 3 an array (a device's), 4 not said */
static inline u64 cu_address(struct cu_copied *c)
{
	u32 type = c->type;
	return type == 1 ? c->host : type == 3 ? c->array : c->device;
}

static inline u64 cu_kind(struct cu_copied *from, struct cu_copied *to)
{
	u32 a = from->type, b = to->type;
	return a == 4 || b == 4 ? 4 : (a == 1 ? 0 : 2) + (b == 1 ? 0 : 1);
}

int cu_copy_2d(struct pt_regs *ctx)
{
	struct { /* CUDA_MEMCPY2D */
		u64 from_at[2];
		struct cu_copied from;
		u64 from_pitch, to_at[2];
		struct cu_copied to;
		u64 to_pitch, extent[2];
	} p = {};
	read_user(&p, sizeof(p), (void *)PT_REGS_PARM1(ctx));
	return begin(ctx, cu_address(&p.to), with_kind(cu_address(&p.from), cu_kind(&p.from, &p.to)),
		     bytes_of(p.extent[0], p.extent[1]), PT_REGS_PARM2(ctx), 0);
}

struct cu_copy { /* CUDA_MEMCPY3D; CUDA_MEMCPY3D_PEER */
	u64 from_at[4];
	struct cu_copied from;
	u64 from_context, from_sizes[2], to_at[4];
	struct cu_copied to;
	u64 to_context, to_sizes[2], extent[3];
};

int cu_copy_3d(struct pt_regs *ctx)
{
	struct cu_copy p = {};
	read_user(&p, sizeof(p), (void *)PT_REGS_PARM1(ctx));
	return begin(ctx, cu_address(&p.to), with_kind(cu_address(&p.from), cu_kind(&p.from, &p.to)),
		     extent(p.extent, 0, 0), PT_REGS_PARM2(ctx), 0);
}

int cu_copy_3d_peer(struct pt_regs *ctx)
{
	struct cu_copy p = {};
	read_user(&p, sizeof(p), (void *)PT_REGS_PARM1(ctx));
	return begin(ctx, cu_address(&p.to), cu_address(&p.from), extent(p.extent, 0, 0), PT_REGS_PARM2(ctx), 0);
}

int cuda_launch(struct pt_regs *ctx)
{
	u64 grid = PT_REGS_PARM2(ctx), block = PT_REGS_PARM4(ctx);
	return begin(ctx, PT_REGS_PARM1(ctx), packed_grid(grid, grid >> 32, PT_REGS_PARM3(ctx)),
		     packed_block(block, block >> 32, PT_REGS_PARM5(ctx), STACK_WORD(ctx, 0)), STACK_WORD(ctx, 1), 0);
}

struct launch_config { /* cudaLaunchConfig_t */
	u32 grid[3], block[3];
	u64 shared, stream;
};

int cuda_launch_config(struct pt_regs *ctx)
{
	struct launch_config l = {};
	read_user(&l, sizeof(l), (void *)PT_REGS_PARM1(ctx));
	return begin(ctx, PT_REGS_PARM2(ctx), packed_grid(l.grid[0], l.grid[1], l.grid[2]),
		     packed_block(l.block[0], l.block[1], l.block[2], l.shared), l.stream, 0);
}

int cu_launch(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM1(ctx), packed_grid(PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx)),
		     packed_block(PT_REGS_PARM5(ctx), PT_REGS_PARM6(ctx), STACK_WORD(ctx, 0), (u32)STACK_WORD(ctx, 1)),
		     STACK_WORD(ctx, 2), 0);
}

struct cu_launch_config { /* CUlaunchConfig */
	u32 grid[3], block[3], shared, pad;
	u64 stream;
};

int cu_launch_config(struct pt_regs *ctx)
{
	struct cu_launch_config l = {};
	read_user(&l, sizeof(l), (void *)PT_REGS_PARM1(ctx));
	return begin(ctx, PT_REGS_PARM2(ctx), packed_grid(l.grid[0], l.grid[1], l.grid[2]),
		     packed_block(l.block[0], l.block[1], l.block[2], l.shared), l.stream, 0);
}

/* (send, receive, count, type, op or root, communicator, stream) */
int nccl_reduce(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM3(ctx), (u32)PT_REGS_PARM4(ctx), PT_REGS_PARM6(ctx), STACK_WORD(ctx, 0), 0);
}

/* (send, receive, count, type, op, root, communicator, stream) */
int nccl_rooted(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM3(ctx), (u32)PT_REGS_PARM4(ctx), STACK_WORD(ctx, 0), STACK_WORD(ctx, 1), 0);
}

/* (send, receive, count, type, communicator, stream) */
int nccl_gather(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM3(ctx), (u32)PT_REGS_PARM4(ctx), PT_REGS_PARM5(ctx), PT_REGS_PARM6(ctx), 0);
}

/* (buffer, count, type, peer, communicator, stream) */
int nccl_send(struct pt_regs *ctx)
{
	return begin(ctx, PT_REGS_PARM2(ctx), (u32)PT_REGS_PARM3(ctx), PT_REGS_PARM5(ctx), PT_REGS_PARM6(ctx), 0);
}

/* The key of the event becomes the result (16 bits) and what was written there (48 bits). */
int device_end(struct pt_regs *ctx)
{
	struct calls *c = NULL;
	u64 now = bpf_ktime_get_ns();
	struct frame *f = close_call(ctx, &c, now);
	if (!f || !c)
		return 0;
	u32 result = PT_REGS_RC(ctx);
	u64 address = f->key ? word_at(f->key) : 0;
	f->key = at_most(result, 65535) << 48 | (address & ~0UL >> 16);
	report_call(c, f, CALL_RETURN, now);
	return 0;
}
