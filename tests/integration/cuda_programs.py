"""A C program that calls CUDA and NCCL as it is told, on a stub of the libraries or on the real runtime.

    built = build(folder)
    with built.run("shared") as program:
        program.tell("serialised", 5)

The stub's streams are queues in time, so every duration is known (examples/cuda/stub.c). The real runtime fails every
call where there is no GPU, after the probes have seen it.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from flowprof.examples import cuda_program
from flowprof.examples.cuda_program import Program
from wheels import X86, wheel

RUNTIME = "nvidia-cuda-runtime-cu12==12.9.79"
KERNELS = "bitsandbytes==0.50.2"


@dataclass(frozen=True, slots=True)
class Built:
    """Programs by name, and the folders in which each finds its libraries."""

    programs: dict[str, tuple[Path, Path]]

    def run(self, name: str) -> Program:
        path, libraries = self.programs[name]
        return Program(path, libraries)


def build(folder: Path) -> Built:
    """Compile every variant: a shared runtime, a static one, one that calls the driver, with NCCL, for the real one."""

    def compiled(name: str, *sources: str, shared: str = "", flags: tuple[str, ...] = ()) -> Path:
        return cuda_program.compiled(folder / name, *sources, shared=shared, flags=flags)

    runtime, driver = cuda_program.RUNTIME, "libcuda.so.1"
    plain = compiled("shared", "stub.c", shared=runtime)
    compiled("shared", "program.c", flags=(str(plain),))
    compiled("real", "program.c", flags=("-DREAL", str(plain)))
    compiled("static", "program.c", "stub.c")
    compiled("stripped", "program.c", flags=(str(plain), "-s"))
    (folder / "stripped" / runtime).symlink_to(plain)
    instant = compiled("instant", "stub.c", shared=runtime, flags=("-DKERNEL_US=0",))
    compiled("instant", "program.c", flags=(str(instant),))
    below = compiled("driver", "driver.c", shared=driver)
    above = compiled("driver", "stub.c", shared=runtime, flags=("-DDRIVER", str(below)))
    compiled("driver", "program.c", flags=("-DDRIVER", str(above), str(below)))
    inside = compiled("embedded", "driver.c", shared=driver)
    embedded = compiled("embedded", "program.c", "stub.c", flags=("-DDRIVER", str(inside)))
    subprocess.run(["strip", "-s", embedded], check=True)
    own = compiled("nccl", "stub.c", shared=runtime)
    network = compiled("nccl", "nccl.c", shared="libnccl.so.2", flags=(str(own),))
    compiled("nccl", "program.c", flags=("-DNCCL", str(network), str(own)))
    (folder / "later").mkdir()
    for library in (network, own):
        (folder / "later" / library.name).symlink_to(library)
    compiled("later", "program.c", flags=(str(own),))
    names = ("shared", "static", "stripped", "instant", "driver", "embedded", "nccl", "later", "real")
    return Built({name: (folder / name / "program", folder / name) for name in names})


def real_runtime() -> Path:
    """The folder of NVIDIA's own libcudart.so.12. Skips where it cannot be had."""
    [library] = wheel(RUNTIME).rglob("libcudart.so.12")
    return library.parent


def real_kernels(folder: Path) -> tuple[Path, Path]:
    """A program that calls a CUDA library of others (bitsandbytes), and the folder with all that this links.

    Its products by cuBLAS are never called, so libraries without functions take cuBLAS' place.
    """
    [library] = wheel(KERNELS, (*X86, "manylinux_2_24_x86_64"), "cuda128.so").rglob("*.so")
    folder.mkdir()
    (folder / "libkernels.so").symlink_to(library)
    (folder / "libcudart.so.12").symlink_to(real_runtime() / "libcudart.so.12")
    for name in ("libcublas.so.12", "libcublasLt.so.12"):
        command = ["gcc", "-shared", "-xc", "/dev/null", "-o", folder / name, f"-Wl,-soname,{name}"]
        subprocess.run(command, check=True)
    subprocess.run(["gcc", "-O1", "-o", folder / "program", cuda_program.SOURCES / "quantize.c", "-ldl"], check=True)
    return folder / "program", folder
