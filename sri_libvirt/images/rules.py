"""What the operator lets this host fetch, and how servers are asked. What is fetched does not belong here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sri_libvirt.config import Settings
from sri_libvirt.errors import NotReady
from sri_libvirt.images import credentials
from sri_libvirt.images.fetch.job import Access
from sri_libvirt.images.reference import Reference, WebFile
from sri_libvirt.images.sources import Sources

NOT_ALLOWED = "image-not-allowed"


@dataclass(frozen=True, slots=True)
class Rules:
    """`auth` and `ca` are files, None for none; `insecure` are hosts that are asked by plain http."""

    sources: Sources = field(default_factory=Sources)
    insecure: tuple[str, ...] = ()
    auth: Path | None = None
    ca: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """As the settings have it."""
        sources = Sources(settings.image_source)
        return cls(sources, settings.insecure_registry, settings.registry_auth, settings.registry_ca)

    def check(self, wanted: Reference | WebFile) -> None:
        """Raise NotReady for what may not be fetched."""
        if not self.sources.allows(wanted):
            raise NotReady(
                f"the image {wanted} may not be fetched by this host (--image-source: {self.sources.words()})",
                "The operator of this host decides what is fetched: --image-source.",
                NOT_ALLOWED,
            )

    def access(self, wanted: Reference | WebFile) -> Access:
        """How its server is asked, with the password of this moment. Raises NotReady."""
        user, password = credentials.find(self.auth, wanted)
        host = wanted.registry if isinstance(wanted, Reference) else wanted.host
        return Access(
            insecure=self.insecure,
            anywhere=(host,) if self.sources.names(host) else (),
            ca=str(self.ca) if self.ca else "",
            user=user,
            password=password,
        )
