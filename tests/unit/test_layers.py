"""Imports run downwards only, rooms of one storey do not know each other, and special doors have one keeper.

The storeys are those of the design: cli, app, views, server/reconcile/console, store/domain/plugins/capacity,
host/hypervisor, the ground floor, and the generated api at the bottom.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = "sri_libvirt"
ROOT = Path(__file__).parents[2] / PACKAGE

STOREYS = (
    {"api"},
    {
        "__init__",
        "clock",
        "config",
        "devices",
        "documents",
        "errors",
        "failpoints",
        "jobs",
        "log",
        "effective",
        "looks",
        "metrics",
        "names",
        "notify",
        "paths",
        "printable",
        "process",
        "qcow2",
        "quantity",
        "records",
        "resources",
        "statedir",
        "traces",
        "userdata",
    },
    {"host", "hypervisor"},
    {"store", "domain", "volumes", "nics", "images", "capacity"},
    {"server", "reconcile", "console"},
    {"views"},
    {"app"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(STOREYS) for room in rooms}
GROUND = STOREYS[1]

KEEPERS: Mapping[str, tuple[str, ...]] = {
    "libvirt": ("hypervisor.",),
    "libvirtaio": (),
    "asyncio": ("server.", "console.", "app", "cli.serve"),
    "grpc.aio": ("server.", "console.", "app", "cli.serve"),
    "subprocess": ("process",),
    "sqlite3": ("store.",),
    "jinja2": ("domain.",),
    "tomllib": ("config",),
    "prometheus_client": ("metrics",),
    "h11": ("console.",),
    "wsproto": ("console.",),
    "click": ("cli.",),
    "rich": ("cli.",),
}
"""Who may import a module: rooms end with a dot, single modules do not."""


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Full names that a module imports, anywhere in it. `from x import y` is x.y, whatever y is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([PACKAGE, *module.split(".")[: -node.level], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own(name: str) -> str | None:
    """The module's name inside the package, or None for one from outside."""
    return name.removeprefix(PACKAGE + ".") if name.startswith(PACKAGE + ".") else None


def layer_faults(module: str, imported: set[str]) -> Iterator[str]:
    """What breaks the order of the storeys."""
    room = module.partition(".")[0]
    for name in filter(None, map(own, imported)):
        other = name.partition(".")[0]
        if other not in FLOOR or other == room:
            continue  # a name of the package itself, or the room's own
        if FLOOR[other] > FLOOR[room]:
            yield f"{module} imports {name}, which is above it"
        elif FLOOR[other] == FLOOR[room] and room not in GROUND:
            yield f"{module} imports {name} of the same storey"


def keeper_faults(module: str, imported: set[str]) -> Iterator[str]:
    """What goes past the keeper of a special door."""
    for door, keepers in KEEPERS.items():
        if any(name == door or name.startswith(door + ".") for name in imported):
            allowed = any(
                module == keeper or (keeper.endswith(".") and f"{module}.".startswith(keeper)) for keeper in keepers
            )
            if not allowed:
                yield f"{module} imports {door}, which is for {', '.join(keepers) or 'nobody'}"


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Import cycles, each as a path that ends where it began."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def sources() -> dict[str, ast.Module]:
    """Every hand-written module of the package, by its name inside it."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] != "api":
            found[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def module_of(name: str, modules: Mapping[str, ast.Module]) -> str | None:
    """The module that a full name is, or is in: a submodule, else its package's `__init__`, else its parent."""
    while name:
        for candidate in (name, f"{name}.__init__"):
            if candidate in modules:
                return candidate
        name = name.rpartition(".")[0]
    return None


def graph_of(modules: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Which hand-written module imports which."""
    graph = {}
    for module, tree in modules.items():
        targets = {module_of(name, modules) for name in filter(None, map(own, imports(tree, module)))}
        graph[module] = {target for target in targets if target and target != module}
    return graph


MODULES = sources()


def test_every_module_has_a_storey() -> None:
    assert {module.partition(".")[0] for module in MODULES} <= FLOOR.keys()


@pytest.mark.parametrize("module", MODULES)
def test_layers(module: str) -> None:
    imported = set(imports(MODULES[module], module))
    assert [*layer_faults(module, imported), *keeper_faults(module, imported)] == []


@pytest.mark.parametrize("module", MODULES)
def test_environment_is_read_by_settings_only(module: str) -> None:
    used = {
        ast.unparse(node)
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
    }
    assert not used or module in ("config", "process")  # process hands the environment on to its child


def test_no_cycles() -> None:
    assert cycles(graph_of(MODULES)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("names", "from sri_libvirt.store import Store"),
        ("names", "from sri_libvirt import store"),
        ("store.reader", "def f():\n    import sri_libvirt.server.service"),
        ("store.reader", "from ..domain import build"),
        ("volumes.rbd", "from sri_libvirt.images.local import LocalImages"),
        ("server.service", "from sri_libvirt.reconcile.queue import WakeQueue"),
        ("domain.build", "import libvirt"),
        ("reconcile.lane", "from libvirt import virDomain"),
        ("hypervisor.events", "import libvirtaio"),
        ("reconcile.lane", "import asyncio"),
        ("cli.render", "from grpc import aio"),
        ("volumes.empty_disk", "from subprocess import run"),
    ],
)
def test_a_fault_is_found(module: str, source: str) -> None:
    imported = set(imports(ast.parse(source), module))
    assert [*layer_faults(module, imported), *keeper_faults(module, imported)]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("store.reader", "from sri_libvirt.records import Machine\nfrom sri_libvirt.store import queries"),
        ("reconcile.observe", "from sri_libvirt.hypervisor.base import Connection"),
        ("hypervisor.events", "import libvirt"),
        ("cli.serve", "import asyncio\nfrom sri_libvirt import app, config"),
        ("metrics", "from sri_libvirt.config import Settings"),
    ],
)
def test_what_is_right_is_let_be(module: str, source: str) -> None:
    imported = set(imports(ast.parse(source), module))
    assert [*layer_faults(module, imported), *keeper_faults(module, imported)] == []


def test_a_cycle_is_found() -> None:
    trees = {
        "a": "from sri_libvirt import b",
        "b": "import sri_libvirt.c.d",
        "c.d": "from sri_libvirt.a import x",
        "e": "",
    }
    assert cycles(graph_of({name: ast.parse(text) for name, text in trees.items()})) == [["a", "b", "c.d", "a"]]
