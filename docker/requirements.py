"""Prints what pyproject.toml requires with the extras named as arguments, one a line.

So the images' layers of packages depend on it and on constraints.txt alone, and not on the source.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *(each for name in sys.argv[1:] for each in extras[name]), sep="\n")
