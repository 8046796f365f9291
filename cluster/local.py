"""`python -m cluster.local [config.yaml] [key=value ...]`: a run on this machine alone."""

import sys

from cluster.placement import local
from cluster.run import main

if __name__ == "__main__":
    sys.exit(main("python -m cluster.local", "Train on this machine alone; no cluster, no download.", local, None))
