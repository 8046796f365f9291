"""Pages that show runs, each in one file that needs no network: what stands on them, and how it is drawn."""
