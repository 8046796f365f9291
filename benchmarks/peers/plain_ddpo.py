"""A plain loop of DDPO over a diffusers pipeline, as one would write it for oneself: no actors, no records, no checks.

    L = mean max(-A rho, -A clip(rho, 1 - eps, 1 + eps)),   rho = exp(log p_theta(x_next | x) - log p_old)

over all transitions of DDIM with eta = 1, log p in nats per dimension, A the reward standardised within its prompt.

Source: Black et al., "Training Diffusion Models with Reinforcement Learning" (arXiv 2305.13301).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.peers.pipeline import adapted, guided_text, load
from benchmarks.peers.work import Side, Tally, Work, answer
from rewards.shapes_agreement import ShapesAgreement

Draws = tuple[Tensor, Tensor, Tensor]  # (T + 1, B, ...) states, (T, B) log-probabilities, (B, 3, H, W) images


class PlainDdpo(Side):
    """See the head of this file."""

    micro_batches = (32, 96)

    def __init__(self, work: Work, micro_batch: int, tally: Tally) -> None:
        self._work, self._micro_batch = work, micro_batch
        torch.manual_seed(work.seed)
        self._pipeline = load(work.pipeline)
        self._parameters = adapted(self._pipeline.unet, work)
        self._optimizer = torch.optim.AdamW(self._parameters, lr=work.lr, weight_decay=work.weight_decay)
        self._text = guided_text(self._pipeline, work.prompts)
        scheduler = self._pipeline.scheduler
        scheduler.set_timesteps(work.steps)
        self._timesteps = scheduler.timesteps
        kept = scheduler.alphas_cumprod.double()
        earlier = self._timesteps - scheduler.config.num_train_timesteps // work.steps
        self._now = kept[self._timesteps]
        self._next = torch.where(earlier >= 0, kept[earlier.clamp(min=0)], scheduler.final_alpha_cumprod.double())
        tally.watch(self._pipeline.unet)
        self._score = tally.judged(ShapesAgreement().score)

    def update(self) -> None:
        work, samples = self._work, len(self._work.prompts)
        states, behaviour, images = self.draw()
        with torch.no_grad():
            scores = self._score(images, work.prompts)
        advantages = standardised(scores, work.prompts).clamp(-work.max_advantage, work.max_advantage)
        for piece in torch.randperm(work.steps * samples).split(self._micro_batch):
            step, row = piece // samples, piece % samples
            log_prob = self.log_prob(states[step, row], states[step + 1, row], step, row)
            ratio, advantage = (log_prob - behaviour[step, row]).exp(), advantages[row]
            clipped = ratio.clamp(1 - work.clip_range, 1 + work.clip_range)
            loss = torch.maximum(-advantage * ratio, -advantage * clipped).sum() / (work.steps * samples)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, work.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    @torch.no_grad()
    def draw(self) -> Draws:
        """Sample a picture for every prompt."""
        pipeline, rows = self._pipeline, torch.arange(len(self._work.prompts))
        size = pipeline.unet.config.sample_size
        states, log_probs = [torch.randn(len(rows), pipeline.unet.config.in_channels, size, size)], []
        for number in range(self._work.steps):
            mean, std = self._mean(states[-1], torch.full_like(rows, number), rows)
            states.append(mean + std * torch.randn_like(mean))
            log_probs.append(_log_density(states[-1], mean, std))
        images = pipeline.vae.decode(states[-1] / pipeline.vae.config.scaling_factor).sample
        return torch.stack(states), torch.stack(log_probs), (images / 2 + 0.5).clamp(0, 1)

    def log_prob(self, x: Tensor, x_next: Tensor, step: Tensor, row: Tensor) -> Tensor:
        """Of transitions `(n, ...)` at steps `(n,)` under the prompts of rows `(n,)`, `(n,)` with gradient."""
        return _log_density(x_next, *self._mean(x, step, row))

    def _mean(self, x: Tensor, step: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        time = self._timesteps[step]
        output = self._pipeline.unet(x.repeat(2, 1, 1, 1), time.repeat(2), self._text[:, row].flatten(0, 1)).sample
        without, told = output.chunk(2)
        noise = without + self._work.guidance * (told - without)
        now, after = (kept[step].view(-1, 1, 1, 1) for kept in (self._now, self._next))
        variance = (1 - after) / (1 - now) * (1 - now / after)
        clean = (x - (1 - now).sqrt().float() * noise) / now.sqrt().float()
        mean = after.sqrt().float() * clean + (1 - after - variance).sqrt().float() * noise
        return mean, variance.sqrt().float()


def standardised(scores: Tensor, prompts: Sequence[str]) -> Tensor:
    """Scores `(B,)` less the mean of their prompt's, over its deviation."""
    out = torch.empty_like(scores)
    for text in dict.fromkeys(prompts):
        rows = [row for row, of in enumerate(prompts) if of == text]
        out[rows] = (scores[rows] - scores[rows].mean()) / (scores[rows].std(unbiased=False) + 1e-6)
    return out


def _log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, std).log_prob(x).flatten(1).mean(1)


if __name__ == "__main__":
    answer(PlainDdpo)
