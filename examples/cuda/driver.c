/* CUDA's driver without a GPU: every call succeeds at once. Built as libcuda.so.1. */
#include "api.h"

#define API __attribute__((noinline, visibility("default")))

static int volatile calls;

API int cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
		       unsigned shared, cudaStream_t stream, void **args, void **extra)
{
	calls += (f == stream) * (gx + gy + gz + bx + by + bz + shared) + (args == extra);
	return 0;
}

API int cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **args, void **extra)
{
	calls += (config == f) + (args == extra);
	return 0;
}

/* handles tell modules apart, and the name's length */
API int cuModuleGetFunction(CUfunction *to, void *module, const char *name)
{
	int length = 0;
	while (name[length])
		length++;
	*to = (char *)module + length;
	return 0;
}

API int cuLibraryGetKernel(void **to, void *library, const char *name)
{
	return cuModuleGetFunction(to, library, name);
}

API int cuKernelGetFunction(CUfunction *to, void *kernel)
{
	*to = (char *)kernel + 0x1000;
	return 0;
}

API int cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, cudaStream_t stream)
{
	calls += (to == bytes) + (from == stream);
	return 0;
}

API int cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, cudaStream_t stream)
{
	calls += (from == bytes) + (to == stream);
	return 0;
}

#define COPY(name, ...) API int name(__VA_ARGS__) { return calls++ * 0; }
COPY(cuMemcpy2D_v2, const CUDA_MEMCPY2D *p)
COPY(cuMemcpy2DUnaligned_v2, const CUDA_MEMCPY2D *p)
COPY(cuMemcpy2DAsync_v2, const CUDA_MEMCPY2D *p, cudaStream_t s)
COPY(cuMemcpy3D_v2, const CUDA_MEMCPY3D *p)
COPY(cuMemcpy3DAsync_v2, const CUDA_MEMCPY3D *p, cudaStream_t s)
COPY(cuMemcpyPeer, CUdeviceptr to, void *dc, CUdeviceptr from, void *sc, size_t bytes)
COPY(cuMemcpyPeerAsync, CUdeviceptr to, void *dc, CUdeviceptr from, void *sc, size_t bytes, cudaStream_t s)
COPY(cuMemcpy3DPeer, const CUDA_MEMCPY3D *p)
COPY(cuMemcpy3DPeerAsync, const CUDA_MEMCPY3D *p, cudaStream_t s)

API int cuMemAlloc_v2(CUdeviceptr *to, size_t bytes)
{
	*to = 0x7d0000000000 + bytes;
	return 0;
}

API int cuMemFree_v2(CUdeviceptr memory)
{
	calls += !memory;
	return 0;
}

API int cuStreamSynchronize(cudaStream_t stream)
{
	calls += !stream;
	return 0;
}

API int cuCtxSynchronize(void)
{
	calls++;
	return 0;
}

API int cuGraphLaunch(void *graph, cudaStream_t stream)
{
	calls += graph == stream;
	return 0;
}
