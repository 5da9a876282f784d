/* Waits for a line of input; then two functions take units by way of one wrapper, 100 times each. The wrapper keeps on its
 * stack where it is in a table that lies near the code, and a buffer, above which its caller is. */
#include <stdio.h>

#define SEEN __attribute__((noinline, noipa))

static int units, table[100];

SEEN int pool_get(int unit)
{
	return units += unit;
}

SEEN int wrapped_get(int unit)
{
	int *volatile place = &table[unit];
	char buffer[200];
	asm volatile("" ::"r"(buffer) : "memory");
	return *place = pool_get(unit) + 1;
}

SEEN int keeps(int unit)
{
	return wrapped_get(unit) + 1;
}

SEEN int gives_back(int unit)
{
	return wrapped_get(unit) + 2;
}

int main(void)
{
	getchar();
	for (int i = 0; i < 100; i++) {
		keeps(i);
		gives_back(i);
	}
	puts("done");
	fflush(stdout);
	getchar();
	return 0;
}
