"""Small wheels, for installers to find without an index."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n"


def write_wheel(folder: Path, name: str, version: str) -> Path:
    """Write a package of one module that tells its version; return the wheel."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        info = f"{name}-{version}.dist-info"
        files = {
            f"{name}.py": f"version = {version!r}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
            f"{info}/METADATA": METADATA.format(name, version),
        }
        record = ""
        for file, text in files.items():
            wheel.writestr(file, text)
            digest = hashlib.sha256(text.encode()).digest()
            encoded = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            record += f"{file},sha256={encoded},{len(text)}\n"
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path
