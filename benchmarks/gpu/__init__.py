"""What Reinoise takes of a GPU, in time and memory, on full-size networks with random weights."""
