/* Waits for a line of input; then threads wait in functions of their own, 20 times each: one sleeps, one reads from a pipe,
 * one waits for a lock, and two sleep by way of one wrapper, equally deep. Prints function and nanoseconds, in one line. */
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define SEEN __attribute__((noinline, noipa))
#define TIMES 20

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int ends[2];
static long naps_ns, reads_ns, locks_ns, short_ns, long_ns;

static long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000 + time.tv_nsec;
}

SEEN int rests(long ms)
{
	struct timespec time = {0, ms * 1000000};
	return nanosleep(&time, NULL) + 1;
}

SEEN int naps(long ms)
{
	struct timespec time = {0, ms * 1000000};
	return nanosleep(&time, NULL) + 1;
}

SEEN int reads(long ms)
{
	char byte;
	return read(ends[0], &byte, 1) + 1;
}

SEEN int locks(long ms)
{
	int got = pthread_mutex_lock(&lock);
	pthread_mutex_unlock(&lock);
	return got + 1;
}

SEEN int short_rest(long ms)
{
	return rests(ms) + 1;
}

SEEN int long_rest(long ms)
{
	return rests(4 * ms) + 2;
}

static void timed(int (*waits)(long), long ms, long *sum)
{
	long begin = now();
	waits(ms);
	*sum += now() - begin;
}

static void *sleeper(void *nothing)
{
	for (int i = 0; i < TIMES; i++) {
		timed(naps, 7, &naps_ns);
		timed(short_rest, 2, &short_ns);
		timed(long_rest, 2, &long_ns);
	}
	return nothing;
}

static void *reader(void *nothing)
{
	for (int i = 0; i < TIMES; i++)
		timed(reads, 0, &reads_ns);
	return nothing;
}

static void *locker(void *nothing)
{
	for (int i = 0; i < TIMES; i++)
		timed(locks, 0, &locks_ns);
	return nothing;
}

int main(void)
{
	pthread_t threads[3];
	getchar();
	if (pipe(ends))
		return 1;
	pthread_mutex_lock(&lock);
	pthread_create(&threads[0], NULL, sleeper, NULL);
	pthread_create(&threads[1], NULL, reader, NULL);
	pthread_create(&threads[2], NULL, locker, NULL);
	for (int i = 0; i < TIMES; i++) {
		rests(5);
		if (write(ends[1], "x", 1) != 1)
			return 1;
	}
	pthread_mutex_unlock(&lock);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	printf("naps %ld reads %ld locks %ld short_rest %ld long_rest %ld\n", naps_ns, reads_ns, locks_ns, short_ns, long_ns);
	fflush(stdout);
	getchar();
	return 0;
}
