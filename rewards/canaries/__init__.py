"""Pictures whose scores are known, for `rewards.canary`."""
