/* Has a function of its own, and loads a library when it is told its path; then calls both as often as it is told. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((noinline, noipa)) long own_take(long unit)
{
	return unit + 1;
}

int main(void)
{
	char line[4096];
	long (*late_take)(long) = 0;
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (line[0] == '/') {
			void *library = dlopen(line, RTLD_NOW);
			late_take = library ? (long (*)(long))dlsym(library, "late_take") : 0;
			if (!late_take)
				return 1;
		} else {
			for (long i = 0; i < atol(line); i++) {
				own_take(i);
				late_take(i);
			}
		}
		printf("done\n");
		fflush(stdout);
	}
	return 0;
}
