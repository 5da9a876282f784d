/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * torch's operators with the shapes of their arguments. Compiled behind calls.bpf.c.
 *
 * Which arguments of which operator are read, and from where, the loader says per site (profiler/torch/schemas.py), and
 * where a TensorImpl keeps what per process (profiler/torch/layout.py). Distinct sets of arguments are kept in a map under
 * a key; a call's event carries the key, and the reader looks up those that it has not seen.
 */
#define MAX_ARGS 8
#define MAX_DIMS 5 /* as many as a TensorImpl has room for in itself */

enum argument {
	TENSOR = 1, MAYBE_TENSOR, TENSORS, NUMBER, NUMBERS, FLAG, TENSORS_AT, /* a c10::IListRef */
	OLD_MAYBE_TENSOR /* a c10::optional: whether it is there stands before it */
};

struct argument_place {
	u8 kind;
	u8 where; /* 0-5: the register for whole numbers; 6 …: the word on the stack behind the return address */
	u8 length; /* of lists: where their length is */
	u8 index; /* in the operator's schema */
};

struct torch_site {
	struct argument_place args[MAX_ARGS];
};

struct torch_layout {
	u32 ndim, sizes, dtype; /* offsets in a TensorImpl; its strides follow its sizes */
	u32 outside;            /* of more than MAX_DIMS dimensions there is a pointer to both in their place */
};

struct torch_arg {
	u8 kind, index, ndim, dtype; /* kind 0: none; ndim 255: too many; dtype 255: no tensor */
	u32 length;                  /* of lists */
	s64 words[2 * MAX_DIMS];     /* sizes[MAX_DIMS] and strides[MAX_DIMS]; more than MAX_DIMS sizes alone; numbers */
};

struct list_ref { /* c10::IListRef<Tensor>: another payload where the tag is not 0 */
	u64 data, length, tag;
};

struct torch_args {
	u64 site;
	struct torch_arg args[MAX_ARGS];
};

BPF_ARRAY(torch_sites, struct torch_site, MAX_SITES);
BPF_HASH(torch_layouts, u32, struct torch_layout, 1024);         /* by process */
BPF_TABLE("lru_hash", u64, struct torch_args, torch_args_seen, 8192);
BPF_HASH(torch_scratch, u32, struct torch_args, 4096); /* by thread: too large for the stack */
BPF_ARRAY(no_torch_args, struct torch_args, 1);

struct registers {
	u64 value[8]; /* six of them are used */
	u64 sp;
};

static inline u64 argument_word(struct registers *r, u32 where)
{
	u64 word = 0, place = where;
	if (place < 6) {
		asm volatile("" : "+r"(place));
		return r->value[place & 7];
	}
	read_user(&word, sizeof(word), (void *)(r->sp + 8 + 8 * ((place - 6) & 31)));
	return word;
}

static inline void read_tensor(struct torch_arg *arg, u64 reference, struct torch_layout *l)
{
	u64 impl = 0, ndim = 0;
	u16 dtype = 0;
	read_user(&impl, sizeof(impl), (void *)reference);
	if (!impl || read_user(&ndim, sizeof(ndim), (void *)(impl + l->ndim)))
		return;
	read_user(&dtype, sizeof(dtype), (void *)(impl + l->dtype));
	u64 at = impl + l->sizes;
	arg->dtype = dtype;
	arg->ndim = 255;
	if (ndim > 2 * MAX_DIMS || (ndim > MAX_DIMS && !l->outside))
		return;
	if (ndim > MAX_DIMS) /* there are at least as many words as are read */
		read_user(&at, sizeof(at), (void *)at);
	if (read_user(arg->words, sizeof(arg->words), (void *)at))
		return;
	arg->ndim = ndim;
#pragma unroll
	for (int i = 0; i < 2 * MAX_DIMS; i++)
		if ((ndim > MAX_DIMS ? i : i % MAX_DIMS) >= ndim)
			arg->words[i] = 0; /* what is left there from before is no difference */
}

static inline u64 read_arguments(struct pt_regs *ctx, u32 site_number)
{
	u64 pid_tid = bpf_get_current_pid_tgid();
	u32 tid = pid_tid, pid = pid_tid >> 32, zero = 0;
	struct torch_site *site = torch_sites.lookup(&site_number);
	struct torch_layout *l = torch_layouts.lookup(&pid);
	struct torch_args *none = no_torch_args.lookup(&zero);
	if (!site || !l || !none || !site->args[0].kind)
		return 0;
	struct torch_args *into = torch_scratch.lookup(&tid);
	if (!into) {
		torch_scratch.update(&tid, none);
		into = torch_scratch.lookup(&tid);
		if (!into)
			return 0;
	}
	into->site = site_number;
	struct registers registers = {
		{PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx), PT_REGS_PARM5(ctx),
		 PT_REGS_PARM6(ctx)},
		PT_REGS_SP(ctx),
	};
	u32 used = 0;
	struct list_ref list = {};
#pragma unroll
	for (int i = 0; i < MAX_ARGS; i++) {
		struct argument_place place = site->args[i];
		struct torch_arg *arg = &into->args[i];
		if (!place.kind)
			break;
		__builtin_memset(arg, 0, sizeof(*arg)); /* of the call before */
		u64 word = argument_word(&registers, place.where), tensor = 0;
		arg->kind = place.kind;
		arg->index = place.index;
		arg->dtype = 255;
		if (place.kind == TENSOR) {
			tensor = word;
		} else if (place.kind == MAYBE_TENSOR) {
			u8 there = 0;
			read_user(&there, 1, (void *)(word + 8));
			tensor = there & 1 ? word : 0;
		} else if (place.kind == OLD_MAYBE_TENSOR) {
			u8 there = 0;
			read_user(&there, 1, (void *)word);
			tensor = there & 1 ? word + 8 : 0;
			arg->kind = MAYBE_TENSOR;
		} else if (place.kind == TENSORS || place.kind == TENSORS_AT) {
			list.data = word;
			list.length = argument_word(&registers, place.length);
			if (place.kind == TENSORS_AT && (read_user(&list, sizeof(list), (void *)word) || (u32)list.tag))
				list.length = 0;
			tensor = list.length ? list.data : 0;
			arg->kind = TENSORS;
			arg->length = list.length;
		} else if (place.kind == NUMBERS) {
			u64 count = arg->length = argument_word(&registers, place.length);
			asm volatile("" : "+r"(count)); /* else LLVM 19 leaves the mask out, which the verifier needs */
			if (arg->length && arg->length <= MAX_DIMS)
				read_user(arg->words, (count & 7) * 8, (void *)word);
		} else if (place.kind == FLAG) {
			arg->words[0] = word & 1;
		} else {
			arg->words[0] = word;
		}
		if (tensor)
			read_tensor(arg, tensor, l);
		used = i + 1;
	}
	/* Lists come last: the other tensors of the last one, as far as there is room. */
#pragma unroll
	for (int i = 1; i < MAX_ARGS; i++) {
		struct torch_arg *arg = &into->args[i], *before = &into->args[i - 1];
		if (i < used)
			continue;
		__builtin_memset(arg, 0, sizeof(*arg));
		if (before->kind != TENSORS || list.length < 2)
			break;
		list.data += 8;
		list.length--;
		arg->kind = TENSORS;
		arg->index = before->index;
		arg->dtype = 255;
		arg->length = before->length;
		read_tensor(arg, list.data, l);
	}
	u64 key = 0x9E3779B97F4A7C15UL ^ site_number, *words = (u64 *)into->args;
#pragma unroll
	for (int i = 0; i < MAX_ARGS; i++) {
		if (!into->args[i].kind)
			break;
#pragma unroll
		for (int j = 0; j < sizeof(struct torch_arg) / 8; j++) {
			key = (key ^ words[i * (sizeof(struct torch_arg) / 8) + j]) * 0xD6E8FEB86659FD93UL;
			key ^= key >> 32;
		}
	}
	key |= !key;
	if (!torch_args_seen.lookup(&key))
		torch_args_seen.update(&key, into);
	return key;
}

int torch_begin(struct pt_regs *ctx)
{
	struct frame *f = enter_call(ctx, 0);
	if (f)
		f->key = read_arguments(ctx, f->site);
	return 0;
}

#define NAME_BYTES 128

/*
 * An operator that Python calls by torch.ops: torch::jit::invokeOperatorFromPython(c10::ArrayRef<std::shared_ptr<Operator>>,
 * …), in older versions (std::vector<…> const&, …), with its result written where the first argument says. An Operator
 * begins with the dispatcher's handle of it, that with a pointer to what the dispatcher keeps of it, and that with its
 * name, a std::string: pointer and length. One that TorchScript alone knows begins otherwise, and its name is not read.
 * The name is kept as arguments are, under a key.
 */
static inline u64 read_operator_name(struct pt_regs *ctx, u32 site_number)
{
	u64 pid_tid = bpf_get_current_pid_tgid(), name[2] = {};
	u32 tid = pid_tid, zero = 0;
	u64 kept = word_at(word_at(PT_REGS_PARM2(ctx)));
	read_user(name, sizeof(name), (void *)kept);
	if (name[1] - 1 >= NAME_BYTES - 1) { /* of a vector it is one step further */
		kept = name[0];
		if (read_user(name, sizeof(name), (void *)kept) || name[1] - 1 >= NAME_BYTES - 1)
			return 0;
	}
	u64 key = (kept ^ (pid_tid >> 32) << 44) * 0xD6E8FEB86659FD93UL;
	key |= !key;
	if (torch_args_seen.lookup(&key))
		return key;
	struct torch_args *none = no_torch_args.lookup(&zero);
	if (!none)
		return 0;
	torch_scratch.update(&tid, none);
	struct torch_args *into = torch_scratch.lookup(&tid);
	u64 length = name[1];
	asm volatile("" : "+r"(length)); /* else the mask, which the verifier needs, is left out */
	if (!into || read_user(into->args, length & (NAME_BYTES - 1), (void *)name[0]))
		return 0;
	into->site = site_number;
	torch_args_seen.update(&key, into);
	return key;
}

int torch_named(struct pt_regs *ctx)
{
	struct frame *f = enter_call(ctx, 0);
	if (f)
		f->key = read_operator_name(ctx, f->site);
	return 0;
}
