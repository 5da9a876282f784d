/* A mutex, with PROTOCOL PTHREAD_PRIO_INHERIT one that lends its holder the priority of who waits: one thread keeps it for
 * 100 ms, six times, another asks for it; a third gives up after 30 ms. Prints the lock's address, the three threads, what
 * the second waited in all, µs, and how often the third gave up. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock;
static pthread_barrier_t begin;
static int tids[3], given_up;
static long waited_us;
static volatile int over;

static long now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void *keep(void *unused)
{
	tids[0] = gettid();
	pthread_mutex_lock(&lock);
	pthread_barrier_wait(&begin);
	for (int i = 0; i < 6; i++) {
		if (i)
			pthread_mutex_lock(&lock);
		usleep(100000);
		over = i == 5;
		pthread_mutex_unlock(&lock);
		usleep(10000);
	}
	return unused;
}

static void *ask(void *unused)
{
	tids[1] = gettid();
	pthread_barrier_wait(&begin);
	while (!over) {
		long asked = now_us();
		pthread_mutex_lock(&lock);
		waited_us += now_us() - asked;
		pthread_mutex_unlock(&lock);
		usleep(20000); /* by then it is kept again */
	}
	return unused;
}

static void *give_up(void *unused)
{
	tids[2] = gettid();
	pthread_barrier_wait(&begin);
	while (!over) {
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 30000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (pthread_mutex_timedlock(&lock, &until))
			given_up++;
		else
			pthread_mutex_unlock(&lock);
		usleep(5000);
	}
	return unused;
}

int main(void)
{
	void *(*works[])(void *) = {keep, ask, give_up};
	pthread_mutexattr_t kind;
	pthread_t threads[3];
	getchar();
	pthread_mutexattr_init(&kind);
	pthread_mutexattr_setprotocol(&kind, PROTOCOL);
	pthread_mutex_init(&lock, &kind);
	pthread_barrier_init(&begin, 0, 3);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], 0, works[i], 0);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], 0);
	printf("%p %x %x %x %lx %x\n", (void *)&lock, tids[0], tids[1], tids[2], waited_us, given_up);
	fflush(stdout);
	getchar();
	return 0;
}
