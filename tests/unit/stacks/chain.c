/* Known chains of calls, each of which ends in `capture`, which tells its registers, its stack and who called whom.

   ./chain WHERE, where plain: main a b c capture; thread: thread a b c capture; signal: main a b c, interrupted by
   handler capture. */
#define _GNU_SOURCE
#include <alloca.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noipa))
#define CALLED_FROM(depth) (returns[depth] = (uintptr_t)__builtin_return_address(0))

uintptr_t registers[8]; /* rip rsp rbp rbx r12 r13 r14 r15 */
uintptr_t returns[8];   /* by depth: where each function returns to */
volatile int sink;
static int as_signal;

void capture(void);
#ifdef CFI
#define START ".cfi_startproc\n"
#define END ".cfi_endproc\n"
#else
#define START
#define END
#endif
__asm__(".text\n.globl capture\n.type capture, @function\ncapture:\n" START
        "movq %rsp, 8+registers(%rip)\nmovq %rbp, 16+registers(%rip)\nmovq %rbx, 24+registers(%rip)\n"
        "movq %r12, 32+registers(%rip)\nmovq %r13, 40+registers(%rip)\nmovq %r14, 48+registers(%rip)\n"
        "movq %r15, 56+registers(%rip)\nlea capture(%rip), %rax\nmovq %rax, registers(%rip)\n"
        "jmp tell\n" END ".size capture, .-capture\n");

FUNCTION void tell(void) {
    for (int i = 0; i < 8; i++) printf("%lx ", (unsigned long)registers[i]);
    puts("");
    for (int i = 0; i < 8; i++) printf("%lx ", (unsigned long)returns[i]);
    puts("");
    static unsigned char stack[8192];
    ssize_t size = pread(open("/proc/self/mem", O_RDONLY), stack, sizeof stack, (off_t)registers[1]);
    for (int i = 0; i < size; i++) printf("%02x", stack[i]);
    puts("");
    fflush(stdout);
    char byte;
    if (read(0, &byte, 1) < 0) _exit(1);
    _exit(0);
}

FUNCTION int c(int n) {
    CALLED_FROM(1);
    if (as_signal) raise(SIGUSR1);
    else capture();
    return n + sink;
}

FUNCTION int b(int n) { /* a frame of unknown size: the CFA is by rbp */
    CALLED_FROM(2);
    char *room = alloca(n);
    memset(room, n, n);
    return c(room[n / 2]) + room[n - 1];
}

FUNCTION int a(int n) { /* a realigned frame: the CFA is an expression */
    CALLED_FROM(3);
    _Alignas(64) volatile char room[128];
    room[n] = (char)n;
    return b(n * 2) + room[n] + sink;
}

FUNCTION void *thread(void *n) {
    CALLED_FROM(4);
    sink = a(*(int *)n);
    return n;
}

FUNCTION void handler(int n) {
    sink = n;
    capture();
    sink = n;
}

int main(int argc, char **argv) {
    CALLED_FROM(4);
    int n = argc + 19;
    if (argc > 1 && !strcmp(argv[1], "thread")) {
        pthread_t id;
        pthread_create(&id, 0, thread, &n);
        pthread_join(id, 0);
    }
    as_signal = argc > 1 && !strcmp(argv[1], "signal");
    signal(SIGUSR1, handler);
    sink = a(n);
    return sink;
}
