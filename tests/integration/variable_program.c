/*
 * A table that is cleaned when it holds `limit` entries: with a large limit every look-up is long. The hot function is
 * look_up, and the limit is no business of its: variable_program LIMIT SEED. It ends when it is killed.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct table {
	int used;
	unsigned short cleaned;
	struct table *next;
	int *keys;
	float filled; /* of the limit */
};

long n_looked_up;
double temperature = -0.75;
struct table table;
struct table *newest = &table;

static volatile int limit = 64; /* LIMIT */

__attribute__((noinline)) int look_up(struct table *t, int key)
{
	int found = -1;
	for (int i = 0; i < t->used; i++)
		if (t->keys[i] == key)
			found = i;
	n_looked_up++;
	return found;
}

__attribute__((noinline)) void clean(struct table *t, int most)
{
	if (t->used < most)
		return;
	memmove(t->keys, t->keys + t->used / 2, (t->used - t->used / 2) * sizeof(int));
	t->used -= t->used / 2;
	t->cleaned++;
}

int main(int argc, char **argv)
{
	struct timespec pause = {0, 1000000};
	unsigned random = argc > 2 ? atoi(argv[2]) : 1;
	limit = argc > 1 ? atoi(argv[1]) : limit;
	table.keys = calloc(limit + 2, sizeof(int));
	for (;;) {
		for (int i = 0; i < 2; i++) {
			random = random * 1103515245 + 12345;
			look_up(newest, random >> 16);
			table.keys[table.used++] = random >> 16;
			table.filled = (float)table.used / limit;
		}
		clean(newest, limit);
		nanosleep(&pause, NULL);
	}
}
