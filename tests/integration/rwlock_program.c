/* A writer has a read-write lock for 120 ms, five times; two readers ask for it. Prints the lock's address, the writer,
 * the two readers, and what the two waited in all, µs. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t begin;
static int tids[3];
static long waited_us[3];
static volatile int over;

static long now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void *write_it(void *unused)
{
	tids[0] = gettid();
	pthread_rwlock_wrlock(&lock);
	pthread_barrier_wait(&begin);
	for (int i = 0; i < 5; i++) {
		if (i)
			pthread_rwlock_wrlock(&lock);
		usleep(120000);
		over = i == 4;
		pthread_rwlock_unlock(&lock);
		usleep(10000);
	}
	return unused;
}

static void *read_it(void *number)
{
	long mine = (long)number;
	tids[mine] = gettid();
	pthread_barrier_wait(&begin);
	while (!over) {
		long asked = now_us();
		pthread_rwlock_rdlock(&lock);
		waited_us[mine] += now_us() - asked;
		usleep(1000);
		pthread_rwlock_unlock(&lock);
		usleep(20000); /* by then it is written again */
	}
	return 0;
}

int main(void)
{
	pthread_t threads[3];
	getchar();
	pthread_barrier_init(&begin, 0, 3);
	pthread_create(&threads[0], 0, write_it, 0);
	for (long i = 1; i < 3; i++)
		pthread_create(&threads[i], 0, read_it, (void *)i);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], 0);
	printf("%p %x %x %x %lx %lx\n", (void *)&lock, tids[0], tids[1], tids[2], waited_us[1], waited_us[2]);
	fflush(stdout);
	getchar();
	return 0;
}
