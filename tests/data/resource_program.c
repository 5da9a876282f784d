/* A program with three resources of its own, for `flowprof resources scan`: a pool of 64 pages, a table's lock, a queue
   of tasks. Beside them what looks like one and is none: getters, a parser, a list that is filled once, statistics.
   Built by tests and benchmarks; what is to be found is listed in resource_program.toml. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGES 64

struct page {
    struct page *next;
    int pins;
    char data[4096];
};

struct page_pool {
    pthread_mutex_t mutex;
    pthread_cond_t freed;
    struct page *free_pages;
    int n_free;
    struct page pages[PAGES];
};

struct page_pool *page_pool_new(void) {
    struct page_pool *pool = calloc(1, sizeof *pool);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->freed, NULL);
    for (int i = 0; i < PAGES; i++) {
        pool->pages[i].next = pool->free_pages;
        pool->free_pages = &pool->pages[i];
    }
    pool->n_free = PAGES;
    return pool;
}

void page_pool_free(struct page_pool *pool) {
    pthread_cond_destroy(&pool->freed);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

__attribute__((noinline)) struct page *page_pool_get(struct page_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    while (pool->free_pages == NULL)
        pthread_cond_wait(&pool->freed, &pool->mutex);
    struct page *page = pool->free_pages;
    pool->free_pages = page->next;
    page->pins = 1;
    pool->n_free--;
    pthread_mutex_unlock(&pool->mutex);
    return page;
}

__attribute__((noinline)) void page_pool_put(struct page_pool *pool, struct page *page) {
    pthread_mutex_lock(&pool->mutex);
    page->pins = 0;
    page->next = pool->free_pages;
    pool->free_pages = page;
    pool->n_free++;
    pthread_cond_signal(&pool->freed);
    pthread_mutex_unlock(&pool->mutex);
}

__attribute__((noinline)) int page_pool_size(const struct page_pool *pool) { return PAGES - pool->n_free; }

struct table {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int readers;
    int writer;
    long rows;
};

__attribute__((noinline)) void table_lock(struct table *table, int exclusive) {
    pthread_mutex_lock(&table->mutex);
    while (table->writer || (exclusive && table->readers))
        pthread_cond_wait(&table->changed, &table->mutex);
    if (exclusive)
        table->writer = 1;
    else
        table->readers++;
    pthread_mutex_unlock(&table->mutex);
}

__attribute__((noinline)) void table_unlock(struct table *table, int exclusive) {
    pthread_mutex_lock(&table->mutex);
    if (exclusive)
        table->writer = 0;
    else
        table->readers--;
    pthread_cond_broadcast(&table->changed);
    pthread_mutex_unlock(&table->mutex);
}

__attribute__((noinline)) long table_get_rows(const struct table *table) { return table->rows; }

struct task {
    struct task *next;
    void (*run)(void *);
    void *argument;
};

struct task_queue {
    pthread_mutex_t mutex;
    pthread_cond_t filled;
    struct task *first, **last;
    int length;
};

__attribute__((noinline)) void task_queue_push(struct task_queue *queue, struct task *task) {
    pthread_mutex_lock(&queue->mutex);
    task->next = NULL;
    *queue->last = task;
    queue->last = &task->next;
    queue->length++;
    pthread_cond_signal(&queue->filled);
    pthread_mutex_unlock(&queue->mutex);
}

__attribute__((noinline)) struct task *task_queue_pop(struct task_queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    while (queue->first == NULL)
        pthread_cond_wait(&queue->filled, &queue->mutex);
    struct task *task = queue->first;
    queue->first = task->next;
    if (queue->first == NULL)
        queue->last = &queue->first;
    queue->length--;
    pthread_mutex_unlock(&queue->mutex);
    return task;
}

/* What is none. */

struct parser {
    const char *at;
    int line;
};

__attribute__((noinline)) int parser_next(struct parser *parser) {
    while (*parser->at == ' ')
        parser->at++;
    return *parser->at ? *parser->at++ : -1;
}

__attribute__((noinline)) void parser_release(struct parser *parser) { free(parser); }

struct names {
    const char **list;
    int count;
};

__attribute__((noinline)) void names_add(struct names *names, const char *name) {
    names->list = realloc(names->list, (size_t)(names->count + 1) * sizeof *names->list);
    names->list[names->count++] = name;
}

__attribute__((noinline)) const char *names_get(const struct names *names, int at) { return names->list[at]; }

struct statistics {
    uint64_t reads, writes;
};

__attribute__((noinline)) void statistics_clear(struct statistics *statistics) {
    memset(statistics, 0, sizeof *statistics);
}

__attribute__((noinline)) uint64_t statistics_get_reads(const struct statistics *statistics) {
    return statistics->reads;
}

/* Its threads: readers of pages under a table's lock, fed by a queue. */

static struct page_pool *pool;
static struct table table = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0};
static struct task_queue queue = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, &queue.first, 0};
static struct statistics statistics;
static struct names names;

static void read_rows(void *argument) {
    table_lock(&table, argument == NULL);
    struct page *page = page_pool_get(pool);
    memset(page->data, (int)table_get_rows(&table), sizeof page->data);
    statistics.reads += (uint64_t)page->data[0];
    page_pool_put(pool, page);
    table_unlock(&table, argument == NULL);
}

static void *worker(void *unused) {
    for (;;) {
        struct task *task = task_queue_pop(&queue);
        void (*run)(void *) = task->run;
        if (run == NULL)
            return unused;
        run(task->argument);
        free(task);
    }
}

int main(int argc, char **argv) {
    struct parser *parser = calloc(1, sizeof *parser);
    parser->at = argc > 1 ? argv[1] : "read";
    while (parser_next(parser) >= 0)
        names_add(&names, parser->at);
    parser_release(parser);
    pool = page_pool_new();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, worker, NULL);
    for (int i = 0; i < 1000 + 4; i++) {
        struct task *task = calloc(1, sizeof *task);
        task->run = i < 1000 ? read_rows : NULL;
        task->argument = i % 10 ? (void *)&names : NULL;
        task_queue_push(&queue, task);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    if (argc > 2)
        pause(); /* to be looked at while it runs */
    page_pool_free(pool);
    statistics_clear(&statistics);
    return (int)(statistics_get_reads(&statistics) + (names_get(&names, 0) == NULL));
}
