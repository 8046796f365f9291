"""The embedded world: a tiny procedural text-to-image domain in the formats of Stable Diffusion.

`captions` is the prompt grammar and its train / held-out split, `render` draws a caption, `judge` reads a picture
back symbolically (the gold score), `scorer` is the learned reward model and `pretrain` makes everything that
`pretrained/` ships, but for the twin of flow matching, which `pretrain_flow` makes. Nothing in here knows the rest of
Reinoise.
"""

from pathlib import Path

PRETRAINED = Path(__file__).parent / "pretrained"
PIPELINE = PRETRAINED / "pipeline"
FLOW_PIPELINE = PRETRAINED / "flow_pipeline"
# By the names that `policy.model` has for them.
PIPELINES = {"shapes": PIPELINE, "shapes_flow": FLOW_PIPELINE}
SCORER = PRETRAINED / "scorer"
