"""A source tree as scan material: C, C++ and Python, by tree-sitter; the only module that knows it.

Nothing is compiled, included or run: every file is parsed alone, broken ones as far as they can be. Macros are seen as
they are written. Functions of Python have no symbol that a probe could sit on: their resources are told, not drafted.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flowprof.profiler.errors import NothingToProfileError, UsageError
from flowprof.profiler.scan.material import UNKNOWN, Function, Material, Shape, Wait, Waiting
from flowprof.profiler.scan.signature import split
from flowprof.profiler.untrusted_file import open_plain

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

MAX_FILES = 20_000
MAX_FILE = 2 << 20
MAX_TOTAL = 128 << 20
LANGUAGES = {
    **dict.fromkeys((".c",), "c"), **dict.fromkeys((".py",), "python"),
    **dict.fromkeys((".h", ".hh", ".hpp", ".hxx", ".cc", ".cpp", ".cxx", ".cu", ".inl"), "cpp"),
}  # fmt: skip
_PASSED_OVER = frozenset({"node_modules", "__pycache__", "build", "site-packages", "tests", "test"})
_WAITS: tuple[tuple[Wait, str], ...] = (
    ("condition", r"(?:pthread_cond|cnd)_(?:timed|clock)?wait|cv_wait\w*"),
    ("semaphore", r"sem_(?:timed|clock)?wait"),
    ("barrier", r"pthread_barrier_wait|GOMP_barrier|arrive_and_wait"),
    ("futex", r"futex(?:_wait)?"),
    ("spin", r"_mm_pause|__builtin_ia32_pause|cpu_relax"),
)
_WAKES = re.compile(r"pthread_cond_(?:signal|broadcast)|cnd_(?:signal|broadcast)|sem_post|notify(?:_one|_all)?")
_LOCKS = re.compile(r"pthread_(?:mutex|rwlock|spin)_(?:rd|wr)?lock|mtx_lock")
_GUARDS = re.compile(r"\b(?:lock_guard|unique_lock|scoped_lock|shared_lock)\b")
_SEARCHES = re.compile(r"find|lookup|search|hash|pop|front|back|top|begin|min|max", re.IGNORECASE)
_LOOPS = ("while_statement", "for_statement", "do_statement", "for_range_loop")
_NAMES = ("identifier", "field_identifier", "this", "qualified_identifier")


@dataclass
class _Found:
    """One function while the tree is read."""

    function: Function
    body: Node | None
    parameters: list[str]  # names
    waits_on: list[tuple[str, str, bool]] = field(default_factory=list)  # receiver, call, looped


def read(path: str) -> Material:
    """Raises UsageError without tree-sitter, NothingToProfileError where no function was found."""
    parsers = _parsers()
    tree = _Tree(Path(path))
    for file, language in _files(Path(path), tree.notes):
        tree.add(file, parsers[language], language)
    if not tree.found:
        raise NothingToProfileError(
            f"{path!r} holds no function in C, C++ or Python", "flowprof resources scan BINARY|SRC|PID"
        )
    return tree.material()


def _parsers() -> dict[str, Parser]:
    try:
        import tree_sitter_c
        import tree_sitter_cpp
        import tree_sitter_python
        from tree_sitter import Language, Parser
    except ImportError as error:
        raise UsageError("reading sources needs tree-sitter", "pip install 'flowprof[scan]'") from error
    return {
        "c": Parser(Language(tree_sitter_c.language())),
        "cpp": Parser(Language(tree_sitter_cpp.language())),
        "python": Parser(Language(tree_sitter_python.language())),
    }


def _files(path: Path, notes: list[str]) -> Iterator[tuple[Path, str]]:
    """The sources below the path, no links, tests and builds left out."""
    if path.is_file():
        yield path, LANGUAGES.get(path.suffix, "cpp")
        return
    count = total = 0
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _PASSED_OVER)
        for name in sorted(names):
            file = Path(folder, name)
            if file.suffix not in LANGUAGES or file.is_symlink() or not file.is_file():
                continue
            size = file.stat().st_size
            if size > MAX_FILE:
                notes.append(f"{file} was passed over: it is larger than {MAX_FILE >> 20} MiB")
                continue
            count, total = count + 1, total + size
            if count > MAX_FILES or total > MAX_TOTAL:
                notes.append(f"only the first {count - 1} files were read")
                return
            yield file, LANGUAGES[file.suffix]


class _Tree:
    """What was read of all files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: list[_Found] = []
        self.types: dict[str, dict[str, str]] = {}
        self.calls: dict[str, list[Node]] = defaultdict(list)
        self.notes: list[str] = []
        self._bodies: dict[tuple[str, str], _Found] = {}

    def add(self, file: Path, parser: Parser, language: str) -> None:
        """Parse one file."""
        try:
            with open(open_plain(file), "rb") as stream:
                text = stream.read(MAX_FILE)
        except OSError as error:
            self.notes.append(f"{file} cannot be read: {error.strerror}")
            return
        shown = str(file.relative_to(self.root)) if file != self.root else file.name
        stack: list[tuple[Node, tuple[str, ...]]] = [(parser.parse(text).root_node, ())]
        while stack:
            node, scope = stack.pop()
            inside = scope
            if node.type in ("class_specifier", "struct_specifier", "namespace_definition", "class_definition"):
                name = _field(node, "name")
                inside = (*scope, *_path(name)) if name else scope
                body = node.child_by_field_name("body")
                if body is not None and node.type.endswith("_specifier") and name:
                    self.types.setdefault(_path(name)[-1], _members(body))
            elif node.type == "type_definition":
                self._named_struct(node)
            elif node.type == "function_definition":
                self._function(node, scope, f"{shown}:{node.start_point[0] + 1}", language)
                continue  # what is defined inside a function is left out
            stack += [(child, inside) for child in reversed(node.named_children)]

    def _named_struct(self, node: Node) -> None:
        """`typedef struct { … } name;`"""
        kind, name = node.child_by_field_name("type"), _field(node, "declarator")
        body = kind.child_by_field_name("body") if kind is not None else None
        if body is not None and name.isidentifier():
            self.types.setdefault(name, _members(body))

    def _function(self, node: Node, scope: tuple[str, ...], where: str, language: str) -> None:
        body = node.child_by_field_name("body")
        if language == "python":
            base, types, names, returns = _field(node, "name"), None, _python_parameters(node), ""
            self._python_members(scope, base, body)
        else:
            declarator = node.child_by_field_name("declarator")
            pointers = ""
            while declarator is not None and declarator.type != "function_declarator":
                pointers += "*" if declarator.type == "pointer_declarator" else ""
                declarator = declarator.child_by_field_name("declarator") or next(iter(declarator.named_children), None)
            if declarator is None:
                return
            path = _path(_field(declarator, "declarator"))
            if not path or not all(re.fullmatch(r"~?[A-Za-z_]\w*", part, re.ASCII) for part in path):
                return
            scope, base = (*scope, *path[:-1]), path[-1]
            types, names = _parameters(declarator)
            returns = _field(node, "type") + pointers
        if not base:
            return
        one = _Found(Function("", scope, base, where), body, names)
        waits, wakes, locks = self._body(one, body, language)
        plain = language == "c"
        name = base if plain else f"{'::'.join((*scope, base))}({', '.join(types or ())})"
        one.function = Function(
            name, () if plain else scope, base, where, types, returns, waits, wakes, locks, False, language != "python"
        )  # fmt: skip
        self.found.append(one)
        self._bodies.setdefault((where, base), one)

    def _body(self, one: _Found, body: Node | None, language: str) -> tuple[tuple[Waiting, ...], bool, bool]:
        """Its waits by name, whether it wakes and whether it locks; its calls are kept."""
        waits: list[Waiting] = []
        wakes = locks = False
        stack = [(body, False)] if body is not None else []
        while stack:
            node, looped = stack.pop()
            looped = looped or node.type in _LOOPS
            if node.type in ("call_expression", "call"):
                called = _field(node, "function")
                receiver, _, name = called.replace("->", ".").rpartition(".")
                name = name.rsplit("::", 1)[-1]
                self.calls[name].append(node)
                wakes |= _WAKES.fullmatch(name) is not None and (language != "python" or "notify" in name)
                locks |= _LOCKS.fullmatch(name) is not None or (name in ("lock", "acquire") and bool(receiver))
                kind = next((kind for kind, pattern in _WAITS if re.fullmatch(pattern, name)), None)
                if kind is not None:
                    waits.append(Waiting(kind, name, looped or kind in ("semaphore", "barrier")))
                elif name in ("wait", "wait_for", "wait_until") and receiver:
                    most = {"wait": 1, "wait_for": 2, "wait_until": 2}[name]
                    one.waits_on.append((receiver.rsplit(".", 1)[-1], name, looped or len(_arguments(node)) > most))
            elif node.type == "declaration":
                locks |= _GUARDS.search(_field(node, "type")) is not None
            elif node.type == "with_item":
                locks |= "lock" in _text(node).lower()
            stack += [(child, looped) for child in node.named_children if child.type != "lambda_expression"]
        return tuple(dict.fromkeys(waits)), wakes, locks

    def _python_members(self, scope: tuple[str, ...], base: str, body: Node | None) -> None:
        if base != "__init__" or not scope or body is None:
            return
        members = self.types.setdefault(scope[-1], {})
        for found in re.finditer(r"self\.(\w+)\s*(?::[^=\n]+)?=\s*([\w.\[\]]+)\(?", _text(body)):
            members.setdefault(found[1], found[2])

    def material(self) -> Material:
        """Everything; waits on objects are kept where the object is, or is called, a condition variable."""
        conditions = {
            name for members in self.types.values() for name, kind in members.items()
            if re.search(r"condition|Condition", kind)
        }  # fmt: skip
        functions = []
        for one in self.found:
            f = one.function
            more = [
                Waiting("condition", f"{receiver}.{call}", looped)
                for receiver, call, looped in one.waits_on
                if receiver in conditions or re.search(r"cond|cv", receiver)
            ]
            functions.append(
                Function(
                    f.name, f.scope, f.base, f.where, f.parameters, f.returns, tuple(dict.fromkeys((*f.waits, *more))),
                    f.wakes, f.locks, f.inner, f.probed,
                )
            )  # fmt: skip
        if not all(f.probed for f in functions):
            self.notes.append("functions of Python cannot be probed: what they manage is told and not drafted")
        return Material(
            str(self.root), "source", tuple(functions), types=self.types, notes=tuple(self.notes), shape=self.shape
        )

    def shape(self, function: Function) -> Shape:
        """By names in the function's body: what a returned expression is made of, whether there is a search."""
        one = self._bodies.get((function.where, function.base))
        if one is None or one.body is None:
            return UNKNOWN
        known = {*one.parameters, "this", "self", *self.types.get(function.scope[-1] if function.scope else "", {})}
        unit = one.parameters[-1] if one.parameters else ""
        lookup = derived = gives_back = changes = False
        for node in _walk(one.body):
            if node.type in (*_LOOPS, "subscript_expression", "subscript"):
                lookup = True
            elif node.type in ("call_expression", "call"):
                changes = True  # what it calls may
                lookup |= _SEARCHES.search(_field(node, "function").replace("->", ".").rpartition(".")[2]) is not None
            elif node.type in ("init_declarator", "assignment_expression", "assignment"):
                left = node.child_by_field_name("declarator") or node.child_by_field_name("left")
                right = node.child_by_field_name("value") or node.child_by_field_name("right")
                changes |= left is not None and re.search(r"->|\.|\[|\*|::", _text(left)) is not None
                if left is not None and right is not None and _identifiers(right) & known:
                    known |= {name for name in _identifiers(left) if _text(left).strip("*& ") == name}
            elif node.type in ("update_expression", "augmented_assignment"):
                changes = True
            elif node.type == "return_statement":
                returned = _identifiers(node)
                derived |= bool(returned & known)
                gives_back |= bool(unit) and _text(node).removeprefix("return").strip(" ;()") == unit
        return Shape(lookup, derived, gives_back, self._used_after(function), changes)

    def _used_after(self, function: Function) -> str | None:
        """Where a caller reads what it gave back, in the statements after the call."""
        looked = False
        for call in self.calls.get(function.base, [])[:64]:
            arguments = _arguments(call)
            if not arguments or not arguments[-1].isidentifier():
                continue
            unit, statement = arguments[-1], call
            while statement.parent is not None and statement.parent.type not in ("compound_statement", "block"):
                statement = statement.parent
            looked = True
            after = statement.next_named_sibling
            while after is not None:
                text = _text(after)
                if re.match(rf"(?:[\w:<>*& ]+\s)?\*?{unit}\s*=[^=]", text):
                    break
                if re.search(rf"(?:\*\s*{unit}\b|\b{unit}\s*(?:->|\.|\[))", text):
                    return f"line {after.start_point[0] + 1}"
                after = after.next_named_sibling
        return "" if looked else None


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def _field(node: Node, name: str) -> str:
    child = node.child_by_field_name(name)
    return _text(child) if child is not None else ""


def _path(name: str) -> list[str]:
    """`ns::Pool<T>::get` in its parts, without template arguments."""
    return [part.split("<")[0].strip() for part in split(name, "::") if part.strip()]


def _walk(node: Node) -> Iterator[Node]:
    """The node and all beneath, in the order of the text."""
    stack = [node]
    while stack:
        one = stack.pop()
        yield one
        stack += reversed(one.named_children)


def _identifiers(node: Node) -> set[str]:
    return {_text(one) for one in _walk(node) if one.type in _NAMES}


def _arguments(call: Node) -> list[str]:
    given = call.child_by_field_name("arguments")
    return [_text(one).lstrip("&") for one in given.named_children] if given is not None else []


def _members(body: Node) -> dict[str, str]:
    """Name → type of a class's data."""
    found: dict[str, str] = {}
    for child in body.named_children:
        declarator = child.child_by_field_name("declarator")
        if child.type == "field_declaration" and declarator is not None and declarator.type != "function_declarator":
            name = re.search(r"[A-Za-z_]\w*", _text(declarator))
            if name and len(found) < 256:
                found[name[0]] = _field(child, "type") + "*" * _text(declarator).count("*")
    return found


def _parameters(declarator: Node) -> tuple[tuple[str, ...], list[str]]:
    """Types and names."""
    given = declarator.child_by_field_name("parameters")
    types, names = [], []
    for one in given.named_children if given is not None else ():
        if one.type not in ("parameter_declaration", "optional_parameter_declaration"):
            continue
        inner = _field(one, "declarator")
        kind = _field(one, "type")
        if kind == "void" and not inner:
            continue
        types.append(kind + "".join(c for c in inner.split("=")[0] if c in "*&"))
        name = re.findall(r"[A-Za-z_]\w*", inner)
        names += name[-1:]
    return tuple(types), names


def _python_parameters(node: Node) -> list[str]:
    given = node.child_by_field_name("parameters")
    texts = [_text(one) for one in given.named_children] if given is not None else []
    return [re.split(r"[:=]", text)[0].strip(" *") for text in texts]
