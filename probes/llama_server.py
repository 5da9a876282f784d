"""llama-server: when a request is queued, gets a slot, has its tokens, is answered and done.

The HTTP side registers the task id that it waits for with `server_response` and drops it when it has its answer; the
inference loop gives each task a slot, chooses a token for it after each batch, and sends results through
`server_response::send`. Only arguments are read; which tokens share a batch is llama.cpp's to tell (llama.py).
"""

from __future__ import annotations

from flowprof.probes.catalogue import Engine, Ladder, Probe, Rung

_SET = "ERKSt13unordered_setIiSt4hashIiESt8equal_toIiESaIiEE"
_CONTEXTS = ("19server_context_impl", "14server_context")  # the class that runs the slots: now, and until 2025

_ANSWERS = (
    Probe(
        "server.post", "entry", "request_post", 2,
        ("_ZN15server_response19add_waiting_task_idEi",), required=False,
    ),
    Probe(
        "server.post", "entry", "request_post_set", 2,
        (f"_ZN15server_response20add_waiting_task_ids{_SET}",), required=False,
    ),
    Probe(
        "server.result", "entry", "request_result", 2,
        pattern=r"_ZN15server_response4sendEOSt10unique_ptrI.*", excluded=r".*\.cold(\.\d+)?",
    ),
    Probe(
        "server.done", "entry", "request_done", 2,
        ("_ZN15server_response22remove_waiting_task_idEi",), required=False,
    ),
    Probe(
        "server.done", "entry", "request_done_set", 2,
        (f"_ZN15server_response23remove_waiting_task_ids{_SET}",), required=False,
    ),
)  # fmt: skip

_SLOTS = (
    Probe(
        "server.slot_start", "entry", "slot_start", 3,
        tuple(f"_ZN{name}21launch_slot_with_taskER11server_slotO11server_task" for name in _CONTEXTS),
    ),
    Probe(
        "server.slot_token", "entry", "slot_token", 3,
        tuple(f"_ZN{name}13process_tokenER23completion_token_outputR11server_slot" for name in _CONTEXTS),
    ),
    Probe("server.slot_release", "entry", "slot_release", 1, ("_ZN11server_slot7releaseEv",)),
)  # fmt: skip

LLAMA_SERVER = Engine(
    "llama-server",
    b"server_response",
    "ggml.bpf.c",
    (
        Ladder(
            "token",
            "which request waits, since when",
            (
                Rung(
                    "slots",
                    "task ids that the HTTP side waits for and the results sent to it; when a task gets a slot, has a "
                    "token, and gives its slot back",
                    (*_ANSWERS, *_SLOTS),
                ),
                Rung("server_response", "task ids that the HTTP side waits for, and the results sent to it", _ANSWERS),
            ),
        ),
    ),
)  # fmt: skip
