/* What the programs here share: threads with names, resources in units, and the truth about both.

   ./program SCENARIO SECONDS prints a line once it is ready, begins at the first line of input, prints what happened
   as one line of JSON, and ends with its input. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SEEN __attribute__((noinline, noipa)) /* a function that a manifest names */
#define MS 1000000L
enum { RESOURCES = 3, THREADS = 8 };

/* What one thread did with one resource, counted and timed by itself. */
struct tally {
    long wait, acquire, use, release, wait_ns, longest_wait_ns, hold_ns;
};

struct thread {
    const char *name;
    void (*work)(void);
    long task;
    int tid;
    long cpu_ns;
    struct tally of[RESOURCES];
    pthread_t id;
};

struct scenario {
    const char *name;
    double seconds;
    const char *culprit; /* a thread, a function (of a leak) or the disk; "": none */
    const void *about;   /* what is waited for: its address, as programs without symbols have no other name for it */
    const char *resources[RESOURCES];
    struct thread threads[THREADS];
};

static __thread struct thread *self;
static long started_ns, length_ns;
static volatile int over;

static long clock_ns(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000L + at.tv_nsec;
}
static long now(void) { return clock_ns(CLOCK_MONOTONIC); }
static long passed(void) { return now() - started_ns; }
static int going(void) { return passed() < length_ns; }
static void rest(long ns) {
    struct timespec time = {ns / 1000000000L, ns % 1000000000L};
    while (nanosleep(&time, &time) && errno == EINTR) {
    }
}
SEEN void busy(long ns) {
    for (long end = clock_ns(CLOCK_THREAD_CPUTIME_ID) + ns; clock_ns(CLOCK_THREAD_CPUTIME_ID) < end;) {
    }
}

static void waited(int resource, long since) {
    struct tally *t = &self->of[resource];
    long ns = now() - since;
    t->wait_ns += ns;
    t->longest_wait_ns = ns > t->longest_wait_ns ? ns : t->longest_wait_ns;
    t->acquire++;
}

/* What burns most processor time, and is to blame for nothing. */
SEEN void checksum(void) {
    volatile unsigned sum = 1;
    while (!over)
        for (int i = 0; i < 10000; i++) sum = sum * 31 + i;
}
#define DECOY {"checksum", checksum}

static void *run_thread(void *argument) {
    self = argument;
    self->tid = gettid();
    pthread_setname_np(pthread_self(), self->name);
    self->work();
    self->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    return 0;
}

static void tell(struct scenario *s) {
    printf("{\"scenario\": \"%s\", \"culprit\": \"%s\", \"address\": %lu, \"start_ns\": %ld, \"end_ns\": %ld, \"threads\": [",
           s->name, s->culprit, (unsigned long)s->about, started_ns, now());
    for (struct thread *t = s->threads; t < s->threads + THREADS && t->work; t++) {
        printf("%s{\"name\": \"%s\", \"tid\": %d, \"task\": %ld, \"cpu_ns\": %ld, \"resources\": {",
               t == s->threads ? "" : ", ", t->name, t->tid, t->task, t->cpu_ns);
        for (int r = 0; r < RESOURCES && s->resources[r]; r++) {
            struct tally *o = &t->of[r];
            printf("%s\"%s\": {\"wait\": %ld, \"acquire\": %ld, \"use\": %ld, \"release\": %ld, \"wait_ns\": %ld, "
                   "\"longest_wait_ns\": %ld, \"hold_ns\": %ld}", r ? ", " : "", s->resources[r], o->wait, o->acquire,
                   o->use, o->release, o->wait_ns, o->longest_wait_ns, o->hold_ns);
        }
        printf("}}");
    }
    printf("]}\n");
    fflush(stdout);
}

static int run(struct scenario *scenarios, int argc, char **argv) {
    struct scenario *s = scenarios;
    while (s->name && (argc < 2 || strcmp(s->name, argv[1]))) s++;
    if (!s->name) return 2;
    length_ns = (long)((argc > 2 ? atof(argv[2]) : s->seconds) * 1e9);
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF) return 3;
    started_ns = now();
    for (struct thread *t = s->threads; t < s->threads + THREADS && t->work; t++)
        if (pthread_create(&t->id, 0, run_thread, t)) return 1;
    for (int decoys = 0; decoys < 2; decoys++, over = 1)
        for (struct thread *t = s->threads; t < s->threads + THREADS && t->work; t++)
            if ((t->work == checksum) == decoys) pthread_join(t->id, 0);
    tell(s);
    while (getchar() != EOF) {
    }
    return 0;
}
