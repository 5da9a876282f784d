/* NCCL without GPUs: a collective launches its kernel at once, or, within a group, at the group's end. libnccl.so.2. */
#include "api.h"

#define API __attribute__((noinline, visibility("default")))

static int depth, waiting;
static cudaStream_t last;

__attribute__((noinline)) static void ncclDevKernel_Generic(void)
{
	__asm__ volatile("");
}

static int enqueue(cudaStream_t stream, int different)
{
	dim3 one = {1 + 0 * different, 1, 1};
	last = stream;
	if (depth) {
		waiting++;
		return 0;
	}
	return cudaLaunchKernel((void *)ncclDevKernel_Generic, one, one, 0, 0, stream);
}

API int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, ncclComm_t comm, cudaStream_t stream)
{
	return enqueue(stream, count + type + op + (from == to) + !comm);
}

API int ncclAllGather(const void *from, void *to, size_t count, int type, ncclComm_t comm, cudaStream_t stream)
{
	return enqueue(stream, count + type + (from == to) + !comm);
}

API int ncclReduceScatter(const void *from, void *to, size_t count, int type, int op, ncclComm_t comm, cudaStream_t stream)
{
	return enqueue(stream, count + type + op + (from == to) + !comm);
}

API int ncclSend(const void *from, size_t count, int type, int peer, ncclComm_t comm, cudaStream_t stream)
{
	return enqueue(stream, count + type + peer + !from + !comm);
}

API int ncclRecv(void *to, size_t count, int type, int peer, ncclComm_t comm, cudaStream_t stream)
{
	return enqueue(stream, count + type + peer + !to + !comm);
}

API int ncclGroupStart(void)
{
	depth++;
	return 0;
}

API int ncclGroupEnd(void)
{
	if (!--depth && waiting) {
		waiting = 0;
		return enqueue(last, 0);
	}
	return 0;
}
