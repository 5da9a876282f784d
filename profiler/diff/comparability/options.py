"""The targets' command lines, option by option: what differs, by the option's long name.

Where several processes were recorded, an option's values are those of all that ran graphs: whose is which is not told.

llama.cpp's short names are known (-t, -c, -ub …), and its own spellings of one option are one. An option that only one
side was given differs from "not given", which is whatever the engine's default is. Options that only name a place
(--port, --log-file) and those that hold a secret (--api-key, --hf-token) are not compared and never shown; a number of
tokens (--max-num-batched-tokens) is no secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from flowprof.profiler.diff.comparability import known
from flowprof.profiler.diff.result import Difference
from flowprof.profiler.store import Recording

COMMANDS_SQL = """
SELECT DISTINCT cmdline FROM process
WHERE coalesce(cmdline, '') <> '' AND (pid IN (SELECT pid FROM graph_exec) OR NOT EXISTS (FROM graph_exec))
ORDER BY cmdline
"""
MOST = 40  # options of a command line, and differences that are told
MAX_VALUE = 120  # signs of a value
NOT_GIVEN, GIVEN = "not given", "given"
ALIASES = {
    "t": "threads", "tb": "threads-batch", "c": "ctx-size", "ctx": "ctx-size", "b": "batch-size",
    "batch": "batch-size", "ub": "ubatch-size", "ubatch": "ubatch-size", "np": "parallel", "slots": "parallel",
    "fa": "flash-attn", "ctk": "cache-type-k", "ctv": "cache-type-v", "ngl": "gpu-layers", "n-gpu-layers": "gpu-layers",
    "cb": "cont-batching", "nkvo": "no-kv-offload", "m": "model", "md": "model-draft", "C": "cpu-mask",
    "Cr": "cpu-range", "n": "predict", "n-predict": "predict", "s": "seed", "ts": "tensor-split", "sm": "split-mode",
    "ot": "override-tensor", "kvu": "kv-unified", "dio": "direct-io",
    "hft": "hf-token",
}  # fmt: skip
WEIGHTS = {  # small: what such an option did is mostly a fact of its own (threads, attention, batches, contexts)
    "threads": 0.1, "threads-batch": 0.1, "ctx-size": 0.05, "batch-size": 0.1, "ubatch-size": 0.1, "parallel": 0.1,
    "flash-attn": 0.1, "cache-type-k": 0.1, "cache-type-v": 0.1, "gpu-layers": 0.4, "mlock": 0.1, "mmap": 0.1,
    "no-mmap": 0.1, "model-draft": 0.4, "numa": 0.2, "cpu-mask": 0.2, "cpu-range": 0.2,
}  # fmt: skip
ANY_WEIGHT = 0.05  # of an option that is not known to change the speed
_NO_MATTER = re.compile(
    "host|port|alias|path|api-prefix|ssl-.*|log-.*|metrics|slots-endpoint|props|webui|no-webui|verbos.*|v|o|"
    "timeout|to|tags"
)
_SECRET = re.compile(r".*(secret|passw|api[-_]?key).*|(.*[-_])?(key|token)", re.IGNORECASE)
_MODEL = ("model", "hf-repo", "hf-file", "model-url")  # what it is says more than where it lies: see the set-up


def differences(sides: known.Sides) -> list[Difference]:
    """One for each option that differs; one that says "same" or "unknown" where none does."""
    lines_a, lines_b = ([line for one in side for line in one] for side in known.each(sides, _commands))
    if not lines_a or not lines_b:
        return [known.words("options", (lines_a, lines_b), 0.0, "")]
    given_a, given_b = ([parsed(line) for line in side] for side in (lines_a, lines_b))
    names = list(dict.fromkeys(name for one in (*given_a, *given_b) for name in one))
    found = []
    for name in names:
        values = [one.get(name, NOT_GIVEN) for one in given_a], [one.get(name, NOT_GIVEN) for one in given_b]
        why = "the target was started with other options"
        told = known.words(f"--{name}", values, WEIGHTS.get(name, ANY_WEIGHT), why)
        if told.sameness == "different":
            found.append(told)
    found.sort(key=lambda one: -one.weight)
    return found[:MOST] or [known.difference("options", False, (f"{len(names)} alike",) * 2, 0.0, "")]


def parsed(line: str) -> Mapping[str, str]:
    """Option → value, by its long name; "given" for one that has no value. What comes before the first is left out.

    Two spellings are two values: `-fa` is not `-fa on`. The last counts where an option is given twice.
    """
    found: dict[str, str] = {}
    name = ""
    for word in line.split():
        option = re.fullmatch(r"--?([A-Za-z][\w-]*)(?:=(.*))?", word)
        if option is not None:
            name = ALIASES.get(option[1], option[1])
            found.pop(name, None)
            found[name] = (option[2] or "")[:MAX_VALUE] if option[2] is not None else GIVEN
        elif name:
            before = "" if found[name] == GIVEN else f"{found[name]} "
            found[name] = f"{before}{word}"[:MAX_VALUE]
    told = [name for name in found if not any(one.fullmatch(name) for one in (_NO_MATTER, _SECRET))]
    told = [name for name in told if name not in _MODEL]
    return {name: found[name] for name in told[:MOST]}


def _commands(recording: Recording) -> list[str]:
    return [str(line) for (line,) in recording.rows(COMMANDS_SQL)]
