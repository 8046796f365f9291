"""What tests and benchmarks share: tiny models, machines, and what can go wrong on them."""
