/* Resources whose every event is known: waits for one line of input, works, and prints what it did. */
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define SEEN __attribute__((noinline, noipa))

struct pool {
	long id;
	int free_units;
	short small;
	struct pool *next;
};

static struct pool second = {8, 32, -3, 0}, first = {7, 64, -2, &second};
long uses;
const char version[] = "program 2.7.1";

/* Fails where `units` is 0. */
SEEN void *pool_get(struct pool *pool, int units, long task)
{
	if (!units)
		return 0;
	__sync_fetch_and_sub(&pool->free_units, units);
	return (char *)pool + task;
}

SEEN void pool_use(struct pool *pool, void *unit)
{
	__sync_fetch_and_add(&uses, unit != (void *)pool);
}

SEEN void pool_put(struct pool *pool, void *unit, int units)
{
	(void)unit;
	__sync_fetch_and_add(&pool->free_units, units);
}

/* Deeper than frames are kept for. */
SEEN long nested(struct pool *pool, int depth)
{
	long below = depth ? nested(pool, depth - 1) : 0;
	asm volatile("" : "+r"(below));
	return below + 1;
}

/* A hundred functions of like names. */
#define MANY(n) SEEN int many_##n##0(void) { return n; } SEEN int many_##n##1(void) { return n; } \
	SEEN int many_##n##2(void) { return n; } SEEN int many_##n##3(void) { return n; } SEEN int many_##n##4(void) { return n; } \
	SEEN int many_##n##5(void) { return n; } SEEN int many_##n##6(void) { return n; } SEEN int many_##n##7(void) { return n; } \
	SEEN int many_##n##8(void) { return n; } SEEN int many_##n##9(void) { return n; }
MANY(10) MANY(11) MANY(12) MANY(13) MANY(14) MANY(15) MANY(16) MANY(17) MANY(18) MANY(19)

static void *work(void *argument)
{
	long task = (long)argument;
	struct pool *pool = task % 2 ? &first : &second;
	for (int i = 0; i < 1000; i++) {
		void *unit = pool_get(pool, i % 10 ? (int)task : 0, task);
		if (!unit)
			continue;
		pool_use(pool, unit);
		pool_put(pool, unit, (int)task);
	}
	return 0;
}

int main(void)
{
	pthread_t threads[4];
	getchar();
	for (long i = 0; i < 4; i++)
		pthread_create(&threads[i], 0, work, (void *)(i + 1));
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], 0);
	nested(&first, 29);
	printf("%ld\n", uses);
	fflush(stdout);
	getchar();
	return 0;
}
