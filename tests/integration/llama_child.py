"""Run by the engine tests in a process of its own: llama.cpp's shared libraries driven through their C functions.

    python llama_child.py FOLDER MODEL.gguf < pipe

Loads the libraries of FOLDER (libggml-base, the libggml-cpu-* that suits this processor, libllama), says its pid, and
for each line "TOKENS THREADS" of its input decodes one batch of so many tokens in an empty cache and says "done". The
structs that are handed over by value are opaque here: room enough for any version, filled by the library's defaults.
"""

import ctypes
import os
import sys
from pathlib import Path


class Opaque(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_char * 512),)


def main():
    folder, model_path = Path(sys.argv[1]), sys.argv[2]
    libraries = {
        name: ctypes.CDLL(str(next(folder.glob(f"{name}.*so*"))), ctypes.RTLD_GLOBAL)
        for name in ("libggml-base", "libggml", "libllama")
    }
    llama = libraries["libllama"]
    for name in ("model_default_params", "context_default_params", "batch_get_one"):
        getattr(llama, f"llama_{name}").restype = Opaque
    for name in ("model_load_from_file", "init_from_model", "get_memory"):
        getattr(llama, f"llama_{name}").restype = ctypes.c_void_p
    libraries["libggml"].ggml_backend_load_all_from_path(os.fsencode(folder))
    model = llama.llama_model_load_from_file(os.fsencode(model_path), llama.llama_model_default_params())
    context = llama.llama_init_from_model(ctypes.c_void_p(model), llama.llama_context_default_params())
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        count, threads = map(int, line.split())
        llama.llama_memory_clear(ctypes.c_void_p(llama.llama_get_memory(ctypes.c_void_p(context))), True)
        llama.llama_set_n_threads(ctypes.c_void_p(context), threads, threads)
        tokens = (ctypes.c_int32 * count)(*[1000 + 7 * at for at in range(count)])
        status = llama.llama_decode(ctypes.c_void_p(context), llama.llama_batch_get_one(tokens, count))
        print("done" if status == 0 else f"llama_decode: {status}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
