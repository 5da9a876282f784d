/* Nothing is wrong: two threads compute for 600 ms, and the main thread waits for their ends. With TURN a third one waits
 * for its turn, which comes then. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static int done;

static void *compute(void *unused)
{
	struct timespec begin, now;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 < 600);
	return unused;
}

static void *wait_for_turn(void *unused)
{
	pthread_mutex_lock(&lock);
	while (!done)
		pthread_cond_wait(&turn, &lock);
	pthread_mutex_unlock(&lock);
	return unused;
}

int main(void)
{
	void *(*works[])(void *) = {compute, compute, wait_for_turn};
	pthread_t threads[3];
#ifdef TURN
	int many = 3;
#else
	int many = 2;
#endif
	getchar();
	for (int i = 0; i < many; i++)
		pthread_create(&threads[i], 0, works[i], 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], 0);
	pthread_mutex_lock(&lock);
	done = 1;
	pthread_cond_signal(&turn);
	pthread_mutex_unlock(&lock);
	if (many > 2)
		pthread_join(threads[2], 0);
	puts("done");
	fflush(stdout);
	getchar();
	return 0;
}
