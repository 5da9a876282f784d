"""For gdb: every thread's registers, stack and callers of the process it is attached to, as JSON into $STACKS."""

import json
import os

import gdb

REGISTERS = ("rip", "rsp", "rbp", "rbx", "r12", "r13", "r14", "r15")
MADE_UP = (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME)  # frames that are not on the stack


def stack_at(address):
    for size in (8192, 4096, 2048, 1024, 512):
        try:
            return bytes(gdb.selected_inferior().read_memory(address, size))
        except gdb.MemoryError:
            pass
    return b""


found = []
for thread in gdb.selected_inferior().threads():
    thread.switch()
    frame = gdb.newest_frame()
    registers = [int(frame.read_register(name)) % (1 << 64) for name in REGISTERS]
    pcs = []
    while frame is not None and len(pcs) < 64:
        if frame.type() not in MADE_UP:
            pcs.append(frame.pc())
        try:
            frame = frame.older()
        except gdb.error:
            break
    found.append({"registers": registers, "stack": stack_at(registers[1]).hex(), "pcs": pcs})
with open(os.environ["STACKS"], "w") as file:
    json.dump(found, file)
