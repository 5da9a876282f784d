/* Loaded before the engine (LD_PRELOAD): a thread that gets SIGUSR1 waits for a lock on the file in $LOCK, one that gets
 * SIGUSR2 computes for 10 ms, unless it is at a barrier, where it has no work that could become more, or has just done so.
 * So a wait or more work is planted inside an operator. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { WORK_NS = 10000000, PAUSE_NS = 4000000 };

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

/* Whether the signal came while OpenMP's library ran: barriers are all that it does in a graph. */
static int at_barrier(const ucontext_t *interrupted)
{
	Dl_info library;
#if defined(__x86_64__)
	void *place = (void *)interrupted->uc_mcontext.gregs[REG_RIP];
#else
	void *place = (void *)interrupted->uc_mcontext.pc;
#endif
	return dladdr(place, &library) && strstr(library.dli_fname, "gomp");
}

static void compute(int number, siginfo_t *about, void *interrupted)
{
	static __thread long ended;
	(void)number, (void)about;
	if (now() - ended < PAUSE_NS || at_barrier(interrupted))
		return;
	for (long begun = now(); now() - begun < WORK_NS;) {
	}
	ended = now();
}

__attribute__((constructor)) static void install(void)
{
	struct sigaction action = {.sa_flags = SA_RESTART};
	action.sa_handler = wait_for_lock;
	sigaction(SIGUSR1, &action, 0);
	action.sa_flags |= SA_SIGINFO;
	action.sa_sigaction = compute;
	sigaction(SIGUSR2, &action, 0);
}
