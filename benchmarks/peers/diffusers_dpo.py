"""diffusers' Diffusion-DPO recipe by its formulas, as a plain loop: the mean square errors of noised pairs.

    L = mean -log sigmoid( b [ (m_l - m_w) - (m_l^ref - m_w^ref) ] )

with m the mean square error of the predicted noise of winner and loser, noised with one noise to one timestep, under
the policy and under the base model. b is 2500 there, which is half of a beta whose margin has errors by half.

Source: diffusers' `examples/research_projects/diffusion_dpo/train_diffusion_dpo.py`; Wallace et al. (arXiv 2311.12908).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.pictures import pairs
from benchmarks.peers.pipeline import adapted, load, text
from benchmarks.peers.work import Side, Tally, Work, answer


class DiffusersDpo(Side):
    """See the head of this file; `micro_batch` counts pairs."""

    micro_batches = (32, 64)

    def __init__(self, work: Work, micro_batch: int, tally: Tally) -> None:
        self._work, self._micro_batch = work, micro_batch
        torch.manual_seed(work.seed)
        self._pipeline = load(work.pipeline)
        unet, factor = self._pipeline.unet, self._pipeline.vae_scale_factor
        self._parameters = adapted(unet, work)
        self._optimizer = torch.optim.AdamW(self._parameters, lr=work.lr, weight_decay=work.weight_decay)
        self._text = text(self._pipeline, work.prompts)
        pictures = pairs(work.prompts, work.seed, unet.config.sample_size * factor)
        self._pictures = torch.from_numpy(pictures).permute(0, 1, 4, 2, 3) / 127.5 - 1  # (2, n, 3, H, W)
        tally.watch(unet)

    def update(self) -> None:
        for pieces in torch.randperm(len(self._work.prompts)).split(self._micro_batch):
            (self.loss(pieces) * len(pieces) / len(self._work.prompts)).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._work.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def loss(self, rows: Tensor) -> Tensor:
        """The mean loss of pairs `(n,)`."""
        pipeline, unet = self._pipeline, self._pipeline.unet
        with torch.no_grad():
            encoded = pipeline.vae.encode(self._pictures[:, rows].flatten(0, 1)).latent_dist.sample()
        latents = encoded * pipeline.vae.config.scaling_factor  # winners, then losers
        noise = torch.randn_like(latents[: len(rows)]).repeat(2, 1, 1, 1)
        steps = torch.randint(pipeline.scheduler.config.num_train_timesteps, (len(rows),)).repeat(2)
        noised, told = pipeline.scheduler.add_noise(latents, noise, steps), self._text[rows].repeat(2, 1, 1)
        predicted = unet(noised, steps, told).sample
        unet.disable_adapters()
        with torch.no_grad():
            reference = unet(noised, steps, told).sample
        unet.enable_adapters()
        return dpo_loss(predicted, reference, noise, self._work.beta / 2)


def dpo_loss(predicted: Tensor, reference: Tensor, noise: Tensor, scale: float) -> Tensor:
    """The formula of the head of this file, of predictions `(2n, ...)` of n winners and then their losers.

    Args:
        predicted: The policy's.
        reference: The base model's.
        noise: `(2n, ...)`, that was added.
        scale: b.
    """
    of_policy, of_reference = (
        F.mse_loss(output, noise, reduction="none").flatten(1).mean(1).view(2, -1) for output in (predicted, reference)
    )
    margin = (of_reference[0] - of_reference[1]) - (of_policy[0] - of_policy[1])
    return -F.logsigmoid(scale * margin).mean()


if __name__ == "__main__":
    answer(DiffusersDpo)
