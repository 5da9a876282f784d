"""The words by which programs name what they manage, and what is done to it; and the points that each kind of
evidence is worth. Points add up; a candidate is drafted from `DRAFTED` on. They were set by hand on llama.cpp's server
and tests/data/resource_program.c; `make bench` prints what they find there and in a program they were not set on.
"""

from __future__ import annotations

from collections.abc import Iterable


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NOUNS: dict[str, tuple[str, ...]] = {
    "queue": (
        *("queue", "slot", "threadpool", "worker", "executor", "scheduler", "sched", "channel", "pipe", "mailbox"),
        *("response", "fifo", "backlog", "dispatcher", "inbox", "connection", "deque", "taskq", "workqueue"),
    ),
    "state": (
        *("lock", "mutex", "rwlock", "latch", "semaphore", "sema", "table", "registry", "section", "barrier"),
        *("monitor", "gate", "catalog", "session", "spinlock", "lwlock", "lease"),
    ),
    "memory": (
        *("cache", "cell", "pool", "page", "buffer", "arena", "slab", "freelist", "memory", "heap", "ring", "alloc"),
        *("allocr", "allocator", "block", "chunk", "frame", "undo", "log"),
    ),
}  # fmt: skip
INSIDE = ("pool", "queue", "alloc", "mutex", "cache", "buffer")
"""These count as the end of a longer word, too: threadpool, gallocr."""

ACQUIRE = _set(
    "acquire lock rdlock wrlock trylock enter pin borrow checkout claim reserve launch grab take lease obtain"
)
ACQUIRE_MAYBE = _set("get alloc allocate find lookup start begin fetch assign prepare load")
RELEASE = _set("release unlock leave unpin return checkin put give relinquish recycle giveback")
RELEASE_MAYBE = _set("free dealloc deallocate end finish rm remove evict drop purge clear unload")
PUSH = _set("push enqueue post send submit defer broadcast produce offer")
PUSH_MAYBE = _set("add append write schedule put insert")
POP = _set("pop dequeue recv receive consume drain take")
POP_MAYBE = _set("next read process poll get")
WAITS = _set("wait await sleep")
USES = _set("use touch access update apply read write process")
VERBS = ACQUIRE | ACQUIRE_MAYBE | RELEASE | RELEASE_MAYBE | PUSH | PUSH_MAYBE | POP | POP_MAYBE | WAITS | USES
LOOKUPS = _set("get find lookup search fetch request alloc allocate")
FREE = _set("free available avail idle empty unused next new")
"""With a unit's name these tell a look-up of units (`get_available_slot`) from a getter (`get_slot_size`)."""
PLACES = ("slot", "threadpool", "connection", "pool")
"""Of the kind queue, and yet what is taken and given back by whoever uses it."""
LIFETIME = _set("init initialize create new make destroy delete del dtor setup ctor construct")
"""The whole resource's beginning and end: these are no events of it."""
OF_ANOTHER = _set("manager mgr impl internals base state ctx data")
"""Of no meaning of their own: a BufferManager is about buffers, a SecretManager about none of our nouns."""
NOT_MANAGED = _set(
    "parser iterator json grammar formatter string tokenizer params config options error builder "
    "vocab template lexer schema regex test visitor printer encoder decoder writer reader stream "
    "exception info stats arg args descriptor operator model graph op tensor kernel detail internal "
    "util utils getprop setprop"
)
"""Types that are named so are work or data, not something that is shared out."""

DRAFTED = 3.5
NOUN, NOUN_WITHIN = 2.0, 1.5
WAIT_LOOP, WAIT_SPIN, WAIT_ONCE, WAKES = 3.0, 2.0, 1.0, 1.5
PAIR, PAIR_MAYBE, PAIR_QUEUE = 2.5, 1.0, 2.0
HALF, HALF_QUEUE = 1.0, 1.5
LOOKS_UP, LOCKED, CHECKED, REFUTED = 1.0, 1.0, 0.5, -0.5
MEMBERS = {"condition": 2.0, "lock": 1.0, "container": 1.0}
NOT_A_RESOURCE = -2.5


def kind_of(parts: Iterable[str]) -> tuple[str, str, bool] | None:
    """(kind, noun, whether it is the head) for the words of a type's name; the last noun decides."""
    parts = list(parts)
    while parts and parts[-1] in OF_ANOTHER:
        parts.pop()
    for at in range(len(parts) - 1, -1, -1):
        for kind, nouns in NOUNS.items():
            noun = _noun(parts[at], nouns)
            if noun:
                pool_of_threads = noun == "pool" and bool({"thread", "threadpool", "worker", "task"} & set(parts))
                return ("queue" if pool_of_threads else kind), noun, at == len(parts) - 1
    return None


def _noun(word: str, nouns: tuple[str, ...]) -> str:
    singular = word[:-1] if word.endswith("s") and not word.endswith("ss") else word
    for noun in nouns:
        if singular == noun or (noun in INSIDE and noun in singular):
            return noun
    return ""
