"""What stays of a run and what is seen of it: its folder, figures, pictures and displays."""
