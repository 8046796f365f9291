"""TRL 0.23.1's DDPOTrainer on an embedded world's pipeline; run by the Python of its own environment (`trl_ddpo.txt`).

Its pipeline, rank (4) and targets (attention's projections) are its own. `train` has the settings of the command in its
`examples/scripts/ddpo.py`, but for steps and guidance, which are the world's, and half precision, which a CPU has not.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline

from benchmarks.peers.work import Side, Tally, Work, answer
from rewards.shapes_agreement import ShapesAgreement

_NEVER = 10**9  # epochs until a checkpoint
_WRITTEN_EVERY = 60.0  # seconds
_OFF = 1e-4  # of an embedding, which is of the order of 1


class TrlDdpo(Side):
    """See the head of this file; `micro_batch` is its `train_batch_size`, samples at one step."""

    micro_batches = (32, 64)

    def __init__(self, work: Work, micro_batch: int, tally: Tally) -> None:
        prompts, images = itertools.cycle(work.prompts), len(work.prompts)
        config = DDPOConfig(
            seed=work.seed,
            mixed_precision="no",
            save_freq=_NEVER,
            sample_num_steps=work.steps,
            sample_guidance_scale=work.guidance,
            sample_batch_size=images,
            sample_num_batches_per_epoch=1,
            train_batch_size=micro_batch,
            train_gradient_accumulation_steps=images // micro_batch,
            train_learning_rate=work.lr,
            train_adam_weight_decay=work.weight_decay,
            train_max_grad_norm=work.max_grad_norm,
            train_clip_range=work.clip_range,
            train_adv_clip_max=work.max_advantage,
            per_prompt_stat_tracking=True,
        )
        self._trainer = _trainer(work, config, lambda: (next(prompts), {}), tally)
        rank = self._trainer.sd_pipeline.unet.peft_config["default"]
        if (rank.r, rank.lora_alpha) != (work.rank, work.alpha):
            raise SystemExit(f"error: TRL's adapter has rank {rank.r}; set policy.lora_rank and lora_alpha to that.")

    def update(self) -> None:
        self._trainer.step(0, 0)


def train(work: Work, seconds: float, folder: Path) -> None:
    """Train for so long at TRL's documented settings; an adapter is written every minute, which costs no time of it.

    Args:
        work: Of which pipeline, prompts, steps and guidance count.
        seconds: Of training.
        folder: Where `minute-N` and at the end `last` are written, and then `epochs.json`: how many epochs, images and
            seconds there were.
    """
    chance = random.Random(work.seed)
    config = DDPOConfig(
        seed=work.seed,
        mixed_precision="no",
        save_freq=_NEVER,
        sample_num_steps=work.steps,
        sample_guidance_scale=work.guidance,
        sample_batch_size=6,
        train_batch_size=3,
        sample_num_batches_per_epoch=4,
        train_gradient_accumulation_steps=1,
        per_prompt_stat_tracking=True,
        per_prompt_stat_tracking_buffer_size=32,
    )
    tally = Tally()
    trainer = _trainer(work, config, lambda: (chance.choice(work.prompts), {}), tally)
    spent, epochs, written = 0.0, 0, 0
    while spent < seconds:
        started = time.perf_counter()
        trainer.step(epochs, epochs)
        spent, epochs = spent + time.perf_counter() - started, epochs + 1
        if spent >= (written + 1) * _WRITTEN_EVERY:
            written = int(spent // _WRITTEN_EVERY)
            _write(trainer, folder / f"minute-{written}")
    _write(trainer, folder / "last")
    (folder / "epochs.json").write_text(json.dumps({"epochs": epochs, "images": tally.images, "seconds": spent}))


def _trainer(work: Work, config: DDPOConfig, prompt: Any, tally: Tally) -> DDPOTrainer:
    PartialState()  # its logger asks for it
    with tempfile.TemporaryDirectory() as folder:
        pipeline = DefaultDDPOStableDiffusionPipeline(str(_readable(Path(work.pipeline), Path(folder))))
    _check_text(pipeline, work)
    reward = ShapesAgreement()

    def score(images: torch.Tensor, prompts: tuple[str, ...], _: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        with torch.no_grad():
            return reward.score(images, prompts), {}

    trainer = DDPOTrainer(config, tally.judged(score), prompt, pipeline)
    trainer.sd_pipeline.set_progress_bar_config(disable=True)
    tally.watch(trainer.sd_pipeline.unet)
    return trainer


def _readable(pipeline: Path, folder: Path) -> Path:
    """A copy whose text encoder's tensors are called as transformers 4 calls them, which would not read others."""
    copy = folder / "pipeline"
    shutil.copytree(pipeline, copy)
    file = copy / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": of for name, of in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    return copy


def _check_text(pipeline: Any, work: Work) -> None:
    """Refuse a pipeline that reads prompts in another way than ours does."""
    for prompt, ids in zip(work.prompts, work.tokens, strict=True):
        if (own := pipeline.tokenizer(prompt, padding="max_length").input_ids) != list(ids):
            raise SystemExit(f"error: The peer's tokenizer reads {prompt!r} as {own}, ours as {list(ids)}.")
    with torch.no_grad():
        embedded = pipeline.text_encoder(torch.tensor([work.tokens[0]]))[0].flatten()
    if (off := float((embedded - torch.tensor(work.text)).abs().max())) > _OFF:
        raise SystemExit(f"error: The peer's text encoder embeds {work.prompts[0]!r} differently, by {off:.1e}.")


def _write(trainer: DDPOTrainer, folder: Path) -> None:
    folder.mkdir(parents=True)
    trainer.sd_pipeline.save_checkpoint([trainer.sd_pipeline.unet], [], str(folder))


if __name__ == "__main__":
    answer(TrlDdpo, train)
