"""Before torch's operators are probed: their names, the arguments to read, where tensors keep their shapes."""

from __future__ import annotations

from flowprof.profiler.binaries.module_elf import open_elf
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.record.session import Process, Session
from flowprof.profiler.torch.layout import LayoutUnknown, tensor_layout
from flowprof.profiler.torch.schemas import has_old_optional, read_schemas, struct_name


def prepare(session: Session, process: Process) -> None:
    """Tell the programs and the decoder what the new sites of this process's torch need; nothing where it has none.

    The target's interpreter is started for the first recording of a build of torch (see torch_layout.py). Where that
    fails the recording has no shapes, and says so.
    """
    process.calls.know([site for site in process.sites if site.engine == "inductor" and not site.refused], {})
    sites = [site for site in process.sites if site.engine == "torch" and not site.refused]
    sites = [site for site in sites if not process.calls.knows(site)]
    of_operators = [site for site in sites if struct_name(site.symbol) is not None]
    if not of_operators:
        process.calls.know(sites, {})
        return
    module, build_id = of_operators[0].module, of_operators[0].build_id
    try:
        wanted = {name for site in of_operators if (name := struct_name(site.symbol)) is not None}
        schemas = read_schemas(open_elf(module, session.options.debug_dirs), wanted)
    except FlowprofError:
        schemas = {}
    process.calls.know(sites, schemas)
    old = has_old_optional(site.symbol for site in of_operators)
    for site in of_operators:
        schema = schemas.get(struct_name(site.symbol) or "")
        places = schema.places(site.symbol, old) if schema else ()
        if places:
            session.probes.read_arguments(site.site_id, places)
    try:
        layout = tensor_layout(process.target, module, build_id)
    except LayoutUnknown as unknown:
        session.note(process.target.pid, "tensor layout unknown", f"no shapes are recorded: {unknown.message}")
        session.recording.set_meta("tensor_layout", f"unknown: {unknown.message}")
        return
    session.probes.set_tensor_layout(process.target.pid, layout)
    session.recording.set_meta("tensor_layout", f"torch {layout.version}, from its own interpreter")
    process.engine_versions["torch"] = layout.version
