"""Models by rewards: what `cluster.evaluate` draws, judges, keeps on disk, makes figures of and shows."""
