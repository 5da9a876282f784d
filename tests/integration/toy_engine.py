"""A toy that holds an engine's entry point and does what it is told: the targets of tests on faults and bad input.

    with Toy(folder) as toy: toy.call(23); toy.fork(10); toy.load(other_library)

A C program that reads commands from its input, and libraries whose only function is an empty `ggml_graph_compute`.
Real engines are slow to start and cannot be told to fork, to load or to call exactly 23 times.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

LIBRARY = r"""
__attribute__((noinline)) int ggml_graph_compute(char *graph, void *plan) { graph[NUMBER]++; return graph[0] + !plan; }
"""
PROGRAM = r"""
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static char graph[65536];
static int (*compute)(char *, void *);
static long count;

static void *call(void *none)
{
	for (long i = 0; i < count; i++)
		compute(graph, 0);
	return none;
}

static void load(const char *path)
{
	void *library = dlopen(path, RTLD_NOW);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		exit(99);
	}
	compute = (int (*)(char *, void *))dlsym(library, "ggml_graph_compute");
}

int main(int argc, char **argv)
{
	char line[4096], word[16];
	int threads, answer = 0;
	if (argc > 1 && argv[1][0])
		load(argv[1]);
	while (printf("%d\n", answer), fflush(stdout), fgets(line, sizeof(line), stdin)) {
		char *rest = strchr(line, ' ');
		line[strcspn(line, "\n")] = 0;
		rest = rest ? rest + 1 : line + strlen(line);
		sscanf(line, "%15s", word);
		answer = 0;
		if (!strcmp(word, "call")) {
			count = atol(rest);
			call(0);
		} else if (!strcmp(word, "fork")) {
			int status;
			count = atol(rest);
			if (!fork()) {
				call(0);
				_exit(5);
			}
			wait(&status);
			answer = status;
		} else if (!strcmp(word, "threads")) {
			sscanf(rest, "%d %ld", &threads, &count);
			while (threads--) {
				pthread_t thread;
				pthread_create(&thread, 0, call, 0);
				pthread_join(thread, 0);
			}
		} else if (!strcmp(word, "load")) {
			load(rest);
		} else if (!strcmp(word, "name")) {
			prctl(PR_SET_NAME, rest);
		} else if (!strcmp(word, "exec")) {
			execl(rest, rest, argv[1], (char *)0);
			answer = 98;
		} else {
			exit(atoi(rest));
		}
	}
	return 0;
}
"""


def build(folder: Path, libraries: int = 1) -> tuple[Path, list[Path]]:
    """Compile the program and that many different libraries into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.c").write_text(PROGRAM)
    (folder / "library.c").write_text(LIBRARY)
    program, built = folder / "toy", []
    subprocess.run(["gcc", "-O1", "-pthread", "-o", program, folder / "toy.c", "-ldl"], check=True)
    for number in range(libraries):
        built.append(folder / f"libtoy{number}.so")
        flags = ["-O1", "-shared", "-fPIC", f"-DNUMBER={number}"]
        subprocess.run(["gcc", *flags, "-o", built[-1], folder / "library.c"], check=True)
    return program, built


class Toy:
    """The program, running. `command` in front of it: a wrapper. Methods return when it has done as it was told."""

    def __init__(self, program: Path | bytes, library: Path | str | bytes = "", command: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen([*command, program, library], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.process.pid
        assert self._answer() == 0

    def _answer(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the toy has ended with {self.process.wait()}"
        return int(line)

    def tell(self, text: str | bytes) -> int:
        """Send one command; its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write((text.encode() if isinstance(text, str) else text) + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def call(self, times: int) -> int:
        """Call the engine's function on the main thread."""
        return self.tell(f"call {times}")

    def fork(self, times: int) -> int:
        """Let a forked child call it; the child's wait status (it leaves with 5)."""
        return self.tell(f"fork {times}")

    def threads(self, number: int, times: int) -> int:
        """Start threads one after the other; each calls it and ends."""
        return self.tell(f"threads {number} {times}")

    def load(self, library: Path) -> int:
        """dlopen a library and call its function from now on."""
        return self.tell(f"load {library}")

    def exec(self, program: Path) -> int:
        """Become another program."""
        return self.tell(f"exec {program}")

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def __enter__(self) -> Toy:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()
