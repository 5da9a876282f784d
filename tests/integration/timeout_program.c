/* Waits for a line of input; then one thread keeps a lock, another asks for it 5 times for 20 ms and works on, 20 ms each. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int waiter;

static void *ask(void *unused)
{
	waiter = gettid();
	for (int i = 0; i < 5; i++) {
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 20000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		if (!pthread_mutex_timedlock(&lock, &until))
			return 0;
		usleep(20000);
	}
	return unused;
}

int main(void)
{
	pthread_t thread;
	getchar();
	pthread_mutex_lock(&lock);
	pthread_create(&thread, 0, ask, 0);
	pthread_join(thread, 0);
	printf("%p %x\n", (void *)&lock, waiter);
	fflush(stdout);
	getchar();
	return 0;
}
