"""Draft a manifest: which resources a program seems to manage, and which functions are their events.

BINARY: an ELF file, by its symbols, calls and debug information. SRC: a file or folder of C, C++ or Python, with
tree-sitter (pip install 'flowprof[scan]'). PID: the program and the libraries of its own that wait for something.
The draft is TOML with the evidence as comments, to be read and corrected; nothing is attached to, nothing is run.

--llm URL asks a language model about the candidates, of any OpenAI-compatible endpoint: https, or http on this machine.
Its answers are checked against the code, kept (~/.cache/flowprof) and marked; after 20 minutes it is asked no more, and
what was answered stands. Without it nothing leaves this machine;
--dry-run prints what would be sent, and sends nothing. A key is taken from FLOWPROF_LLM_KEY.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowprof.profiler.messages import printable, say

if TYPE_CHECKING:
    from flowprof.profiler.scan.material import Material

MAX_MODULES = 16


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="BINARY|SRC|PID", help="a program or library, a source tree, or a process")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the draft here (default: standard output)")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--debug-dir", action="append", default=[], metavar="DIR", help="where debug files lie, too")
    parser.add_argument(
        "--llm", metavar="URL", help="ask this endpoint about the candidates, like http://127.0.0.1:8080"
    )
    parser.add_argument("--model", default="default", metavar="NAME", help="the endpoint's name of the model")
    parser.add_argument("--dry-run", action="store_true", help="show what --llm would send, and send nothing")
    parser.add_argument("--json", action="store_true", help="all candidates with their evidence, as JSON")


def run(asked: argparse.Namespace) -> int:
    from flowprof.profiler.errors import UsageError
    from flowprof.profiler.scan import candidates, draft

    if asked.output and Path(asked.output).exists() and not asked.force:
        raise UsageError(f"{asked.output} is there already", "add -f to overwrite it")
    if asked.llm:
        from flowprof.profiler.scan import endpoint

        endpoint.checked(asked.llm)
        until = time.monotonic() + endpoint.ALL_S
    materials = list(_materials(asked.what, tuple(asked.debug_dir)))
    texts = []
    for material in materials:
        found = candidates.find(material)
        remarks: Sequence[str] = ()
        if asked.dry_run or asked.llm:
            from flowprof.profiler.scan import opinion

            if asked.dry_run:
                sys.stdout.write(opinion.shown(found, asked.model, asked.llm or "the endpoint that --llm names"))
                continue
            found, remarks = opinion.asked(found, asked.llm, asked.model, say, until)
        chosen = draft.chosen_of(found)
        say(
            f"{printable(material.path)}: {len(material.functions)} functions, {len(found)} candidates, "
            f"{len(chosen)} drafted{': ' + ', '.join(c.name for c in chosen[:5]) if chosen else ''}"
        )
        texts.append((draft.as_json if asked.json else draft.as_toml)(material, found, remarks))
    if asked.dry_run:
        return 0
    if len(texts) > 1 and asked.json:
        texts = ["[\n", ",\n".join(texts), "]\n"]
    _write(texts, asked.output, [Path(m.path).name for m in materials], asked.json)
    return 0


def _materials(what: str, debug_dirs: tuple[str, ...]) -> Sequence[Material]:
    """What there is to scan. Raises NotFoundError, ElfError, NothingToProfileError, UsageError."""
    from flowprof.profiler.errors import NotFoundError

    path = Path(what)
    if what.isdigit() and not path.exists():
        return _of_process(int(what), debug_dirs)
    try:
        there, folder = path.exists(), path.is_dir()
    except (OSError, ValueError):
        there = folder = False
    if not there:
        raise NotFoundError(f"no such file, folder or process: {what}", "flowprof resources scan BINARY|SRC|PID")
    if folder or path.suffix in (".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".py"):
        from flowprof.profiler.scan import source

        return [source.read(what)]
    from flowprof.profiler.scan import binary

    return [binary.read(what, debug_dirs)]


def _of_process(pid: int, debug_dirs: tuple[str, ...]) -> Sequence[Material]:
    from flowprof.profiler.errors import FlowprofError, NothingToProfileError
    from flowprof.profiler.scan import binary
    from flowprof.profiler.target import open_target

    target = open_target(pid)
    own = [m for m in target.modules if m.path == target.exe or not m.path.startswith(("/lib", "/usr/lib"))]
    if len(own) > MAX_MODULES:
        own = sorted(own, key=lambda m: -Path(m.open_path).stat().st_size)[:MAX_MODULES]
        say(f"only the {MAX_MODULES} largest of its files are scanned")
    found = []
    for module in own:
        try:
            material = binary.read(module.open_path, debug_dirs, module.path, f"/proc/{pid}/root")
        except FlowprofError as error:
            say(f"passed over: {printable(error.message)}")
            continue
        if any(function.waits or function.locks for function in material.functions):
            found.append(material)
    if not found:
        raise NothingToProfileError(
            f"no file of process {pid} names functions that wait or lock",
            "flowprof resources scan BINARY, with its debug symbols; or its source tree",
        )
    return found


def _write(texts: Sequence[str], output: str | None, names: Sequence[str], one: bool) -> None:
    """To the file, or the files when there is one draft for each of several modules: a manifest is of one."""
    from flowprof.profiler.whole_file import write_whole

    if output is None:
        sys.stdout.write("".join(texts))
        return
    if one or len(texts) == 1:
        targets = [(Path(output), "".join(texts))]
    else:
        beside = [Path(output).with_name(f"{Path(output).stem}-{name}.toml") for name in names]
        targets = list(zip(beside, texts, strict=True))
    for path, text in targets:
        write_whole(path, text, "choose another FILE")
        say(f"{path}: a draft: read it and correct it before it is used")
