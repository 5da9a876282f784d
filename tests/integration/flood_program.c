/* One thread keeps a lock for 50 ms, ten times, and another one asks for it; two more take locks of their own as fast as
 * they can meanwhile. Prints the contended lock's address, its keeper, and how often the two took theirs. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t begin;
static int keeper;
static long taken[2];
static volatile int over;

static void *keep(void *unused)
{
	keeper = gettid();
	pthread_barrier_wait(&begin);
	for (int i = 0; i < 10; i++) {
		pthread_mutex_lock(&lock);
		usleep(50000);
		pthread_mutex_unlock(&lock);
		usleep(5000);
	}
	over = 1;
	return unused;
}

static void *ask(void *unused)
{
	pthread_barrier_wait(&begin);
	while (!over) {
		usleep(10000);
		pthread_mutex_lock(&lock);
		pthread_mutex_unlock(&lock);
	}
	return unused;
}

static void *flood(void *number)
{
	pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER;
	pthread_barrier_wait(&begin);
	while (!over) {
		pthread_mutex_lock(&own);
		pthread_mutex_unlock(&own);
		taken[(long)number]++;
	}
	return 0;
}

int main(void)
{
	void *(*works[])(void *) = {keep, ask, flood, flood};
	pthread_t threads[4];
	getchar();
	pthread_barrier_init(&begin, 0, 4);
	for (long i = 0; i < 4; i++)
		pthread_create(&threads[i], 0, works[i], (void *)(i & 1));
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], 0);
	printf("%p %x %lx\n", (void *)&lock, keeper, taken[0] + taken[1]);
	fflush(stdout);
	getchar();
	return 0;
}
