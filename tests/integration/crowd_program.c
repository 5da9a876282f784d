/* Waits for a line of input; then so many threads enter a function, all are in it at a time, and all leave it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define SEEN __attribute__((noinline, noipa))

static pthread_barrier_t together;

SEEN int pool_get(long unit)
{
	pthread_barrier_wait(&together);
	return unit + 1;
}

static void *work(void *unit)
{
	return (void *)(long)pool_get((long)unit);
}

int main(int count, char **options)
{
	long many = count > 1 ? atol(options[1]) : 5000;
	pthread_t *threads = calloc(many, sizeof(*threads));
	pthread_attr_t small;
	getchar();
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 32768);
	pthread_barrier_init(&together, NULL, many);
	for (long i = 0; i < many; i++)
		if (pthread_create(&threads[i], &small, work, (void *)i))
			return 1;
	for (long i = 0; i < many; i++)
		pthread_join(threads[i], NULL);
	puts("done");
	fflush(stdout);
	getchar();
	return 0;
}
