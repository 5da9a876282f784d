/* One thread takes a mutex of its own as fast as it can, another a read-write lock now and then. Prints how often the
 * mutex was taken in each of six seconds. */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#define SECONDS 6
static pthread_rwlock_t seldom = PTHREAD_RWLOCK_INITIALIZER;
static volatile long taken;
static volatile int over;

static void *flood(void *unused)
{
	pthread_mutex_t often = PTHREAD_MUTEX_INITIALIZER;
	while (!over) {
		pthread_mutex_lock(&often);
		pthread_mutex_unlock(&often);
		taken++;
	}
	return unused;
}

static void *write_seldom(void *unused)
{
	while (!over) {
		pthread_rwlock_wrlock(&seldom);
		usleep(1000);
		pthread_rwlock_unlock(&seldom);
		usleep(20000);
	}
	return unused;
}

int main(void)
{
	void *(*works[])(void *) = {flood, write_seldom};
	pthread_t threads[2];
	long before = 0;
	getchar();
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], 0, works[i], 0);
	for (int second = 0; second < SECONDS; second++) {
		sleep(1);
		printf("%ld ", taken - before);
		before = taken;
	}
	over = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], 0);
	puts("");
	fflush(stdout);
	getchar();
	return 0;
}
