"""How often what a run has learned prefers the picture that people do, on pairs that it was not trained on.

    python -m benchmarks.implicit_accuracy RUN DATASET [--split validation] [--pairs 500] [--states 10]

What is measured is in `cluster/measures/implicit.py`; `cluster.evaluate --pairs` measures it of many checkpoints.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from actors.policy import Policy
from cluster.arguments import Parser
from cluster.errors import sentence
from cluster.measures.implicit import accuracy, implicit_rewards, read_pairs
from cluster.trained import find
from shapes.arguments import positive


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = Parser("benchmarks.implicit_accuracy", __doc__ or "")
    parser.add_argument("run", help="a run's folder, or a checkpoint")
    parser.add_argument("dataset", type=Path, help="Parquet files in the columns of Pick-a-Pic, see docs/datasets.md")
    parser.add_argument("--split", help="of the dataset")
    parser.add_argument("--pairs", type=positive, default=500, help="rows that are read (default 500)")
    parser.add_argument("--states", type=positive, default=10, help="timesteps of each picture (default 10)")
    args = parser.parse_args(arguments)
    try:
        model = find(args.run)
        policy = Policy.load(model.policy)
        batch = read_pairs(policy, args.dataset, args.split, args.pairs)
        rewards = implicit_rewards(policy, batch, args.states)
    except KeyboardInterrupt:
        print("stopped; nothing is kept", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    pairs, found = len(rewards) // 2, accuracy(rewards.mean(dim=1), batch.rewards)
    error_of = (found * (1 - found) / pairs) ** 0.5
    print(f"{model.name}: {pairs} pairs of {args.dataset}, {args.states} states")
    print(f"implicit accuracy {found:.3f} ± {error_of:.3f}")
    each = (f"{accuracy(column, batch.rewards):.3f}" for column in rewards.T)
    print(f"by state, from noise to image: {' '.join(each)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
