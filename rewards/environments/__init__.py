"""Environments for rewards whose packages the rest cannot live with: where they are found, and how one is built ahead.

An environment is a complete list of what differs from the driver's: each line of `<name>.txt` is installed as it stands
and without its dependencies, and everything else is inherited. So no environment can ask for another torch by accident.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

FOLDER = Path(__file__).parent


def locate(environment: str) -> Path:
    """The requirements file or the interpreter that an environment stands for.

    Args:
        environment: Name of a file beside this one, or path of a requirements file (`*.txt`) or a Python interpreter.

    Raises:
        FileNotFoundError: If it is none of them.
    """
    own = FOLDER / f"{environment}.txt"
    path = own if own.is_file() else Path(environment).absolute()
    if path.is_file() and (path.suffix == ".txt" or os.access(path, os.X_OK)):
        return path
    names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.txt")))
    raise FileNotFoundError(
        f"There is no environment {environment!r}; name one of {names}, a requirements file (*.txt), or a Python "
        "interpreter."
    )


def build(environment: str, folder: Path) -> Path:
    """Install an environment, for machines that have no network when they run.

    Args:
        environment: See `locate`; a requirements file.
        folder: Where it goes. It inherits from the running interpreter's packages, which must stay where they are.

    Returns:
        Its interpreter.

    Raises:
        FileNotFoundError: If there is no such environment.
        CalledProcessError: If pip fails; it has said why.
    """
    requirements = locate(environment)
    venv.create(folder, clear=True, symlinks=True)
    python, base = folder / "bin" / "python", {"base": str(folder), "platbase": str(folder)}
    inherited = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    # Behind its own packages; addsitedir also reads the .pth files there, such as those of editable installs.
    lines = ["import site", *(f"site.addsitedir({path!r})" for path in inherited)]
    Path(sysconfig.get_path("purelib", vars=base), "inherited.pth").write_text("; ".join(lines) + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*install, "-r", str(requirements)], check=True)
    return python
