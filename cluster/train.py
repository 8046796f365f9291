"""`python -m cluster.train [config.yaml] [key=value ...]`: the same run on the Ray cluster that it is submitted to."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.config import Config
from cluster.crew.placement import Placement
from cluster.crew.reservation import on_cluster
from cluster.errors import ConfigError
from cluster.run import main


def place(config: Config) -> Placement:
    """Join the cluster, unless what the run writes would be lost.

    Raises:
        ConfigError: If the run's folder lies in the copy of the working directory that Ray made for this job.
    """
    if "runtime_resources" in Path(config.folder).parts:
        raise ConfigError(
            f"folder={config.folder} lies in a job's copy of its working directory, which Ray deletes later; give an "
            "absolute path on storage that all nodes share, such as folder=/mnt/shared/runs."
        )
    return on_cluster(config)


if __name__ == "__main__":
    description = "Train on a Ray cluster: ray job submit --working-dir . -- python -m cluster.train configs/x.yaml"
    sys.exit(main("python -m cluster.train", description, place, None))
