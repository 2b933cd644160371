"""`python -m tests.guest` prints the path of the tiny guest's image; it is built when it is not there yet."""

import sys

from tests.guest import BuildError, image

try:
    print(image())
except BuildError as error:
    sys.exit(f"tiny guest: {error}")
