"""The tiny guest that tests and the demo boot: `image()` is its disk, `init` tells what it says."""

from tests.guest.build import BuildError, image

__all__ = ["BuildError", "image"]
