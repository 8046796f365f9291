"""What the driver costs as a cluster grows: the real control plane, with actors that only wait."""
