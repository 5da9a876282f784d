"""C++ names as people write them, by the C++ library's own demangler.

A mangled name may come from a hostile binary, and a short one can stand for gigabytes of text or for hours of work: so
it happens in a process of its own, with little memory and time, and what that does not answer stays as it is.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MAX_NAME = 4096  # characters, mangled and demangled
MAX_NAMES = 10_000  # at a time
_CHILD = Path(__file__).with_name("demangle_child.py")
_TIMEOUT_S = 5.0
_TRIES = 3


def demangled(names: Sequence[str]) -> dict[str, str]:
    """Name → what it means; a name that is not mangled, or cannot be read, is itself. Names are cut at MAX_NAME."""
    found = {name: name[:MAX_NAME] for name in names}
    wanted = [name for name in found if name.startswith("_Z") and len(name) <= MAX_NAME and name.isascii()]
    for _ in range(_TRIES):
        answers = _ask(wanted[:MAX_NAMES]) if wanted else []
        found.update(zip(wanted, answers, strict=False))
        wanted = wanted[len(answers) + 1 :]  # one that ended it is left out
    return found


def _ask(names: Sequence[str]) -> list[str]:
    """The answers that came, in order."""
    command = [sys.executable, "-I", "-S", str(_CHILD), str(MAX_NAME)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        text, _ = process.communicate("\n".join(names).encode(), _TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
    answers = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            answers.append(str(json.loads(line))[:MAX_NAME])
    return answers
