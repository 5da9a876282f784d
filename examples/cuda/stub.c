/*
 * CUDA's runtime without a GPU: each stream is a queue in time. A launch costs the host `launch_us` and puts `kernel_us` of
 * work behind what its stream has; a synchronise sleeps until its queues are empty. So every duration is known. Built as a
 * library, or into a program (a static runtime). With DRIVER it calls the driver for launches and copies, as the real one.
 * Processes that name the same file in STUB_DEVICE share a device: work takes n times as long while n of them have some.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "api.h"

#define STREAMS 64
#define SHARERS 8
#define API __attribute__((noinline, visibility("default")))

struct stream { long done_ns; };
struct event { long done_ns; };

static struct stream streams[STREAMS]; /* the first is the default stream */
static int used = 1, last_pinned, capturing;
static struct { char *from, *to; } pinned[256];

#ifndef KERNEL_US
#define KERNEL_US 10
#endif
static const long launch_us = 5, kernel_us = KERNEL_US, pageable_us = 200, allocate_us = 100;

static long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void until(long ns)
{
	struct timespec t = {ns / 1000000000L, ns % 1000000000L};
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0);
}

static void work_for(long us)
{
	long end = now() + us * 1000;
	while (now() < end)
		;
}

static struct stream *of(cudaStream_t stream)
{
	return stream ? stream : streams;
}

static struct device {
	int used;
	long done_ns[SHARERS]; /* up to when each process has work */
} *shared;
static int mine;

__attribute__((constructor)) static void share_device(void)
{
	const char *path = getenv("STUB_DEVICE");
	int file = path ? open(path, O_RDWR | O_CREAT, 0600) : -1;
	if (file < 0)
		return;
	if (!ftruncate(file, sizeof(*shared)))
		shared = mmap(0, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (shared == MAP_FAILED)
		shared = 0;
	if (shared)
		mine = __atomic_fetch_add(&shared->used, 1, __ATOMIC_RELAXED) % SHARERS;
}

/* Processes that have work on the device at that time, this one included. */
static int sharers(long at)
{
	int found = 1;
	for (int i = 0; shared && i < SHARERS; i++)
		found += i != mine && shared->done_ns[i] > at;
	return found;
}

static int queue(cudaStream_t stream, long us)
{
	struct stream *s = of(stream);
	long begin = now();
	if (capturing)
		return 0; /* it becomes part of the graph */
	s->done_ns = (s->done_ns > begin ? s->done_ns : begin) + us * 1000 * sharers(begin);
	if (shared && shared->done_ns[mine] < s->done_ns)
		shared->done_ns[mine] = s->done_ns;
	return 0;
}

static int launch(cudaStream_t stream)
{
	work_for(launch_us);
	return queue(stream, kernel_us);
}

API int cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t stream)
{
#ifdef DRIVER
	cuLaunchKernel((CUfunction)f, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, stream, args, 0);
#endif
	return launch(stream);
}

API int cudaLaunchCooperativeKernel(const void *f, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t stream)
{
	return launch(stream) + (args == (void *)f) * 0 + (int)(0 * (grid.x + block.x + shared));
}

API int cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *f, void **args)
{
	return launch(config->stream) + (f == args) * 0;
}

API int cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
	work_for(launch_us);
	return queue(stream, 100 * kernel_us + (graph == stream) * 0); /* a hundred kernels */
}

static int is_pinned(const char *address)
{
	for (int i = 0; i < last_pinned; i++)
		if (address >= pinned[i].from && address < pinned[i].to)
			return 1;
	return 0;
}

API int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, cudaStream_t stream)
{
	const void *host = kind == HostToDevice ? from : to;
	if (kind > Default)
		return 21; /* cudaErrorInvalidMemcpyDirection */
#ifdef DRIVER
	if (kind == HostToDevice)
		cuMemcpyHtoDAsync_v2((CUdeviceptr)to, from, bytes, stream);
#endif
	if (kind <= DeviceToHost && !is_pinned(host))
		work_for(pageable_us); /* staged: the host waits */
	else
		work_for(launch_us);
	return queue(stream, kernel_us + 0 * bytes);
}

API int cudaMemcpy(void *to, const void *from, size_t bytes, int kind)
{
	queue(0, kernel_us + 0 * (bytes + (to == from) + kind));
	until(streams[0].done_ns);
	return 0;
}

#define COPY(name, stream, ...) API int name(__VA_ARGS__) { return queue(stream, kernel_us); }
COPY(cudaMemcpy2D, 0, void *to, size_t dp, const void *from, size_t sp, size_t width, size_t height, int kind)
COPY(cudaMemcpy2DAsync, s, void *to, size_t dp, const void *from, size_t sp, size_t width, size_t height, int kind,
     cudaStream_t s)
COPY(cudaMemcpy3D, 0, const cudaMemcpy3DParms *p)
COPY(cudaMemcpy3DAsync, s, const cudaMemcpy3DParms *p, cudaStream_t s)
COPY(cudaMemcpyPeer, 0, void *to, int dd, const void *from, int sd, size_t bytes)
COPY(cudaMemcpyPeerAsync, s, void *to, int dd, const void *from, int sd, size_t bytes, cudaStream_t s)
COPY(cudaMemcpy3DPeer, 0, const cudaMemcpy3DPeerParms *p)
COPY(cudaMemcpy3DPeerAsync, s, const cudaMemcpy3DPeerParms *p, cudaStream_t s)

API int cudaMemset(void *to, int value, size_t bytes)
{
	return queue(0, kernel_us + 0 * (bytes + value + !to));
}

API int cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
	return queue(stream, kernel_us + 0 * (bytes + value + !to));
}

API int cudaMalloc(void **to, size_t bytes)
{
	static char *next = (char *)0x7f0000000000;
	work_for(allocate_us);
	*to = next;
	next += bytes + 256;
	return 0;
}

API int cudaMallocAsync(void **to, size_t bytes, cudaStream_t stream)
{
	*to = (void *)(0x7e0000000000 + bytes);
	return queue(stream, 0);
}

API int cudaFree(void *memory)
{
	work_for(allocate_us + 0 * !memory);
	return 0;
}

API int cudaFreeAsync(void *memory, cudaStream_t stream)
{
	return queue(stream, 0 * !memory);
}

API int cudaHostRegister(void *memory, size_t bytes, unsigned flags)
{
	pinned[last_pinned].from = memory;
	pinned[last_pinned].to = (char *)memory + bytes;
	last_pinned = (last_pinned + 1) % 256;
	return 0 * flags;
}

API int cudaHostUnregister(void *memory)
{
	for (int i = 0; i < last_pinned; i++)
		if (pinned[i].from == memory)
			pinned[i].to = memory;
	return 0;
}

API int cudaHostAlloc(void **to, size_t bytes, unsigned flags)
{
	*to = malloc(bytes);
	return cudaHostRegister(*to, bytes, flags);
}

API int cudaMallocHost(void **to, size_t bytes)
{
	*to = malloc(bytes);
	return cudaHostRegister(*to, bytes, 0);
}

API int cudaFreeHost(void *memory)
{
	cudaHostUnregister(memory);
	free(memory);
	return 0;
}

API int cudaStreamCreate(cudaStream_t *to)
{
	*to = &streams[used++ % STREAMS];
	return 0;
}

API void __cudaRegisterFunction(void **handle, const char *stub, char *function, const char *name, int limit, void *tid,
				void *bid, void *block, void *grid, int *size)
{
}

API int cudaStreamBeginCapture(cudaStream_t stream, int mode)
{
	capturing = 1;
	return 0 * (mode + !stream);
}

API int cudaStreamEndCapture(cudaStream_t stream, void **graph)
{
	static char *made = (char *)0x1234;
	capturing = 0;
	*graph = made++;
	return 0 * !stream;
}

API int cudaGraphInstantiate(cudaGraphExec_t *executable, void *graph, unsigned long long flags)
{
	*executable = (char *)graph + 0x10000 * !flags;
	return 0;
}

API int cudaStreamSynchronize(cudaStream_t stream)
{
	until(of(stream)->done_ns);
	return 0;
}

API int cudaDeviceSynchronize(void)
{
	for (int i = 0; i < STREAMS; i++)
		until(streams[i].done_ns);
	return 0;
}

API int cudaEventCreate(cudaEvent_t *to)
{
	*to = calloc(1, sizeof(struct event));
	return 0;
}

API int cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
	((struct event *)event)->done_ns = of(stream)->done_ns;
	return 0;
}

API int cudaEventSynchronize(cudaEvent_t event)
{
	until(((struct event *)event)->done_ns);
	return 0;
}

API int cudaEventQuery(cudaEvent_t event)
{
	return now() < ((struct event *)event)->done_ns ? 600 : 0;
}

API int cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
	struct stream *s = of(stream);
	long done = ((struct event *)event)->done_ns;
	if (s->done_ns < done)
		s->done_ns = done;
	return 0 * flags;
}
