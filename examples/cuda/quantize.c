/* Loads a CUDA library that others wrote and calls one of its functions for each line of its input: one launch each. */
#include <dlfcn.h>
#include <stdio.h>

int main(void)
{
	char line[64];
	static float values[4096], scales[64], code[256];
	static unsigned char result[4096];
	void *library = dlopen("libkernels.so", RTLD_LAZY);
	void (*quantize)(void *, void *, void *, void *, int, int);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	quantize = dlsym(library, "cquantize_blockwise_fp32");
	while (printf("0 0\n"), fflush(stdout), fgets(line, sizeof(line), stdin))
		quantize(code, values, scales, result, 64, 4096); /* without a GPU the library ends the program here */
	return 0;
}
