"""The layout of ``broker/`` as data, and the checker that holds every import against it.

``faults`` reads the sources only (``ast`` for Python, the import lines for Cython) and returns one sentence a fault:
tests/test_architecture.py and ``make check`` fail on any. An import counts wherever it stands, in a function or under
``TYPE_CHECKING`` too: hiding a cycle does not undo it. It never imports what it checks.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# From the top down: a unit (module or package right under broker/) may import its own and what stands in a lower row.
# Units of one row do not import each other. "broker" is broker/__init__.py itself.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("supervisor",),
    ("admin",),
    ("metrics",),
    ("worker",),
    ("gauges",),
    ("gateway",),
    ("api",),
    ("node",),
    ("recovery",),
    ("engine",),
    ("auth",),
    ("native",),
    ("protocol",),
    ("config",),
    ("log", "web"),
    ("broker",),
)

# Narrower than the rows: only these may know of the native core (the command line tells which build runs).
ONLY_IMPORTED_BY: dict[str, frozenset[str]] = {
    "native": frozenset(
        {"cli", "supervisor", "worker", "gauges", "gateway", "node", "recovery", "engine", "metrics", "native"}
    ),
}

# Sans-IO: plain values in and out, a clock that is handed in. Prefixes of dotted names, by the module that is bound.
IO = ("asyncio", "socket", "selectors", "select", "ssl", "subprocess", "threading", "time", "uvloop")
OWN_SERVICES = ("broker.config", "broker.metrics", "broker.log", "broker.web")
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "broker.protocol": IO + OWN_SERVICES,
    "broker.native": IO + OWN_SERVICES,
}
DOES_IO = frozenset({"broker.native._reactor"})

MOST_LINES = 500  # a module is one noun; at 300 lines its room is full

CYTHON_FROM = re.compile(r"^\s*from\s+([.\w]+)\s+c?import\s+(.+?)\s*(?:#.*)?$")
CYTHON_IMPORT = re.compile(r"^\s*c?import\s+([\w., ]+?)\s*(?:#.*)?$")
CYTHON_INCLUDE = re.compile(r"^\s*include\s+[\"']")


@dataclass(frozen=True, slots=True)
class Arrow:
    """One import: ``target`` is a module of the tree if there is one of that name, otherwise the name as written."""

    source: str
    target: str
    place: str


def faults(root: Path) -> list[str]:
    """Everything wrong with the package ``root/broker``, each as one sentence with its place."""
    files = sorted(path for path in (root / "broker").rglob("*") if path.suffix in {".py", ".pyx", ".pxd"})
    modules = {module_name(path, root) for path in files}
    arrows = [arrow for path in files for arrow in arrows_of(path, root, modules)]
    return [
        *(fault for path in files for fault in file_faults(path, root)),
        *(fault for arrow in arrows if (fault := arrow_fault(arrow))),
        *(f"{module}: {unit_of(module)} has no row in the layout" for module in sorted(modules) if row_of(module) < 0),
        *cycle_faults(arrows, modules),
    ]


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def row_of(module: str) -> int:
    return next((row for row, units in enumerate(LAYERS) if unit_of(module) in units), -1)


def file_faults(path: Path, root: Path) -> Iterator[str]:
    place = path.relative_to(root)
    lines = path.read_text().splitlines()
    if len(lines) > MOST_LINES:
        yield f"{place}: {len(lines)} lines, at most {MOST_LINES}; two nouns live here"
    if path.suffix == ".pyx" and not path.with_suffix(".pyi").exists():
        yield f"{place}: no {path.stem}.pyi says what Python sees"
    if path.suffix != ".py":
        for number, line in enumerate(lines, 1):
            if CYTHON_INCLUDE.match(line):
                yield f"{place}:{number}: textual include; cimport a module instead"


def arrow_fault(arrow: Arrow) -> str | None:
    for package, forbidden in FORBIDDEN.items():
        if (
            within(arrow.source, package)
            and arrow.source not in DOES_IO
            and any(within(arrow.target, name) for name in forbidden)
        ):
            return f"{arrow.place}: {package} is sans-IO and must not import {arrow.target}"
    if not within(arrow.target, "broker"):
        return None
    source, target = unit_of(arrow.source), unit_of(arrow.target)
    if source == target:
        return None
    if row_of(arrow.target) <= row_of(arrow.source):
        return f"{arrow.place}: {source} must not import {arrow.target}: imports point down the layout"
    if source not in ONLY_IMPORTED_BY.get(target, {source}):
        return f"{arrow.place}: {source} must not import {arrow.target}: only {sorted(ONLY_IMPORTED_BY[target])} may"
    return None


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def arrows_of(path: Path, root: Path, modules: set[str]) -> Iterator[Arrow]:
    source = module_name(path, root)
    package = source if path.stem == "__init__" else source.rpartition(".")[0]
    read = python_imports if path.suffix == ".py" else cython_imports
    for number, base, name in read(path.read_text()):
        target = absolute(base, package)
        if name is not None and f"{target}.{name}" in modules:
            target = f"{target}.{name}"
        # Names inside a module (`import broker.node.x` of a class) fall back to the module that defines them.
        while within(target, "broker") and target not in modules and "." in target:
            target = target.rpartition(".")[0]
        if target != source:
            yield Arrow(source, target, f"{path.relative_to(root)}:{number}")


def absolute(base: str, package: str) -> str:
    """``base`` with its leading dots resolved against the package that the import stands in."""
    name = base.lstrip(".")
    dots = len(base) - len(name)
    if dots == 0:
        return base
    parent = package.split(".")[: len(package.split(".")) - (dots - 1)]
    return ".".join([*parent, name] if name else parent)


def python_imports(text: str) -> Iterator[tuple[int, str, str | None]]:
    """(line, module as written with its leading dots, imported name) of each import."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + (node.module or ""), alias.name


def cython_imports(text: str) -> Iterator[tuple[int, str, str | None]]:
    """The same for .pyx and .pxd; the names of a parenthesised list that spans lines stand for their module alone."""
    for number, line in enumerate(text.splitlines(), 1):
        if match := CYTHON_FROM.match(line):
            for part in match[2].strip("()").split(","):
                yield number, match[1], part.split(" as ")[0].strip() or None
        elif match := CYTHON_IMPORT.match(line):
            for part in match[1].split(","):
                yield number, part.split(" as ")[0].strip(), None


def cycle_faults(arrows: list[Arrow], modules: set[str]) -> Iterator[str]:
    """One sentence for each import that closes a ring of modules (depth-first, each module visited once)."""
    graph: dict[str, list[str]] = {module: [] for module in modules}
    for arrow in arrows:
        if arrow.target in graph:
            graph[arrow.source].append(arrow.target)
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> Iterator[str]:
        if module in trail:
            yield "cycle: " + " -> ".join([*trail[trail.index(module) :], module])
        elif module not in done:
            for target in sorted(set(graph[module])):
                yield from visit(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        yield from visit(module, [])
