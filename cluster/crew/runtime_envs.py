"""Environments of reward actors: their `runtime_env` for Ray, and one sentence where they cannot be had.

A requirements file is installed by every node, once in the life of its Ray session, into a copy of the driver's
environment; nothing is installed that the file does not name. An interpreter is used as it is.
"""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RuntimeEnvSetupError

from cluster.errors import StartError

# A worker that runs another Python or another Ray than its node never registers, and Ray would wait for ever.
_PROBE = "import platform, ray, rewards.actor; print(platform.python_version(), ray.__version__)"


def runtime_env(environment: str | None) -> dict[str, Any]:
    """What Ray is to do for actors that live in an environment.

    Args:
        environment: Path of a requirements file (`*.txt`) or of a Python interpreter; `None` is the driver's own.

    Raises:
        StartError: If the interpreter cannot run a reward actor.
    """
    if environment is None:
        return {}
    if environment.endswith(".txt"):
        options = ["--no-deps", "--disable-pip-version-check"]
        return {"pip": {"packages": Path(environment).read_text().splitlines(), "pip_install_options": options}}
    found = subprocess.run([environment, "-c", _PROBE], capture_output=True, text=True)
    expected = [platform.python_version(), ray.__version__]
    if found.returncode or found.stdout.split() != expected:
        said = found.stderr.strip().splitlines() if found.returncode else [found.stdout.strip()]
        raise StartError(
            f"The interpreter {environment} cannot run a reward actor: it must import Python {expected[0]}, Ray "
            f"{expected[1]} and the package rewards, and it said: {said[-1] if said else 'nothing'}."
        )
    return {"py_executable": shlex.quote(environment)}


def cannot_start(who: str, error: RayActorError | RuntimeEnvSetupError) -> StartError:
    """The sentence for an actor that cannot be started.

    Args:
        who: It is, to begin a sentence with.
        error: What Ray said: its environment could not be installed, or its constructor raised.
    """
    if isinstance(error, RuntimeEnvSetupError):
        return StartError(f"{who} cannot start: {why(error)}")
    # After the traceback, whose lines are indented, comes the message, which may have several. Ours are sentences.
    lines = str(error).strip().splitlines()
    last = max((i for i, line in enumerate(lines) if line.startswith(" ")), default=-1)
    message = re.sub(r"^rewards(\.\w+)+: ", "", " ".join(lines[last + 1 :]))
    return StartError(f"{who} cannot start: {message}")


def cause_of(death: RayActorError) -> str:
    """Why an actor died, without what Ray knows of it and advises."""
    said = str(death).strip().splitlines()[-1]
    detail = said.partition("Worker exit detail: ")[2] or said
    return detail.partition(" Some common causes")[0]


def why(error: RuntimeEnvSetupError) -> str:
    """The cause of a failed installation: what pip calls an error, or the last line there is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    complaints = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return f"its environment could not be installed ({(complaints or lines)[-1].rstrip('.')})."
