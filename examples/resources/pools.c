/* Pools of units that threads wait for, get, use and give back; one unit makes it a lock. See planted.h. */
#include "planted.h"

enum { UNITS = 8192 };

struct unit {
    struct unit *next;
    long since; /* had since */
    long uses;
};

struct pool {
    int holder; /* the thread that got a unit last, until it gives one back: of a lock, who has it */
    int free;
    struct unit *first; /* what was given back last is taken first */
    pthread_mutex_t lock;
    pthread_cond_t freed;
    struct unit units[UNITS];
};

static void fill(struct pool *pool, int units) {
    pool->free = units;
    for (int i = units; i--; pool->first = &pool->units[i]) pool->units[i].next = pool->first;
}

static inline struct unit *get(struct pool *pool, int resource) {
    long since = now();
    self->of[resource].wait++;
    pthread_mutex_lock(&pool->lock);
    while (!pool->free) pthread_cond_wait(&pool->freed, &pool->lock);
    struct unit *unit = pool->first;
    pool->first = unit->next;
    pool->free--;
    pool->holder = self->tid;
    pthread_mutex_unlock(&pool->lock);
    waited(resource, since);
    unit->since = now();
    return unit;
}

/* Like functions of real size, those that use a unit call another one, and so begin with a push: there a probe is cheap. */
SEEN int within(struct pool *pool, struct unit *unit) { return unit >= pool->units && unit < pool->units + UNITS; }

static inline void use(struct pool *pool, struct unit *unit, int resource) {
    unit->uses += within(pool, unit);
    self->of[resource].use++;
}

static inline void put(struct pool *pool, struct unit *unit, int resource) {
    self->of[resource].release++;
    self->of[resource].hold_ns += now() - unit->since;
    pthread_mutex_lock(&pool->lock);
    unit->next = pool->first;
    pool->first = unit;
    pool->free++;
    pool->holder = 0;
    pthread_cond_signal(&pool->freed);
    pthread_mutex_unlock(&pool->lock);
}

/* The functions that pools.toml names; `number` is the resource's in its scenario. */
#define RESOURCE(name, number) \
    static struct pool name##_pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .freed = PTHREAD_COND_INITIALIZER}; \
    FUNCTIONS(name, number)
#define FUNCTIONS(name, number) \
    SEEN struct unit *name##_get(struct pool *pool, long task) { (void)task; return get(pool, number); } \
    SEEN void name##_use(struct pool *pool, struct unit *unit) { use(pool, unit, number); } \
    SEEN void name##_put(struct pool *pool, struct unit *unit) { put(pool, unit, number); }
RESOURCE(page, 0)
RESOURCE(table, 0)
RESOURCE(connection, 0)
RESOURCE(buffer, 0)
RESOURCE(record, 1)
RESOURCE(view, 2)
RESOURCE(handle, 0)
RESOURCE(block, 0)
RESOURCE(entry, 0)
RESOURCE(section, 0)
RESOURCE(session, 0)
FUNCTIONS(job, 1) /* from where sessions are: an address has one type after the other */

/* ---- pages: a scan takes the whole pool again and again, and looks at each page once */

static void read_pages(void) {
    while (going()) {
        struct unit *page = page_get(&page_pool, self->task);
        for (int i = 0; i < 3; i++) page_use(&page_pool, page);
        rest(MS);
        page_put(&page_pool, page);
        rest(MS);
    }
}

static void scan(void) {
    struct unit *held[64];
    rest(length_ns / 10);
    while (going()) {
        for (int i = 0; i < 64; i++) page_use(&page_pool, held[i] = page_get(&page_pool, self->task));
        rest(100 * MS);
        for (int i = 0; i < 64; i++) page_put(&page_pool, held[i]);
        rest(20 * MS);
    }
}

/* ---- a table: one alters it for nearly all the time, another wants to insert */

static void alter(void) {
    struct unit *lock = table_get(&table_pool, self->task);
    while (going()) {
        table_use(&table_pool, lock);
        rest(50 * MS);
    }
    table_put(&table_pool, lock);
}

static void insert(void) {
    rest(100 * MS);
    struct unit *lock = table_get(&table_pool, self->task);
    table_use(&table_pool, lock);
    table_put(&table_pool, lock);
}

/* ---- connections: of four, three are had by somebody who has no use for them */

static void keep(void) {
    struct unit *held[3];
    for (int i = 0; i < 3; i++) held[i] = connection_get(&connection_pool, self->task);
    rest(length_ns);
    for (int i = 0; i < 3; i++) connection_put(&connection_pool, held[i]);
}

static void query(void) {
    rest(20 * MS);
    while (going()) {
        struct unit *connection = connection_get(&connection_pool, self->task);
        for (int i = 0; i < 4; i++) {
            connection_use(&connection_pool, connection);
            rest(MS);
        }
        connection_put(&connection_pool, connection);
    }
}

/* ---- buffers: fifteen of sixteen are full of what a client that is dead will never take */

static void send_to(void) {
    rest(20 * MS);
    while (going()) {
        struct unit *buffer = buffer_get(&buffer_pool, self->task);
        buffer_use(&buffer_pool, buffer);
        rest(4 * MS);
        buffer_use(&buffer_pool, buffer);
        buffer_put(&buffer_pool, buffer);
    }
}

static void send_to_the_dead(void) {
    struct unit *held[15];
    for (int i = 0; i < 15; i++) held[i] = buffer_get(&buffer_pool, self->task);
    rest(length_ns); /* until the connection times out */
    for (int i = 0; i < 15; i++) buffer_put(&buffer_pool, held[i]);
}

/* ---- a log: no record may go while a view is open; when it is closed, their purge takes the pool's pages */

static struct unit *logged[8192];
static volatile int last_logged;

static void write_log(void) {
    for (int i = 0; passed() < length_ns / 2 && i < 8000; i++) {
        logged[i] = record_get(&record_pool, self->task);
        last_logged = i + 1;
        rest(MS / 2);
    }
}

static void report(void) {
    struct unit *view = view_get(&view_pool, self->task);
    for (; passed() < length_ns / 2; rest(50 * MS)) view_use(&view_pool, view);
    view_put(&view_pool, view);
}

static void purge(void) {
    rest(50 * MS);
    struct unit *held[64], *view = view_get(&view_pool, self->task);
    for (int i = 0; i < last_logged;) {
        int n = 0;
        for (; n < 64 && i + n < last_logged; n++) {
            held[n] = page_get(&page_pool, self->task);
            page_use(&page_pool, held[n]);
            record_use(&record_pool, logged[i + n]);
        }
        rest(50 * MS);
        for (int k = 0; k < n; k++) {
            page_put(&page_pool, held[k]);
            record_put(&record_pool, logged[i + k]);
        }
        i += n;
        rest(MS);
    }
    view_put(&view_pool, view);
}

/* ---- handles: one request in a hundred fails, and its handle stays open */

SEEN void fail_request(long task) {
    struct unit *handle = handle_get(&handle_pool, task);
    handle_use(&handle_pool, handle);
}

SEEN void serve_request(long task) {
    struct unit *handle = handle_get(&handle_pool, task);
    handle_use(&handle_pool, handle);
    handle_use(&handle_pool, handle);
    rest(MS);
    handle_put(&handle_pool, handle);
}

static void serve(void) {
    for (long request = 1; going(); request++) {
        if (request % 100) serve_request(self->task * 100000 + request);
        else fail_request(self->task * 100000 + request);
    }
}

/* ---- blocks: ten thousand a second, one at a time, where a hundred at once would do */

static void allocate(void) {
    for (long turn = 0; going(); turn++) {
        for (int i = 0; i < 100; i++) {
            struct unit *block = block_get(&block_pool, self->task);
            for (int k = 0; k < 2; k++) block_use(&block_pool, block);
            block_put(&block_pool, block);
        }
        long ahead = (turn + 1) * 10 * MS - passed();
        if (ahead > 0) rest(ahead);
    }
}

/* ---- a cache that fills with what is asked for, until all of it is there */

static void look_up(void) {
    static struct unit *cached[800];
    unsigned seed = 7;
    for (int i = 1; going(); i++) {
        unsigned key = rand_r(&seed) % 800;
        if (!cached[key]) cached[key] = entry_get(&entry_pool, self->task);
        entry_use(&entry_pool, cached[key]);
        if (i % 4 == 0) rest(MS);
    }
}

/* ---- one lock that four threads have most of the time */

static void in_section(void) {
    while (going()) {
        struct unit *lock = section_get(&section_pool, self->task);
        section_use(&section_pool, lock);
        busy(MS / 2);
        rest(2 * MS);
        section_put(&section_pool, lock);
        busy(MS / 4);
        rest(MS / 4);
    }
}

/* ---- an address: a session for 1 ms, then a job for 10 */

static void reuse(void) {
    while (going()) {
        struct unit *session = session_get(&session_pool, self->task);
        session_use(&session_pool, session);
        rest(MS);
        session_put(&session_pool, session);
        struct unit *job = job_get(&session_pool, self->task);
        job_use(&session_pool, job);
        rest(10 * MS);
        job_put(&session_pool, job);
    }
}

static struct scenario scenarios[] = {
    {"flood", 4, "scan", &page_pool, {"page"},
     {{"scan", scan, 9}, {"reader", read_pages, 1}, {"reader", read_pages, 2}, {"reader", read_pages, 3},
      {"reader", read_pages, 4}, DECOY}},
    {"table", 5.9, "alter", &table_pool, {"table"}, {{"alter", alter, 1}, {"insert", insert, 2}, DECOY}},
    {"unused", 3, "keep", &connection_pool, {"connection"},
     {{"keep", keep, 9}, {"query", query, 1}, {"query", query, 2}, {"query", query, 3}, DECOY}},
    {"dead", 3, "dead", &buffer_pool, {"buffer"},
     {{"dead", send_to_the_dead, 13}, {"send", send_to, 1}, {"send", send_to, 2}, {"send", send_to, 3}, DECOY}},
    {"log", 5, "report", &page_pool, {"page", "record", "view"},
     {{"report", report, 9}, {"write", write_log, 1}, {"purge", purge, 2}, {"reader", read_pages, 3},
      {"reader", read_pages, 4}, DECOY}},
    {"leak", 3, "fail_request", &handle_pool, {"handle"}, {{"serve", serve, 1}, {"serve", serve, 2}, DECOY}},
    {"small", 3, "allocate", &block_pool, {"block"}, {{"allocate", allocate, 1}, DECOY}},
    {"cache", 4, "", &entry_pool, {"entry"}, {{"look up", look_up, 1}, DECOY}},
    {"healthy", 3, "", &page_pool, {"page"},
     {{"reader", read_pages, 1}, {"reader", read_pages, 2}, {"reader", read_pages, 3}, {"reader", read_pages, 4}, DECOY}},
    {"reuse", 2, "", &session_pool, {"session", "job"}, {{"reuse", reuse, 1}, DECOY}},
    {"section", 3, "in section", &section_pool, {"section"},
     {{"in section", in_section, 1}, {"in section", in_section, 2}, {"in section", in_section, 3},
      {"in section", in_section, 4}, DECOY}},
    {0},
};

int main(int argc, char **argv) {
    fill(&page_pool, 64);
    fill(&connection_pool, 4);
    fill(&buffer_pool, 16);
    fill(&table_pool, 1), fill(&view_pool, 1), fill(&section_pool, 1), fill(&session_pool, 1);
    fill(&record_pool, 8192), fill(&handle_pool, 8192), fill(&entry_pool, 8192), fill(&block_pool, 8192);
    return run(scenarios, argc, argv);
}
