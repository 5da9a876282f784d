"""An older PyTorch, Debian 12's 1.13: other places of files and arguments, schemas that are kept within one another.

Its packages are laid over /usr in a mount namespace of the target's own; nothing is installed.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch_engine
from debs import unpacked
from flowprof.probes import engines
from flowprof.profiler.binaries.module_elf import open_elf
from flowprof.profiler.machine.kernel import version
from flowprof.profiler.planning.plan import make_plan
from flowprof.profiler.target import open_target
from flowprof.profiler.torch import costs as torch_costs
from flowprof.profiler.torch.layout import tensor_layout
from flowprof.profiler.torch.schemas import has_old_optional, read_schemas, struct_name
from recorded import read
from torch_engine import Program

DEBIAN_12 = platform.freedesktop_os_release().get("VERSION_CODENAME") == "bookworm"
pytestmark = [pytest.mark.bpf, pytest.mark.engine, pytest.mark.parallel]
if not DEBIAN_12:
    pytestmark = [pytest.mark.skip(reason="needs Debian 12")]
PYTHON = Path("/usr/bin/python3.11")
OVERLAY = 'mount -t overlay -o "lowerdir=$1/usr:$2/usr:/usr" none /usr && shift 2 && exec "$@"'
PROGRAM = """
import sys, torch
import torch.nn.functional as F
torch.set_grad_enabled(False)
print("1", flush=True)
for line in sys.stdin:
    torch.addmm(torch.ones(9), torch.ones(3, 2), torch.ones(2, 9))
    F.linear(torch.ones(2, 7), torch.ones(4, 7))
    F.linear(torch.ones(2, 7), torch.ones(4, 7), torch.ones(4))
    torch.sum(torch.ones(3, 4), dim=[0], keepdim=True)
    torch.sum(torch.ones(3, 4), dim=[0], keepdim=False)
    torch.cat([torch.ones(2), torch.ones(3)])
    torch.ones(1, 2, 1, 2, 1, 2, dtype=torch.int16).clone()
    torch.convolution(torch.ones(1, 3, 8, 9), torch.ones(6, 3, 3, 2), None, [2, 1], [1, 0], [1, 1], False, [0, 0], 1)
    print("1", flush=True)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """What an installation does beyond unpacking is in a layer of its own."""
    packages, own = unpacked("libtorch1.13", "python3-torch"), tmp_path_factory.mktemp("own")
    own.chmod(0o755)
    shutil.copytree(packages / "lib", own / "usr" / "lib", symlinks=True)
    for library in ("blas", "lapack"):  # of several that provide them it chooses one
        (own / f"usr/lib/x86_64-linux-gnu/lib{library}.so.3").symlink_to(f"{library}/lib{library}.so.3")
    before = ("unshare", "-m", "bash", "-c", OVERLAY, "overlay", *map(str, (own, packages)))
    with torch_engine.running(PROGRAM, *before, executable=PYTHON) as found:
        yield found


def test_every_operator_has_its_sites_and_its_schema(program: Program) -> None:
    target = open_target(program.pid)
    plan = make_plan([target], version(), engines("all"))
    assert plan.rung(program.pid, "op", "torch") == "dispatch"
    entries = [site for site in plan.sites if site.engine == "torch" and site.probe.kind == "entry"]
    operators = {name: site for site in entries if (name := struct_name(site.symbol)) is not None}
    assert len(operators) == 2_952
    assert Counter(site.refused for site in operators.values()) == {False: 2_951, True: 1}
    elf = open_elf(entries[0].module)
    whole = read_schemas(elf)
    assert len([name for name in operators if name not in whole]) == 39, "kept within others"
    schemas = read_schemas(elf, operators)
    unknown = {name for name in operators if name not in schemas}
    assert len(unknown) == 15 and "cos" in unknown, "as cos is at the end of acos and of _foreach_cos"
    assert not unknown & {struct_name(site.symbol) for site in make_plan([target], version(), engines()).sites}
    assert schemas["addmm"].args == ("Tensor", "Tensor", "Tensor", "Scalar", "Scalar")
    assert has_old_optional(site.symbol for site in operators.values())


def test_the_layout(program: Program) -> None:
    target = open_target(program.pid)
    (library,) = (module for module in target.modules if Path(module.path).name == "libtorch_cpu.so.1.13.0")
    layout = tensor_layout(target, library, None)
    assert layout.version.startswith("1.13") and layout.outside


def test_arguments_are_what_was_passed(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with torch_engine.recorded(program.pid, path, torch_ops="addmm|linear|sum_\\w+|cat|clone|convolution"):
        program.ask("go")
    rows = read(
        path,
        "SELECT name, dims, types, scalars FROM api_call LEFT JOIN api_args USING (args_id) "
        "WHERE parent_id IS NULL ORDER BY start_ns",
    )
    seen = [(name.removeprefix("aten::"), *(json.loads(text) for text in texts)) for name, *texts in rows]
    assert [name for name, *_ in seen] == ["addmm", "linear", "linear", "sum", "sum", "cat", "clone", "convolution"]
    addmm, plain, biased, kept, dropped, cat, clone, convolution = (parts for _, *parts in seen)
    assert addmm[0][:3] == [[9], [3, 2], [2, 9]]
    assert (plain[0], plain[1]) == ([[2, 7], [4, 7], []], ["float", "float", ""])
    assert (biased[0], biased[1]) == ([[2, 7], [4, 7], [4]], ["float"] * 3)
    assert (kept[2][2], dropped[2][2]) == ("True", "False"), "behind an optional list"
    assert (cat[0][0], cat[1][0]) == ([[2], [3]], "TensorList(float)")
    assert (clone[0][0], clone[1][0]) == ([1, 2, 1, 2, 1, 2], "short")
    worked = torch_costs.cost("aten::convolution", torch_costs.arguments(*map(json.dumps, convolution)))
    assert worked is not None and worked.flops == 2 * 6 * 4 * 8 * 3 * 3 * 2
