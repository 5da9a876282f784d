/* Loaded before the engine (LD_PRELOAD): a thread that gets SIGUSR1 waits for a lock on the file in $LOCK, one that gets
 * SIGUSR2 computes for 10 ms. So a wait or more work is planted inside an operator, wherever the thread is. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { WORK_NS = 10000000 };

static long now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000L + at.tv_nsec;
}

static void wait_for_lock(int number)
{
	int file = open(getenv("LOCK"), O_RDONLY);
	(void)number;
	flock(file, LOCK_EX);
	close(file);
}

static void compute(int number)
{
	(void)number;
	for (long begun = now(); now() - begun < WORK_NS;) {
	}
}

__attribute__((constructor)) static void install(void)
{
	struct sigaction action = {.sa_flags = SA_RESTART};
	action.sa_handler = wait_for_lock;
	sigaction(SIGUSR1, &action, 0);
	action.sa_handler = compute;
	sigaction(SIGUSR2, &action, 0);
}
