"""A world beside the embedded one, on which nothing of Reinoise was tuned.

`world` has its prompts and draws them, `judge` reads a picture back by rule, and `python -m benchmarks.foreign_world`
makes its Stable Diffusion pipeline.
"""
