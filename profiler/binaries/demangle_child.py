"""Demangle the lines of the input, one JSON text a line, within little memory and time. Run by demangle.py.

Only the standard library: it is run without the packages that flowprof needs, for it must start in no time.
"""

import ctypes
import json
import resource
import sys

MEMORY_BYTES = 256 << 20
SECONDS = 1  # of processor time


def main(longest: int) -> None:
    library = ctypes.CDLL("libstdc++.so.6")
    demangle = library.__cxa_demangle
    demangle.restype = ctypes.c_void_p
    demangle.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer.read().split(b"\n"):
        status = ctypes.c_int()
        text = demangle(line, None, None, ctypes.byref(status))
        if text:
            answer = ctypes.string_at(text)[:longest]
            free(text)
        else:
            answer = line
        sys.stdout.write(json.dumps(answer.decode("utf-8", "replace")) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
