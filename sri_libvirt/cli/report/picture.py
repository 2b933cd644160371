"""The report as a picture for a person: the host, its NUMA nodes as boxes, its devices, what it sells, and its limits.

It is made of rich's parts, so a pipe gets plain text, NO_COLOR is heeded and a narrow terminal wraps. All words from
the host are shown as they are, never as markup. What is unknown is a dash. Where the picture goes does not belong here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sri_libvirt import printable
from sri_libvirt.capacity.budget import UNLIMITED
from sri_libvirt.cli.report import devices
from sri_libvirt.cli.report.cells import DASH, number_or_dash, table_of, word_or_dash
from sri_libvirt.cli.report.facts import NO_KVM, Report
from sri_libvirt.host.inventory import HugePages, Node
from sri_libvirt.hypervisor import offers
from sri_libvirt.resources import ANYWHERE, CPU, DISK, MACHINES, MEMORY, Usage, byte_words, words

BAR = 20
MOST_BOXES = 8
"""NUMA nodes that are drawn; more are a line each."""

NODE_WIDTH = 40
FEW_RANGES = 8
"""Ranges of CPUs that are written out: where threads are numbered by turns, each CPU is one."""


def picture(report: Report) -> RenderableType:
    """The whole picture."""
    parts: list[RenderableType] = [_host(report), "", _sold(report), "", _nodes(report)]
    parts += _section("Classes", _classes(report) if report.offers else None)
    parts += _section("Network interfaces", devices.nics(report))
    parts += _section("PCI devices", devices.pci(report))
    parts += _section("Disks", devices.disks(report))
    warnings = [Text(f"warning: {printable.line(warning)}", style="bold yellow") for warning in report.warnings]
    parts += ["", *warnings] if warnings else []
    return Group(*parts)


def _section(title: str, found: RenderableType | None) -> Iterator[RenderableType]:
    if found is not None:
        yield from ("", _heading(title), found)


def _heading(title: str) -> Text:
    return Text(title, style="bold")


def _host(report: Report) -> RenderableType:
    found = report.inventory
    cpu, signs = found.cpu, found.virtualisation
    grid = _pairs()
    if report.foreign:
        grid.add_row("", Text("another host's roots: shown as an empty host", style="yellow"))
    grid.add_row("host", Text(f"{word_or_dash(cpu.model)} ({word_or_dash(cpu.architecture)})", style="bold"))
    threads = _count(len(cpu.online), "thread")
    places = [_count(len(cpu.packages), "package"), _count(len(cpu.cores), "core")] if cpu.packages else []
    offline = f"; offline: {ranges(cpu.offline)}" if cpu.offline else ""
    isolated = f"; isolated: {ranges(cpu.isolated)}" if cpu.isolated else ""
    grid.add_row("CPUs", Text(f"{', '.join([*places, threads])}{offline}{isolated}"))
    for kind in cpu.kinds:
        grid.add_row("", Text(f"{printable.line(kind.name)} cores: {ranges(kind.cpus)}"))
    pages = _pages(found.memory.hugepages)
    grid.add_row("memory", Text(f"{_bytes(found.memory.total_bytes)}{f'; huge pages: {pages}' if pages else ''}"))
    grid.add_row("kernel", Text(word_or_dash(signs.kernel)))
    grid.add_row("KVM", _verdict(report))
    grid.add_row("IOMMU", Text({True: "on", False: "off", None: DASH}[signs.iommu]))
    for name, offered in _offered(report):
        grid.add_row(name, Text(offered))
    if own := _limits(report):
        grid.add_row("here", Text(f"this process may use {own}", style="dim"))
    return grid


def _offered(report: Report) -> Iterator[tuple[str, str]]:
    """What libvirt and QEMU give to guests, once a daemon has asked."""
    found = report.offer
    if found is None:
        return
    yield "libvirt", f"{offers.version(found.libvirt_version)}, QEMU {offers.version(found.qemu_version)}"
    others = len(found.machine_types - {found.machine_type})
    more = f" and {_count(others, 'other type')}" if others else ""
    yield "machine", f"{word_or_dash(found.machine_type or None)}{more}"
    plain = [each.loader.rpartition("/")[2] for each in found.firmware if not each.secure_boot]
    secure = [each.loader.rpartition("/")[2] for each in found.firmware if each.secure_boot]
    uefi = [f"UEFI ({', '.join(plain)})"] if plain else []
    yield (
        "firmware",
        printable.line(", ".join(["BIOS", *uefi, *([f"Secure Boot ({', '.join(secure)})"] if secure else [])])),
    )


def _limits(report: Report) -> str:
    """What the cgroup of this process leaves it, if that is less; guests have cgroups of their own."""
    own = report.inventory.limits
    fewer = own.cpus is not None and not set(report.inventory.cpu.online) <= set(own.cpus)
    cpus = [f"CPUs {ranges(own.cpus or ())}"] if fewer else []
    quota = [] if own.cpu_millis is None else [f"the time of {words(CPU, own.cpu_millis)}"]
    memory = [] if own.memory_bytes is None else [f"{byte_words(own.memory_bytes)} of memory"]
    return ", ".join([*cpus, *quota, *memory])


def _verdict(report: Report) -> Text:
    """In a word; why not is a warning."""
    match report.verdict.kvm:
        case True:
            return Text("works", style="green")
        case False:
            return Text(f"NO: {NO_KVM}", style="bold yellow")
    extension = report.inventory.virtualisation.extension
    hint = f" (the CPU has {printable.line(extension)})" if extension else ""
    return Text(f"{DASH if report.foreign else 'not proven yet'}{hint}", style="yellow")


def _sold(report: Report) -> RenderableType:
    """What machines can have of the whole host, and have."""
    grid = _pairs()
    names = ((CPU, "CPU"), (MEMORY, "memory"), (DISK, "disk"), (MACHINES, "machines"))
    for resource, name in names:
        amount = report.budget.of(resource)
        if amount == UNLIMITED:
            continue
        drawn, shares = _used(report, resource, ANYWHERE, amount)
        grid.add_row(name, drawn, Text(f"{shares} of {_bare(resource, amount)}"))
    return Group(_heading("For machines"), grid)


def _nodes(report: Report) -> RenderableType:
    found = report.inventory.nodes
    parts: list[RenderableType] = [_heading("NUMA")]
    if len(found) > MOST_BOXES:
        parts.append(_many_nodes(report, found))
    else:
        parts.append(Columns([_node(report, node, alone=len(found) == 1) for node in found]))
    usage = report.usage or Usage()
    if len(found) > 1 and usage.of(CPU):
        floating = [
            words(resource, usage.of(resource) - sum(usage.of(resource, node.id) for node in found))
            for resource in (CPU, MEMORY)
        ]
        parts.append(Text(f"on no node of their own: {' and '.join(floating)} of machines"))
    return Group(*parts)


def _many_nodes(report: Report, nodes: Sequence[Node]) -> RenderableType:
    """A line for each. Distances are grouped: how many nodes are how far, which is the same for most."""
    rows = []
    for node in nodes:
        far = Counter(distance for other, distance in node.distances.items() if other != node.id)
        distances = ", ".join(f"{count} at {distance}" for distance, count in sorted(far.items()))
        free = [
            DASH if report.usage is None else _bare(name, max(0, given - report.usage.of(name, node.id)))
            for name, given in ((CPU, report.budget.of(CPU, node.id)), (MEMORY, report.budget.of(MEMORY, node.id)))
        ]
        rows.append(
            (str(node.id), ranges(node.cpus) or "none", free[0], _bytes(node.memory_bytes), free[1],
             _pages(node.hugepages) or DASH, distances or DASH)
        )  # fmt: skip
    return table_of(("NODE", "CPUS", "FREE", "MEMORY", "FREE", "HUGE PAGES", "OTHER NODES"), rows)


def _node(report: Report, node: Node, *, alone: bool) -> Panel:
    place = ANYWHERE if alone else node.id
    grid = Table.grid(padding=(0, 1))
    grid.add_column(overflow="fold")
    grid.add_row(Text(f"CPUs {ranges(node.cpus) or 'none'}"))
    if node.cpus:
        for part in _used(report, CPU, place, report.budget.of(CPU, place)):
            grid.add_row(part)
    grid.add_row(Text(f"memory {_bytes(node.memory_bytes)}"))
    if node.memory_bytes:
        for part in _used(report, MEMORY, place, report.budget.of(MEMORY, node.id)):
            grid.add_row(part)
    if pages := _pages(node.hugepages):
        grid.add_row(Text(f"huge pages {pages}"))
    far = {other: distance for other, distance in node.distances.items() if other != node.id}
    if far:
        grid.add_row(Text("distance " + ", ".join(f"to {other}: {distance}" for other, distance in far.items())))
    return Panel(grid, title=f"node {node.id}", title_align="left", width=NODE_WIDTH, box=box.ROUNDED)


def _classes(report: Report) -> RenderableType:
    grid = table_of(("CLASS", "CPU", "MEMORY", "QUANTITY", "USED", "FREE", "LIMITED BY"), ())
    for offer in report.offers:
        each = offer.machine_class
        cells = (
            *(each.name, _bare(CPU, each.cpu_millis), byte_words(each.memory_bytes)),
            *(str(offer.quantity), str(offer.used), str(offer.free), offer.limited_by),
        )
        grid.add_row(*(Text(printable.line(cell)) for cell in cells), style="" if offer.free else "dim")
    return grid


def bar(used: int, total: int) -> Text:
    """How much of something is used; more than all of it is all."""
    filled = min(BAR, -(-used * BAR // total)) if total > 0 and used > 0 else (BAR if used > 0 else 0)
    style = "red" if filled >= BAR else "yellow" if filled > BAR * 3 // 4 else "green"
    return Text.assemble("[", ("#" * filled, style), ("." * (BAR - filled), "dim"), "]")


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,8`; of many ranges the first few and how many numbers there are."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in found[:FEW_RANGES]]
    if len(found) > FEW_RANGES:
        shown.append(f"... ({sum(last - first + 1 for first, last in found)} in all)")
    return ",".join(shown)


def _pages(found: Mapping[int, HugePages]) -> str:
    return ", ".join(
        f"{pages.total} of {byte_words(size * 1024)} ({number_or_dash(pages.free)} free)"
        for size, pages in found.items()
        if pages.total
    )


def _pairs() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    return grid


def _used(report: Report, resource: str, node: int, given: int) -> tuple[Text, Text]:
    """A bar and words of how much of what is given is used; what is unknown has neither's numbers."""
    if report.usage is None:
        return Text.assemble("[", ("?" * BAR, "dim"), "]"), Text("unknown how much is used")
    claimed = report.usage.of(resource, node)
    return bar(claimed, given), Text(_shares(resource, claimed, given))


def _shares(resource: str, claimed: int, given: int) -> str:
    return f"{_bare(resource, claimed)} used, {_bare(resource, max(0, given - claimed))} free"


def _bare(resource: str, amount: int) -> str:
    """An amount without the name of what is counted."""
    if not amount:
        return "0"
    return f"{amount / 1000:g}" if resource == CPU else words(resource, amount)


def _bytes(amount: int | None) -> str:
    return DASH if amount is None else byte_words(amount)


def _count(amount: int, what: str) -> str:
    return f"{amount} {what}{'' if amount == 1 else 's'}"
