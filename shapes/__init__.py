"""The embedded worlds: tiny procedural text-to-image domains in the formats of Stable Diffusion.

`worlds` says what there is in each, `captions` is the prompt grammar and its train / held-out split, `render` draws a
caption, `judge` reads a picture back symbolically (the gold score), `scorer` is the learned reward model and `pretrain`
makes everything that `pretrained/` ships, but for the twin of flow matching, which `pretrain_flow` makes, and two small
networks: `aesthetic`, a taste (`fit_aesthetic`), and `readers`, which read pictures (`fit_reader`). `step_scorer` is
the scorer further trained, by `rewards.fit_steps`. Nothing in here knows the rest of Reinoise.
"""

from pathlib import Path

PRETRAINED = Path(__file__).parent / "pretrained"
# What `shapes.pretrain` makes of each world, by the names of `shapes.worlds`.
FOLDERS = {"first": PRETRAINED, "second": PRETRAINED / "second"}
SCORERS = {world: folder / "scorer" for world, folder in FOLDERS.items()}
READERS = {world: PRETRAINED / "readers" / world for world in FOLDERS}  # what measures a world is no part of it
STEP_SCORERS = {"first": PRETRAINED / "step_scorer"}  # of `rewards.fit_steps`
AESTHETIC = PRETRAINED / "aesthetic"  # of all worlds
PIPELINE = PRETRAINED / "pipeline"
FLOW_PIPELINE = PRETRAINED / "flow_pipeline"
# By the names that `policy.model` has for them.
PIPELINES = {"shapes": PIPELINE, "shapes_flow": FLOW_PIPELINE, "shapes_second": FOLDERS["second"] / "pipeline"}
