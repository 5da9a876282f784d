/* Threads that wait for each other, for a disk and for a timer. See planted.h. */
#include "planted.h"

/* ---- two that meet at a barrier: one uses the disk, one computes */

struct barrier {
    pthread_mutex_t lock;
    pthread_cond_t all_here;
    int expected, here;
    long round;
};
static struct barrier meeting = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 2, 0, 0};
static long disk_ms, compute_ms;

SEEN void barrier_wait(struct barrier *barrier, long task) {
    long since = now();
    (void)task;
    self->of[0].wait++;
    pthread_mutex_lock(&barrier->lock);
    long round = barrier->round;
    if (++barrier->here == barrier->expected) {
        barrier->here = 0;
        barrier->round++;
        pthread_cond_broadcast(&barrier->all_here);
    }
    while (round == barrier->round) pthread_cond_wait(&barrier->all_here, &barrier->lock);
    pthread_mutex_unlock(&barrier->lock);
    waited(0, since);
}

/* Reads from the disk, past the page cache. Large pieces: the time is spent in waiting. One thread of a scenario does. */
SEEN void use_disk(long ms) {
    enum { PIECE = 4 << 20 };
    static char piece[PIECE] __attribute__((aligned(4096)));
    static int file = -1;
    if (file < 0) {
        file = open(".", O_RDWR | O_TMPFILE | O_DIRECT, 0600);
        if (file < 0) file = open(".", O_RDWR | O_TMPFILE, 0600); /* a file system without O_DIRECT */
        if (file < 0 || pwrite(file, piece, PIECE, 0) != PIECE) abort();
    }
    for (long end = now() + ms * MS; now() < end;)
        if (pread(file, piece, PIECE, 0) != PIECE) abort();
}

/* In four functions: none of them is the hottest. */
SEEN void load(long ns) { busy(ns); }
SEEN void multiply(long ns) { busy(ns); }
SEEN void transform(long ns) { busy(ns); }
SEEN void reduce(long ns) { busy(ns); }
static void compute(long ms) {
    long quarter = ms * MS / 4;
    load(quarter), multiply(quarter), transform(quarter), reduce(quarter);
}

#define ROUNDS (length_ns / ((disk_ms > compute_ms ? disk_ms : compute_ms) * MS))
static void disk_side(void) {
    for (long i = ROUNDS; i > 0; i--) {
        use_disk(disk_ms);
        barrier_wait(&meeting, self->task);
    }
}
static void compute_side(void) {
    for (long i = ROUNDS; i > 0; i--) {
        compute(compute_ms);
        barrier_wait(&meeting, self->task);
    }
}

/* ---- a mutex of the C library: one keeps it for 20 ms at a time, two want it */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void keep_mutex(void) {
    while (going()) {
        long since = now();
        self->of[0].wait++;
        pthread_mutex_lock(&mutex);
        waited(0, since);
        since = now();
        rest(20 * MS);
        pthread_mutex_unlock(&mutex);
        self->of[0].hold_ns += now() - since;
        self->of[0].release++;
        rest(2 * MS);
    }
}
static void want_mutex(void) {
    while (going()) {
        rest(MS);
        long since = now();
        self->of[0].wait++;
        pthread_mutex_lock(&mutex);
        waited(0, since);
        pthread_mutex_unlock(&mutex);
        self->of[0].release++;
    }
}

/* ---- A waits for B's answers, B for the disk; C waits longest, for a timer */

struct answers {
    pthread_mutex_t lock;
    pthread_cond_t come;
    long given, taken;
};
static struct answers answers = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};

SEEN void answer_wait(struct answers *queue) {
    long since = now();
    self->of[0].wait++;
    pthread_mutex_lock(&queue->lock);
    while (queue->taken == queue->given) pthread_cond_wait(&queue->come, &queue->lock);
    queue->taken++;
    pthread_mutex_unlock(&queue->lock);
    waited(0, since);
}
SEEN void answer_give(struct answers *queue) {
    self->of[0].release++;
    pthread_mutex_lock(&queue->lock);
    queue->given++;
    pthread_cond_signal(&queue->come);
    pthread_mutex_unlock(&queue->lock);
}
SEEN void timer_wait(long ms) {
    long since = now();
    self->of[1].wait++;
    rest(ms * MS);
    waited(1, since);
}

static void ask(void) {
    for (long i = length_ns / (30 * MS); i > 0; i--) {
        answer_wait(&answers);
        compute(1);
    }
}
static void answer_from_disk(void) {
    for (long i = length_ns / (30 * MS); i > 0; i--) {
        use_disk(30);
        answer_give(&answers);
    }
}
static void idle(void) { timer_wait(2 * length_ns / MS); } /* longer than the others take */

/* ---- woken: one by timers, one by a thread, as often */

static void sleep_by_timer(void) {
    for (long i = length_ns / (20 * MS); i > 0; i--) timer_wait(20);
}
static void sleep_until_told(void) {
    for (long i = length_ns / (20 * MS); i > 0; i--) answer_wait(&answers);
}
static void wake_others(void) {
    for (long i = length_ns / (20 * MS); i > 0; i--) {
        compute(2);
        rest(18 * MS);
        answer_give(&answers);
    }
}

static struct scenario scenarios[] = {
    {"slow-disk", 3, "disk side", &meeting, {"barrier"},
     {{"disk side", disk_side, 1}, {"compute side", compute_side, 2}, DECOY}},
    {"slow-compute", 3, "compute side", &meeting, {"barrier"},
     {{"disk side", disk_side, 1}, {"compute side", compute_side, 2}, DECOY}},
    {"mutex", 3, "keep", &mutex, {"mutex"},
     {{"keep", keep_mutex, 1}, {"want", want_mutex, 2}, {"want", want_mutex, 3}, DECOY}},
    {"disk", 2, "disk", &answers, {"answer", "timer"},
     {{"A", ask, 1}, {"B", answer_from_disk, 2}, {"C", idle, 3}, DECOY}},
    {"woken", 3, "waker", &answers, {"answer", "timer"},
     {{"by timer", sleep_by_timer, 1}, {"by thread", sleep_until_told, 2}, {"waker", wake_others, 3}, DECOY}},
    {0},
};

int main(int argc, char **argv) {
    int disk = argc > 1 && !strcmp(argv[1], "slow-disk");
    disk_ms = disk ? 40 : 10;
    compute_ms = disk ? 5 : 40;
    return run(scenarios, argc, argv);
}
