"""`waits.wakeup`: the engine's threads sleep at every barrier, and pay for being woken.

A tiny model has hundreds of barriers a token, some microseconds apart. Threads that do not spin there go to sleep,
their processor idles, and comes back late: how late is up to the machine, so that on some this costs too little to be
found. Where others run meanwhile the processors do not idle, and it is not there.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted import Planted, show


def asleep() -> tuple[str, ...]:
    return ("env", "OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT=0")


PLANTED = Planted("waits.wakeup", model="tiny", wrapper=asleep)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
