"""render(): from a domain spec to XML, by templates. One template per kind of device, for boot and for hot-plug.

Ours are in the package (or beside it, in a checkout); an operator's directory overrides single files by name.
Everything is escaped and every unknown name is an error. What is wanted in the XML does not belong here (that is the
spec).
"""

from __future__ import annotations

import hashlib
import traceback
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lxml import etree

import sri_libvirt
from sri_libvirt import names
from sri_libvirt.domain import xml
from sri_libvirt.domain.spec import Disk, DomainSpec, Nic
from sri_libvirt.errors import ConfigError, HypervisorError

if TYPE_CHECKING:
    import jinja2

DOMAIN = "domain.xml.j2"
DISK = "devices/disk.xml.j2"
NIC = "devices/nic.xml.j2"


def shipped_templates() -> Path:
    """Where our own templates are: in the wheel below the package, in a checkout beside it."""
    package = Path(sri_libvirt.__file__).parent
    shipped = package / "templates"
    return shipped if shipped.is_dir() else package.parent / "templates"


class Renderer:
    """Renders with our templates, those in each `template_dir` first. Thread-safe.

    Raises ConfigError when a template is missing or cannot be compiled, naming file and line: an operator's at once,
    ours, which are tested, at the first use.
    """

    def __init__(self, *template_dirs: Path) -> None:
        self._directories = [*template_dirs, shipped_templates()]
        for each in template_dirs:
            if not each.is_dir():
                raise ConfigError(f"templates {each}: there is no such directory")
        if template_dirs:
            self._environment  # noqa: B018 (compiles them)

    @cached_property
    def _environment(self) -> jinja2.Environment:
        import jinja2  # slow to import, and no client of a fresh start waits for it

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(self._directories),
            autoescape=True,  # select_autoescape() does not know .xml.j2
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        for name in (DOMAIN, DISK, NIC):
            try:
                environment.get_template(name)
            except jinja2.TemplateSyntaxError as error:
                raise ConfigError(f"template {error.filename}, line {error.lineno}: {error.message}") from error
            except (jinja2.TemplateNotFound, UnicodeDecodeError) as error:
                raise ConfigError(f"template {name} cannot be read: {error}") from error
        return environment

    @cached_property
    def version(self) -> str:
        """A digest of all templates in use: a diagnosis, kept in the domain's metadata."""
        whole = hashlib.sha256()
        for name in (DOMAIN, DISK, NIC):
            source, _, _ = self._environment.loader.get_source(self._environment, name)  # type: ignore[union-attr]
            whole.update(hashlib.sha256(source.encode()).digest())
        return whole.hexdigest()[:12]

    def render(self, spec: DomainSpec) -> str:
        """The domain XML. Raises HypervisorError naming template, line and fault."""
        return self._render(
            DOMAIN, spec=spec, metadata_namespace=names.METADATA_NAMESPACE, template_version=self.version
        )

    def render_device(self, device: Disk | Nic) -> str:
        """The XML of one device, as `render` puts it into a domain. Raises HypervisorError."""
        return self._render(DISK, disk=device) if isinstance(device, Disk) else self._render(NIC, nic=device)

    def _render(self, name: str, **values: object) -> str:
        try:
            text = self._environment.get_template(name).render(values)
        except Exception as error:  # a template is a program of the operator's: it can raise anything
            raise HypervisorError(f"template {self._place(error, name)}: {error}") from error
        root = xml.parse(text, f"template {self._environment.get_template(name).filename}")
        etree.indent(root)
        return etree.tostring(root, encoding="unicode") + "\n"

    def _place(self, error: Exception, name: str) -> str:
        """File and line of the innermost template that an error came through."""
        roots = tuple(f"{directory}/" for directory in self._directories)
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename.startswith(roots):
                return f"{frame.filename}, line {frame.lineno}"
        return name
