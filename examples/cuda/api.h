/* The parts of CUDA's and NCCL's interfaces that flowprof probes, as their documentation declares them. */
#include <stddef.h>

typedef struct { unsigned x, y, z; } dim3;
typedef void *cudaStream_t, *cudaEvent_t, *cudaGraphExec_t, *CUfunction, *ncclComm_t;
typedef unsigned long long CUdeviceptr;
typedef struct {
	dim3 gridDim, blockDim;
	size_t dynamicSmemBytes;
	cudaStream_t stream;
	void *attrs;
	unsigned numAttrs;
} cudaLaunchConfig_t;
typedef struct {
	unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
	cudaStream_t hStream;
	void *attrs;
	unsigned numAttrs;
} CUlaunchConfig;
enum { HostToHost, HostToDevice, DeviceToHost, DeviceToDevice, Default };

int cudaLaunchKernel(const void *, dim3, dim3, void **, size_t, cudaStream_t);
int cudaLaunchCooperativeKernel(const void *, dim3, dim3, void **, size_t, cudaStream_t);
int cudaLaunchKernelExC(const cudaLaunchConfig_t *, const void *, void **);
int cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
int cudaMemcpy(void *, const void *, size_t, int);
int cudaMemcpyAsync(void *, const void *, size_t, int, cudaStream_t);
typedef struct { void *array; size_t at[3]; void *ptr; size_t pitch, sizes[2]; } cudaSide; /* one side of a 3D copy */
typedef struct { cudaSide src, dst; size_t extent[3]; int kind; } cudaMemcpy3DParms;
typedef struct { cudaSide src; int srcDevice; cudaSide dst; int dstDevice; size_t extent[3]; } cudaMemcpy3DPeerParms;
int cudaMemcpy2D(void *, size_t, const void *, size_t, size_t, size_t, int);
int cudaMemcpy2DAsync(void *, size_t, const void *, size_t, size_t, size_t, int, cudaStream_t);
int cudaMemcpy3D(const cudaMemcpy3DParms *);
int cudaMemcpy3DAsync(const cudaMemcpy3DParms *, cudaStream_t);
int cudaMemcpyPeer(void *, int, const void *, int, size_t);
int cudaMemcpyPeerAsync(void *, int, const void *, int, size_t, cudaStream_t);
int cudaMemcpy3DPeer(const cudaMemcpy3DPeerParms *);
int cudaMemcpy3DPeerAsync(const cudaMemcpy3DPeerParms *, cudaStream_t);
int cudaMemset(void *, int, size_t);
int cudaMemsetAsync(void *, int, size_t, cudaStream_t);
int cudaMalloc(void **, size_t);
int cudaMallocAsync(void **, size_t, cudaStream_t);
int cudaFree(void *);
int cudaFreeAsync(void *, cudaStream_t);
int cudaHostAlloc(void **, size_t, unsigned);
int cudaMallocHost(void **, size_t);
int cudaFreeHost(void *);
int cudaHostRegister(void *, size_t, unsigned);
int cudaHostUnregister(void *);
int cudaStreamCreate(cudaStream_t *);
void __cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *, void *, void *, int *);
int cudaStreamBeginCapture(cudaStream_t, int);
int cudaStreamEndCapture(cudaStream_t, void **);
int cudaGraphInstantiate(cudaGraphExec_t *, void *, unsigned long long);
int cudaStreamSynchronize(cudaStream_t);
int cudaDeviceSynchronize(void);
int cudaEventCreate(cudaEvent_t *);
int cudaEventRecord(cudaEvent_t, cudaStream_t);
int cudaEventSynchronize(cudaEvent_t);
int cudaEventQuery(cudaEvent_t);
int cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned);

int cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, cudaStream_t, void **,
		   void **);
int cuModuleGetFunction(CUfunction *, void *, const char *);
int cuLibraryGetKernel(void **, void *, const char *);
int cuKernelGetFunction(CUfunction *, void *);
int cuLaunchKernelEx(const CUlaunchConfig *, CUfunction, void **, void **);
int cuMemcpyHtoDAsync_v2(CUdeviceptr, const void *, size_t, cudaStream_t);
int cuMemcpyDtoHAsync_v2(void *, CUdeviceptr, size_t, cudaStream_t);
enum { CU_HOST = 1, CU_DEVICE, CU_ARRAY, CU_UNIFIED };
typedef struct { int type; const void *host; CUdeviceptr device; void *array; } cuSide;
typedef struct {
	size_t srcAt[2];
	cuSide src;
	size_t srcPitch, dstAt[2];
	cuSide dst;
	size_t dstPitch, width, height;
} CUDA_MEMCPY2D;
typedef struct {
	size_t srcAt[4];
	cuSide src;
	void *srcContext;
	size_t srcPitch, srcHeight, dstAt[4];
	cuSide dst;
	void *dstContext;
	size_t dstPitch, dstHeight, width, height, depth;
} CUDA_MEMCPY3D;
int cuMemcpy2D_v2(const CUDA_MEMCPY2D *);
int cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *);
int cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *, cudaStream_t);
int cuMemcpy3D_v2(const CUDA_MEMCPY3D *);
int cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *, cudaStream_t);
int cuMemcpyPeer(CUdeviceptr, void *, CUdeviceptr, void *, size_t);
int cuMemcpyPeerAsync(CUdeviceptr, void *, CUdeviceptr, void *, size_t, cudaStream_t);
int cuMemcpy3DPeer(const CUDA_MEMCPY3D *);
int cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D *, cudaStream_t);
int cuMemAlloc_v2(CUdeviceptr *, size_t);
int cuMemFree_v2(CUdeviceptr);
int cuStreamSynchronize(cudaStream_t);
int cuCtxSynchronize(void);
int cuGraphLaunch(void *, cudaStream_t);

int ncclAllReduce(const void *, void *, size_t, int, int, ncclComm_t, cudaStream_t);
int ncclAllGather(const void *, void *, size_t, int, ncclComm_t, cudaStream_t);
int ncclReduceScatter(const void *, void *, size_t, int, int, ncclComm_t, cudaStream_t);
int ncclSend(const void *, size_t, int, int, ncclComm_t, cudaStream_t);
int ncclRecv(void *, size_t, int, int, ncclComm_t, cudaStream_t);
int ncclGroupStart(void);
int ncclGroupEnd(void);
