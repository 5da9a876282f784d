/*
 * Does as it is told on its input: `scenario times`, answers with 0 when done. What each scenario calls is exactly known.
 * The functions with C++ names are what nvcc makes of kernels: their addresses are what a launch is given.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api.h"

#define KERNEL(name, symbol) __attribute__((noinline)) void name(void) __asm__(symbol); void name(void) { __asm__ volatile("# " #name); }

KERNEL(rms_norm, "_Z8rms_normPKfPfi")
KERNEL(gemm, "_ZN4gemm6kernelIfLi128EEEvPKT_S3_PS1_")
KERNEL(odd, "\"odd <b>name</b> \033[31m\"")

static dim3 grid = {7, 5, 3}, block = {256, 2, 1};
static cudaStream_t a, b;
static cudaEvent_t event;

#ifndef REAL
/* what nvcc makes of a program with kernels: their stubs under their names, told when it is loaded */
__attribute__((constructor)) static void register_kernels(void)
{
	static void *handle;
	__cudaRegisterFunction(&handle, (char *)rms_norm, "_Z8rms_normPKfPfi", "_Z8rms_normPKfPfi", -1, 0, 0, 0, 0, 0);
	__cudaRegisterFunction(&handle, (char *)gemm, "_ZN4gemm6kernelIfLi128EEEvPKT_S3_PS1_",
			       "_ZN4gemm6kernelIfLi128EEEvPKT_S3_PS1_", -1, 0, 0, 0, 0, 0);
}
#endif

static void nap(long us)
{
	struct timespec t = {0, us * 1000};
	nanosleep(&t, 0);
}

static void launch(void *kernel, cudaStream_t stream)
{
	cudaLaunchKernel(kernel, grid, block, 0, 4096, stream);
}

/* every function once: 26 calls of CUDA, whether they succeed or not */
static void everything(cudaStream_t stream)
{
	cudaLaunchConfig_t config = {grid, block, 1024, stream, 0, 0};
	static char host[1 << 16];
	void *memory = 0, *pinned = 0;
	launch((void *)rms_norm, stream);
	cudaLaunchCooperativeKernel((void *)gemm, grid, block, 0, 0, stream);
	cudaLaunchKernelExC(&config, (void *)gemm, 0);
	cudaMalloc(&memory, 12345);
	cudaMallocAsync(&memory, 23456, stream);
	cudaHostAlloc(&pinned, 1 << 16, 0);
	cudaMemcpyAsync(memory, host, 1001, HostToDevice, stream);
	cudaMemcpyAsync(host, memory, 1002, DeviceToHost, stream);
	cudaMemcpyAsync(memory, memory, 1003, DeviceToDevice, stream);
	cudaMemcpyAsync(memory, pinned ? pinned : host, 1004, HostToDevice, stream);
	cudaMemcpy(host, memory, 1005, DeviceToHost);
	cudaMemset(memory, 0, 1006);
	cudaMemsetAsync(memory, 0, 1007, stream);
	cudaEventRecord(event, stream);
	cudaEventQuery(event);
	cudaEventSynchronize(event);
	cudaStreamWaitEvent(stream, event, 0);
	cudaGraphLaunch((void *)0x1234, stream);
	cudaStreamSynchronize(stream);
	cudaDeviceSynchronize();
	cudaFreeAsync(memory, stream);
	cudaFree(memory);
	cudaFreeHost(pinned);
	cudaHostRegister(host, sizeof(host), 0);
	cudaMemcpyAsync(memory, host + 100, 1008, HostToDevice, stream);
	cudaHostUnregister(host);
}

/* every copy that is no plain one, and two of arrays, whose elements have a size that is not said */
static void copies(cudaStream_t s)
{
	static char host[1 << 16];
	char *device = (char *)0x7f0000000000;
	cudaMemcpy3DParms p = {.src.ptr = host, .dst.ptr = device, .extent = {100, 5, 3}, .kind = HostToDevice};
	cudaMemcpy3DPeerParms q = {.src.ptr = device, .dst.ptr = device + 4096, .extent = {100, 5, 4}};
	cudaMemcpy2D(host, 512, device, 256, 200, 7, DeviceToHost);
	cudaMemcpy2DAsync(device, 512, host, 256, 200, 8, HostToDevice, s);
	cudaMemcpy2DAsync(device, 512, host, 256, ~0ul, 8, Default, s);
	cudaMemcpy3D(&p);
	p.extent[2] = 2;
	cudaMemcpy3DAsync(&p, s);
	p.dst.array = device;
	cudaMemcpy3DAsync(&p, s);
	cudaMemcpyPeer(device, 0, device, 1, 3001);
	cudaMemcpyPeerAsync(device, 0, device, 1, 3002, s);
	cudaMemcpy3DPeer(&q);
	cudaMemcpy3DPeerAsync(&q, s);
}

#ifdef DRIVER
static void driver_copies(cudaStream_t s)
{
	static char host[1 << 16];
	CUdeviceptr device = 0x7f0000000000;
	CUDA_MEMCPY2D p = {.src = {CU_HOST, host, 0, 0}, .dst = {CU_DEVICE, 0, device, 0}, .width = 200, .height = 7};
	CUDA_MEMCPY3D q = {.src = {CU_DEVICE, 0, device, 0}, .dst = {CU_HOST, host, 0, 0}, .width = 100, .height = 5, .depth = 3};
	cuMemcpy2D_v2(&p);
	cuMemcpy2DUnaligned_v2(&p);
	cuMemcpy2DAsync_v2(&p, s);
	p.src.type = CU_UNIFIED;
	cuMemcpy2DAsync_v2(&p, s);
	cuMemcpy3D_v2(&q);
	cuMemcpy3DAsync_v2(&q, s);
	q.dst.type = CU_ARRAY;
	cuMemcpy3DAsync_v2(&q, s);
	cuMemcpyPeer(device, host, device, host, 4001);
	cuMemcpyPeerAsync(device, host, device, host, 4002, s);
	cuMemcpy3DPeer(&q);
	cuMemcpy3DPeerAsync(&q, s);
}
#endif

/* work for a, a wait for it, then work for b, which could have run meanwhile */
static void serialised(int ordered)
{
	for (int i = 0; i < 20; i++)
		launch((void *)gemm, a);
	if (ordered)
		cudaEventRecord(event, a);
	cudaStreamSynchronize(a);
	if (ordered)
		cudaStreamWaitEvent(b, event, 0);
	for (int i = 0; i < 20; i++)
		launch((void *)rms_norm, b);
	cudaStreamSynchronize(b);
}

static void wild(void)
{
	void *p = 0;
	dim3 huge = {~0u, ~0u, ~0u};
	cudaLaunchKernel((void *)odd, huge, huge, 0, ~0ul, a);
	cudaLaunchKernel((void *)0x41414141414141, huge, huge, 0, 0, a);
	cudaLaunchKernel(0, grid, block, 0, 0, a);
	cudaMemcpyAsync((void *)-1, (void *)~7ul, ~0ul, 77, a);
	cudaMallocAsync(&p, ~0ul >> 1, a);
	cudaFreeAsync((void *)0xdeadbeefdeadbeef, a);
}

int main(void)
{
	char line[256], what[32];
	int times;
	void *memory = 0, *pinned = 0, *later = 0, *graph = 0;
	static char host[1 << 20];
#ifdef REAL
	a = (void *)0xa000, b = (void *)0xb000, event = (void *)0xe000; /* never looked at: every call fails before */
#else
	cudaStreamCreate(&a);
	cudaStreamCreate(&b);
	cudaEventCreate(&event);
	cudaHostAlloc(&pinned, sizeof(host), 0);
#endif
	while (printf("%p %p\n", a, b), fflush(stdout), fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "%31s %d", what, &times) != 2)
			return 2;
		for (int i = 0; i < times; i++) {
			if (!strcmp(what, "everything")) {
				everything(a);
			} else if (!strcmp(what, "copies")) {
				copies(a);
#ifdef DRIVER
			} else if (!strcmp(what, "driver_copies")) {
				driver_copies(b);
#endif
			} else if (!strcmp(what, "serialised") || !strcmp(what, "ordered")) {
				serialised(*what == 'o');
			} else if (!strcmp(what, "tiny")) { /* 200 launches that the device keeps up with */
				for (int j = 0; j < 200; j++)
					launch((void *)rms_norm, a);
				cudaStreamSynchronize(a);
			} else if (!strcmp(what, "drained")) { /* 1 ms of the host's own between a wait and the next launch */
				launch((void *)gemm, a);
				cudaStreamSynchronize(a);
				nap(1000);
			} else if (!strcmp(what, "pageable")) {
				cudaMemcpyAsync((void *)0x7f0000000000, host, sizeof(host), HostToDevice, a);
				cudaStreamSynchronize(a);
			} else if (!strcmp(what, "pinned")) {
				cudaMemcpyAsync((void *)0x7f0000000000, (char *)pinned + 64, 4096, HostToDevice, a);
				cudaStreamSynchronize(a);
			} else if (!strcmp(what, "allocate")) {
				cudaMalloc(&memory, 1 << 16);
				launch((void *)rms_norm, a);
				cudaFree(memory);
			} else if (!strcmp(what, "graph")) {
				cudaGraphLaunch((void *)0x1234, a);
				cudaStreamSynchronize(a);
			} else if (!strcmp(what, "capture")) {
				cudaStreamBeginCapture(a, 0);
				for (int j = 0; j < 8; j++)
					launch((void *)rms_norm, a);
				cudaStreamEndCapture(a, &memory);
				cudaGraphInstantiate(&graph, memory, 0);
			} else if (!strcmp(what, "replay")) { /* what was captured last */
				cudaGraphLaunch(graph, a);
				cudaStreamSynchronize(a);
			} else if (!strcmp(what, "fail")) { /* a copy in no direction, among copies in one */
				cudaMemcpyAsync((void *)0x7f0000000000, pinned, 4096, 77, a);
				cudaMemcpyAsync((void *)0x7f0000000000, pinned, 4096, HostToDevice, a);
				cudaStreamSynchronize(a);
			} else if (!strcmp(what, "launch")) {
				launch((void *)rms_norm, a);
#ifdef DRIVER
			} else if (!strcmp(what, "driver")) { /* a program that calls the driver itself */
				CUlaunchConfig config = {7, 5, 3, 256, 2, 1, 512, b, 0, 0};
				cuLaunchKernel((void *)0x5000, 7, 5, 3, 256, 2, 1, 2048, b, 0, 0);
				cuLaunchKernelEx(&config, (void *)0x5000, 0, 0);
				cuMemcpyHtoDAsync_v2(0x7f0000000000, host, 2001, b);
				cuStreamSynchronize(b);
#endif
#ifdef DRIVER
			} else if (!strcmp(what, "named")) { /* as Triton does, and as programs with libraries of kernels do */
				CUfunction first = 0, second = 0, kernel = 0;
				char longest[600];
				memset(longest, 'x', sizeof(longest) - 1);
				longest[sizeof(longest) - 1] = 0;
				cuModuleGetFunction(&first, (void *)0x100000, "triton_poi_fused_add_0");
				cuLaunchKernel(first, 7, 5, 3, 256, 2, 1, 0, b, 0, 0);
				cuLibraryGetKernel(&kernel, (void *)0x200000, "_Z8rms_normPKfPfi");
				cuKernelGetFunction(&second, kernel);
				cuLaunchKernel(second, 7, 5, 3, 256, 2, 1, 0, b, 0, 0);
				cuModuleGetFunction(&first, (void *)0x100000, "triton_red_fused_sum_1");
				cuLaunchKernel(first, 7, 5, 3, 256, 2, 1, 0, b, 0, 0);
				cuModuleGetFunction(&first, (void *)0x300000, longest);
				cuLaunchKernel(first, 7, 5, 3, 256, 2, 1, 0, b, 0, 0);
				cuStreamSynchronize(b);
#endif
#ifdef NCCL
			} else if (!strcmp(what, "collectives")) {
				void *comm = (void *)0xc0117;
				ncclAllReduce(host, host, 1000, 7, 0, comm, a);     /* f32: 4000 bytes */
				ncclAllGather(host, host, 1000, 6, comm, a);        /* f16: 2000 */
				ncclReduceScatter(host, host, 1000, 9, 0, comm, a); /* bf16: 2000 */
				ncclGroupStart();
				ncclSend(host, 500, 8, 1, comm, a); /* f64: 4000 */
				ncclRecv(host, 500, 0, 1, comm, a); /* i8: 500 */
				ncclGroupEnd();
				cudaStreamSynchronize(a);
#endif
			} else if (!strcmp(what, "wild")) {
				wild();
			} else if (!strcmp(what, "load")) { /* a library that comes late */
				later = dlopen("libnccl.so.2", RTLD_NOW);
				if (!later)
					return 4;
			} else if (!strcmp(what, "late")) {
				int (*reduce)(void *, void *, size_t, int, int, void *, void *) = dlsym(later, "ncclAllReduce");
				reduce(host, host, 1000, 7, 0, (void *)0xc0117, a);
			} else {
				return 3;
			}
		}
	}
	return 0;
}
