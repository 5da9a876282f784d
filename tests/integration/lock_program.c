/* Two threads and one lock: waits for a line of input, each takes the lock 100 times, one keeps it for 2 ms. */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t beside = PTHREAD_MUTEX_INITIALIZER;
static int waits, said;

static void *keep(void *unused)
{
	for (int i = 0; i < 100; i++) {
		pthread_mutex_lock(&lock);
		usleep(2000);
		pthread_mutex_unlock(&lock);
		usleep(500);
	}
	pthread_mutex_lock(&beside);
	while (!waits) {
		pthread_mutex_unlock(&beside);
		usleep(500);
		pthread_mutex_lock(&beside);
	}
	said = 1;
	pthread_cond_signal(&condition);
	pthread_mutex_unlock(&beside);
	return unused;
}

int main(void)
{
	pthread_t thread;
	getchar();
	pthread_create(&thread, 0, keep, 0);
	for (int i = 0; i < 100; i++) {
		usleep(1000);
		pthread_mutex_lock(&lock);
		pthread_mutex_unlock(&lock);
	}
	pthread_mutex_lock(&beside);
	waits = 1;
	while (!said)
		pthread_cond_wait(&condition, &beside);
	pthread_mutex_unlock(&beside);
	pthread_join(thread, 0);
	printf("%p %p\n", (void *)&lock, (void *)&condition);
	fflush(stdout);
	getchar();
	return 0;
}
