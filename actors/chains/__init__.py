"""How a chain steps: one file a solver, each a plain function from noise levels to the tables of `Transitions`."""
