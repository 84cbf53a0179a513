"""Builds the wheel with nothing but the standard library, so that the test needs no package index (PEP 517)."""

import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """The hook that an installer calls."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    needs = "".join(f"Requires-Dist: {each}\n" for each in project["dependencies"])
    points = project["entry-points"].items()
    files = {
        "mcp_agents_roster.py": Path("mcp_agents_roster.py").read_text("utf-8"),
        f"{stem}.dist-info/METADATA": (
            f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n{needs}"
        ),
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: roster\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/entry_points.txt": "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in each.items()) for group, each in points
        ),
    }
    files[f"{stem}.dist-info/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{stem}.dist-info/RECORD"])
    name = f"{stem}-py3-none-any.whl"
    with ZipFile(Path(wheel_directory) / name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
