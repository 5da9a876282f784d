"""llama-server: when a request is queued, answered and done.

The HTTP side registers the task id that it waits for with `server_response` and drops it when it has its answer; the
inference loop sends results through `server_response::send`. Only their arguments are read.
"""

from __future__ import annotations

from flowprof.probes.catalogue import Engine, Ladder, Probe, Rung

_SET = "ERKSt13unordered_setIiSt4hashIiESt8equal_toIiESaIiEE"

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
                    "server_response",
                    "task ids that the HTTP side waits for, and the results sent to it",
                    (
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
                    ),
                ),
            ),
        ),
    ),
)  # fmt: skip
