// The names of PyTorch's caching allocator for GPUs, and how its functions call each other; its blocks are numbers. With
// PROGRAM the program that uses it: 300 blocks on two GPUs, every tenth of which is kept.
#include <cstdio>

struct CUstream_st;
namespace c10::cuda::CUDACachingAllocator::Native {
struct AllocParams;
struct DeviceCachingAllocator {
	__attribute__((noipa)) bool alloc_block(AllocParams &, bool);
	__attribute__((noipa)) bool release_cached_blocks(const char *);
};
struct NativeCachingAllocator {
	DeviceCachingAllocator of_device;
	__attribute__((noipa)) void malloc(void **block, signed char device, unsigned long size, CUstream_st *stream);
	__attribute__((noipa)) void free(void *block);
	__attribute__((noipa)) void raw_delete(void *block);
};
extern NativeCachingAllocator allocator;
__attribute__((noipa)) void local_raw_delete(void *block);
#ifndef PROGRAM
static unsigned long last = 0x700000000000;
bool DeviceCachingAllocator::alloc_block(AllocParams &, bool) { return true; }
bool DeviceCachingAllocator::release_cached_blocks(const char *) { return true; }
void NativeCachingAllocator::malloc(void **block, signed char device, unsigned long size, CUstream_st *)
{
	if (size > 1 << 20)
		throw "no memory";
	if (size && size % 100 == 0)
		of_device.alloc_block(*reinterpret_cast<AllocParams *>(block), device);
	*block = size ? reinterpret_cast<void *>(last += 1 << 21) : nullptr;
}
void NativeCachingAllocator::free(void *) { asm volatile(""); }
void NativeCachingAllocator::raw_delete(void *block) { free(block); } // as a call: one of the two is enough
NativeCachingAllocator allocator;
void local_raw_delete(void *block) { asm volatile("" : : "r"(block)); } // with free inlined
#endif
} // namespace c10::cuda::CUDACachingAllocator::Native

#ifdef PROGRAM
using namespace c10::cuda::CUDACachingAllocator::Native;
int main()
{
	getchar();
	for (int i = 0; i < 300; i++) {
		void *block = nullptr;
		allocator.malloc(&block, i & 1, 512 + i, nullptr);
		if (i % 10 == 0)
			continue;
		if (i % 3 == 0)
			allocator.free(block);
		else if (i % 3 == 1)
			allocator.raw_delete(block);
		else
			local_raw_delete(block);
	}
	void *none = nullptr;
	allocator.malloc(&none, 0, 0, nullptr);
	allocator.free(nullptr);
	try {
		allocator.malloc(&none, 0, 1 << 30, nullptr);
	} catch (const char *) {
		allocator.of_device.release_cached_blocks("again");
	}
	puts("done");
	fflush(stdout);
	getchar();
}
#endif
