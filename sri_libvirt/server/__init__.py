"""The RPCs: parse, validate, write what should be, answer. No effects and no libvirt call belong here."""
