/* Two threads take two locks in either order and wait for each other for ever. Prints both locks and both threads. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static pthread_mutex_t locks[2] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
static int tids[2];

static void *take_both(void *first)
{
	long own = (long)first;
	tids[own] = gettid();
	pthread_mutex_lock(&locks[own]);
	usleep(100000);
	pthread_mutex_lock(&locks[1 - own]);
	return 0;
}

int main(void)
{
	pthread_t threads[2];
	getchar();
	for (long i = 0; i < 2; i++)
		pthread_create(&threads[i], 0, take_both, (void *)i);
	usleep(800000);
	printf("%p %p %x %x\n", (void *)&locks[0], (void *)&locks[1], tids[0], tids[1]);
	fflush(stdout);
	getchar();
	return 0;
}
