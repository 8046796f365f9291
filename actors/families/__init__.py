"""The model families: one file each, one line here. A model's own `model_index.json` says of which it is."""

from __future__ import annotations

from importlib import import_module

from actors.families.family import Family

# By the class that the pipeline's folder names; each is imported only when it is asked for.
FAMILIES = {
    "Flux2KleinPipeline": "actors.families.flux2:Flux2Klein",
    "FluxPipeline": "actors.families.flux:Flux",
    "StableDiffusion3Pipeline": "actors.families.sd3:StableDiffusion3",
    "StableDiffusionPipeline": "actors.families.sd:StableDiffusion",
    "StableDiffusionXLPipeline": "actors.families.sdxl:StableDiffusionXL",
}


def family_of(pipeline: str) -> type[Family]:
    """The family of a pipeline's class.

    Raises:
        KeyError: If none is known.
    """
    module, _, name = FAMILIES[pipeline].partition(":")
    return getattr(import_module(module), name)
