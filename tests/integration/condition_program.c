/* One thread waits for a condition, six times in a row, five of them in vain; meanwhile a second keeps their common lock
 * for 100 ms, five times, and a third asks for it. Prints the lock's address and the three threads, in that order. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t begin;
static int tids[3];
static int said;

static void *wait_for_it(void *unused)
{
	tids[0] = gettid();
	pthread_mutex_lock(&lock);
	pthread_barrier_wait(&begin); /* nobody has the lock before this one waits */
	for (int i = 0; i < 5; i++) {
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 10 * 1000 * 1000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&condition, &lock, &until);
	}
	while (!said)
		pthread_cond_wait(&condition, &lock);
	pthread_mutex_unlock(&lock);
	return unused;
}

static void *keep(void *unused)
{
	tids[1] = gettid();
	pthread_barrier_wait(&begin);
	usleep(400000);
	for (int i = 0; i < 5; i++) {
		pthread_mutex_lock(&lock);
		usleep(100000);
		said = i == 4;
		if (said)
			pthread_cond_signal(&condition);
		pthread_mutex_unlock(&lock);
		usleep(20000);
	}
	return unused;
}

static void *ask(void *unused)
{
	tids[2] = gettid();
	pthread_barrier_wait(&begin);
	usleep(420000);
	for (int i = 0; i < 5; i++) {
		pthread_mutex_lock(&lock);
		pthread_mutex_unlock(&lock);
		usleep(40000); /* by then it is kept again */
	}
	return unused;
}

int main(void)
{
	void *(*works[])(void *) = {wait_for_it, keep, ask};
	pthread_t threads[3];
	getchar();
	pthread_barrier_init(&begin, 0, 3);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], 0, works[i], 0);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], 0);
	printf("%p %x %x %x\n", (void *)&lock, tids[0], tids[1], tids[2]);
	fflush(stdout);
	getchar();
	return 0;
}
