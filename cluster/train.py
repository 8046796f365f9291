"""`python -m cluster.train [config.yaml] [key=value ...]`: the same run on the Ray cluster that it is submitted to."""

import sys

from cluster.placement import on_cluster
from cluster.run import main

if __name__ == "__main__":
    description = "Train on a Ray cluster: ray job submit --working-dir . -- python -m cluster.train configs/x.yaml"
    sys.exit(main("python -m cluster.train", description, on_cluster, None))
