"""Virtual environments of what is measured beside the product, each made once as pinned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "data" / "peers"
INSTALL_SECONDS = 1800
PACKAGES = Path(sysconfig.get_path("purelib"))
"""Where the product's packages are."""
_BY_UV = """\
python=$1 uv_options=()
source "$0/scripts/pip-settings.sh"
follow_pip
exec "$2" pip install -q "${uv_options[@]}" --no-deps --only-binary :all: -p "$3" -r "$4"
"""


class PeerProblem(Exception):
    """A peer that cannot be measured here, and why in one line that goes on from its name."""


def environment(pinned: Path, more: bool = False) -> Path:
    """Return the directory of an environment, making it where it is not as ``pinned`` says.

    It holds what the file names at these versions and nothing else; with ``more``, also what
    those packages need beyond it, which depends on the platform: torch has several builds. One
    process makes it, and others wait.

    Raises:
        PeerProblem: it cannot be made.
    """
    name = pinned.stem
    home = HOME.resolve() / name
    wanted = f"{home}\n{sys.version}\n{pinned.read_text()}"
    stamp = home / ".installed"
    with _alone(name):
        if stamp.is_file() and stamp.read_text() == wanted:
            return home
        print(f"bench: installing the peer {name} into {home}", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        # This environment's installers fill it: a pip of its own takes four seconds to install.
        _run([sys.executable, "-m", "venv", "--without-pip", str(home)])
        if more or not _installed_by_uv(home, pinned):
            # Where uv finds nothing, pip may, or says in its words what is wrong.
            words = ["--disable-pip-version-check", "-q", "install", "--only-binary", ":all:"]
            into = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python")]
            _run([*into, *words, *([] if more else ["--no-deps"]), "-r", str(pinned)])
        stamp.write_text(wanted)
    size = sum(path.lstat().st_size for path in home.rglob("*")) / 1e6
    print(f"bench: installed {name}, {size:.0f} MB, versions in {pinned}", file=sys.stderr)
    return home


def uv() -> str | None:
    """Return the path of uv, of the product's environment or of the machine, if there is one."""
    return shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def _installed_by_uv(home: Path, pinned: Path) -> bool:
    """Install the packages of a file, and no others, by uv; return whether it could.

    It takes a second where its cache has them; pip takes up to a minute, most of it to compile
    modules that nobody imports.
    """
    program = uv()
    if program is None:
        return False
    try:
        python = str(home / "bin" / "python")
        _run(["bash", "-c", _BY_UV, str(ROOT), sys.executable, program, python, str(pinned)])
    except PeerProblem:
        return False
    return True


def _alone(name: str) -> FileLock:
    """Return the lock of the one process that makes an environment."""
    HOME.mkdir(parents=True, exist_ok=True)
    return FileLock(HOME / f"{name}.lock", timeout=INSTALL_SECONDS)


def seeing_the_product(packages: Path = PACKAGES) -> dict[str, str]:
    """Return variables by which another environment sees the product and its packages.

    They go before that environment's own, so that it runs the versions that the product runs.
    """
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(packages)])}


def told_by(python: Path, program: str, *words: object, packages: Path = PACKAGES) -> str:
    """Run a program in another environment that sees the product; return what it prints."""
    done = subprocess.run(
        [python, "-c", program, *map(str, words)], capture_output=True, text=True, timeout=300,
        env=seeing_the_product(packages),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def node_environment(pinned: Path) -> Path:
    """Return a directory with the npm packages that the lock in ``pinned`` names.

    Raises:
        PeerProblem: it cannot be made.
    """
    home = HOME.resolve() / pinned.name
    files = {name: (pinned / name).read_text() for name in ("package.json", "package-lock.json")}
    stamp = home / ".installed"
    with _alone(pinned.name):
        if stamp.is_file() and stamp.read_text() == "".join(files.values()):
            return home
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for name, text in files.items():
            (home / name).write_text(text)
        _run(["npm", "ci", "--prefix", str(home), "--no-audit", "--no-fund", "--ignore-scripts"])
        stamp.write_text("".join(files.values()))
    return home


def _run(words: list[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerProblem(f"cannot be installed: {error}") from error
    if done.returncode:
        raise PeerProblem(f"cannot be installed: {last_line(done.stderr or done.stdout)}")


def last_line(text: str) -> str:
    """The last line that says something, for a message of one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it says nothing"
