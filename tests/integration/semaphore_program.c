/* One thread keeps the only permit of a semaphore for 150 ms, six times, with 10 ms between; one asks for it and waits as
 * long as it takes, another gives up after 40 ms. Prints the semaphore's address, the three threads, what the two waited
 * in all, µs, and how often the second gave up. */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { TURNS = 6, KEPT_US = 150000, BREAK_US = 10000, PATIENCE_NS = 40000000 };

static sem_t permits;
static pthread_barrier_t begin;
static int tids[3], given_up;
static long waited_us[2];
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
	sem_wait(&permits);
	pthread_barrier_wait(&begin);
	for (int i = 0; i < TURNS; i++) {
		if (i)
			sem_wait(&permits);
		usleep(KEPT_US);
		over = i == TURNS - 1;
		sem_post(&permits);
		usleep(BREAK_US);
	}
	return unused;
}

static void *ask(void *unused)
{
	tids[1] = gettid();
	pthread_barrier_wait(&begin);
	while (!over) {
		long asked = now_us();
		sem_wait(&permits);
		waited_us[0] += now_us() - asked;
		sem_post(&permits);
		usleep(2 * BREAK_US); /* by then it is kept again */
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
		until.tv_nsec += PATIENCE_NS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		long asked = now_us();
		int got = !sem_timedwait(&permits, &until);
		waited_us[1] += now_us() - asked;
		if (got)
			sem_post(&permits);
		else
			given_up++;
		usleep(BREAK_US / 2);
	}
	return unused;
}

int main(void)
{
	void *(*works[])(void *) = {keep, ask, give_up};
	pthread_t threads[3];
	getchar();
	sem_init(&permits, 0, 1);
	pthread_barrier_init(&begin, 0, 3);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], 0, works[i], 0);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], 0);
	int free = !sem_trywait(&permits);
	printf("%p %x %x %x %lx %lx %x %x\n", (void *)&permits, tids[0], tids[1], tids[2], waited_us[0], waited_us[1], given_up,
	       free);
	fflush(stdout);
	getchar();
	return 0;
}
