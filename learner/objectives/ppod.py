"""PPOD: proximal preference optimisation over the denoising chain.

For two samples w, l of a prompt of which the reward prefers w, and stored transitions t = 1..K,

    g_t = log pi_theta(x_{t-1} | x_t, c) - log pi_ref(x_{t-1} | x_t, c)

    per step           L = mean_t  ell( beta (G_t^w - G_t^l) )
    whole trajectory   L = ell( beta sum_t (G_t^w - G_t^l) )

where ell is a preference loss (`learner.preferences.preference_loss`) and G is g under the proximal clip: `hard` clamps
g around 0, `pessimistic` clamps it around where the sampling policy was and takes the larger of the clipped and the
unclipped loss, `one_sided` clamps winners from above and losers from below. Rankings replace the pair loss with
Plackett-Luce over all samples of a prompt. With `likelihood=ode` there is one step, the image, and its g is the exact
log-ratio of `learner.ode_likelihood`.

Source: "Proximal Preference Optimization for Diffusion Models" (ICLR 2024 submission, withdrawn); its text is not
public, so clip readings, hyper-parameters and rankings are our reconstruction, in the MDP of DPOK (Fan et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.likelihood import REFERENCE_ADAPTER, Likelihoods, Reference, backward
from learner.objectives.objective import Asks, Objective, Part, Plan, refuse_unused
from learner.ode_likelihood import backward_ode, images_at_a_time, ode_log_probs
from learner.preferences import (
    Clip,
    LossKind,
    clip_ratios,
    make_pairs,
    pair_metrics,
    plackett_luce,
    preference_loss,
    proximal,
)
from learner.ranks import ALONE, Ranks
from learner.subsample import noisy_steps, split_groups


class PPODConfig(BaseModel, frozen=True, extra="forbid"):
    """Proximal preference optimisation.

    The paper's own numbers are not public; the defaults are those of its relatives, each named where it stands.
    """

    name: Literal["ppod"] = "ppod"
    likelihood: Literal["chain", "ode"] = Field(
        "chain",
        description="Log-probabilities of the chain's steps; or that of the image itself, by the probability-flow ODE, "
        "which has two passes and two ways back a step and is for small models.",
    )
    loss: LossKind = Field("bt", description="Preference loss; Bradley-Terry unless said otherwise.")
    beta: float = Field(
        10.0, gt=0, description="Scale of the margin, SPO's by default; log-probabilities are means over dimensions."
    )
    label_temperature: float = Field(1.0, gt=0, description="soft: label = sigmoid(reward difference / this).")
    clip: Clip = Field("pessimistic", description="Reading of the proximal clip.")
    clip_range: float = Field(1e-4, gt=0, lt=1, description="Half width of the band around ratio 1; 1e-4 is DDPO's.")
    reference: Literal["pretrained", "round"] = Field(
        "round", description="Reference policy: the pretrained model, or a snapshot taken at the start of each round."
    )
    round_length: int = Field(
        1,
        ge=1,
        description="Iterations of a round, for reference=round. A round of one has no snapshot: its reference is the "
        "policy that drew the batch, also where that is an older one.",
    )
    kl_weight: float = Field(0.01, ge=0, description="Weight of KL(policy || pretrained) per step; DPOK's by default.")
    pairs: Literal["consecutive", "best_worst", "all_pairs", "ranking"] = Field(
        "all_pairs", description="Who is compared with whom among the samples of a prompt."
    )
    min_gap: float = Field(0.0, ge=0, description="Rewards that differ by no more than this are tied; 0 as in D3PO.")
    ties: Literal["drop", "keep"] = Field("drop", description="keep: ties count in the mean, without gradient.")
    share_init_noise: bool = Field(True, description="All samples of a prompt start from the same x_T.")
    form: Literal["step", "trajectory"] = Field("step", description="Loss per step, or of the whole chain.")
    step_fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the steps that is trained, from the noisy end; all of them, as in DDPO."
    )
    steps_per_update: int | None = Field(None, ge=1, description="Sampler steps of one optimizer step; null is all.")
    prompts_per_update: int | None = Field(None, ge=1, description="Prompts of one optimizer step; null is all.")
    epochs: int = Field(1, ge=1, description="Passes over a batch.")
    offline_batches: int = Field(
        0, ge=0, description="Draw this many batches once, from the pretrained model; 0: online."
    )

    @model_validator(mode="after")
    def _check(self) -> PPODConfig:
        if self.likelihood == "ode" and (self.kl_weight or self.steps_per_update is not None):
            raise ValueError("likelihood=ode is of the whole image, so it needs kl_weight=0 and steps_per_update=null")
        if self.likelihood == "ode" and self.offline_batches:
            raise ValueError(
                "likelihood=ode takes the policy that a batch finds for the one that drew it, so it needs "
                "offline_batches=0"
            )
        if self.form == "trajectory" and self.steps_per_update is not None:
            raise ValueError("form=trajectory sums over all steps of a chain, so it needs steps_per_update=null")
        if self.pairs == "ranking" and (self.loss != "bt" or self.clip == "one_sided"):
            raise ValueError("pairs=ranking is Plackett-Luce: it goes with loss=bt and any clip but one_sided")
        if self.pairs == "ranking":
            refuse_unused(self, "pairs=consecutive, best_worst or all_pairs", "ties")
        if self.loss != "soft":
            refuse_unused(self, "loss=soft", "label_temperature")
        if self.reference != "round":
            refuse_unused(self, "reference=round", "round_length")
        return self

    @property
    def asks(self) -> Asks:
        """An image has a density however it was sampled."""
        if self.likelihood == "ode":
            return Asks(groups=True, noise="nowhere", images=True, current=True)
        return Asks(groups=True, ratios=True)

    def build(self) -> PPOD:
        """The objective."""
        return PPOD(self)


class PPOD(Objective):
    """Proximal preference optimisation, see the head of this file."""

    config: PPODConfig

    def __init__(self, config: PPODConfig) -> None:
        self.config = config
        self._behaviour: Tensor | None = None  # (B,), of `likelihood=ode`

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        of_image = self.config.likelihood == "ode"
        steps = () if of_image else noisy_steps(chain.trainable_steps, self.config.step_fraction)
        return Plan(steps, self.config.share_init_noise, clean=of_image, offline_batches=self.config.offline_batches)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        # The ODE of an image goes through all states.
        return tuple(range(chain.adapted_steps)) if self.config.likelihood == "ode" else self.plan(chain).stored_steps

    def kept_latents(self, chain: Transitions, prompts: int, samples: int) -> int:
        if not self.config.kl_weight:
            return 0
        steps = len(self.plan(chain).stored_steps)
        together = min(prompts, self.config.prompts_per_update or prompts)
        return together * samples * min(steps, self.config.steps_per_update or steps)

    def begin(self, policy: Policy, batch: Batch, version: int) -> Batch:
        if self._reference == "snapshot" and version % self.config.round_length == 0:
            policy.snapshot(REFERENCE_ADAPTER)
        self._behaviour = None
        return batch

    @property
    def _reference(self) -> Reference:
        if self.config.reference == "pretrained":
            return "pretrained"
        # In a round of one iteration the snapshot is the behaviour policy, whose log-probabilities are stored.
        return "behaviour" if self.config.round_length == 1 else "snapshot"

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        columns = 1 if self.config.likelihood == "ode" else len(batch.steps)
        for _ in range(self.config.epochs):
            for samples, some in split_groups(
                batch.groups, columns, self.config.prompts_per_update, self.config.steps_per_update, generator
            ):
                yield Part(samples, some)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        rewards, groups = batch.rewards[part.samples], batch.groups[part.samples]

        def loss(likelihoods: Likelihoods) -> tuple[Tensor, dict[str, float]]:
            value, metrics = preference_objective(self.config, likelihoods, rewards, groups)
            divergence = likelihoods.kl.mean()
            if self.config.kl_weight:
                metrics["kl/pretrained"] = float(divergence.detach())
            return value + self.config.kl_weight * divergence, metrics | {"loss": float(value.detach())}

        if self.config.likelihood == "ode":
            if self._behaviour is None:  # the first update, which finds the policy that drew the images
                self._behaviour = ode_log_probs(policy, batch, images_at_a_time(policy, micro_batch), ranks)
            return backward_ode(
                policy, batch, part.samples, self._behaviour, loss, micro_batch=micro_batch, reference=self._reference,
                ranks=ranks,
            )  # fmt: skip
        return backward(
            policy,
            batch,
            part.samples,
            part.columns,
            loss,
            micro_batch=micro_batch,
            reference=self._reference,
            with_kl=self.config.kl_weight > 0,
            ranks=ranks,
        )


def preference_objective(
    config: PPODConfig, likelihoods: Likelihoods, rewards: Tensor, groups: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """The loss of the head of this file, and its metrics.

    Args:
        config: Which of its forms.
        likelihoods: Of b samples at k steps.
        rewards: `(b,)`, NaN where a sample was dropped.
        groups: `(b,)` int64.
    """
    g, anchor = likelihoods.log_ratio, likelihoods.anchor
    pairs = make_pairs(
        rewards,
        groups,
        "all_pairs" if config.pairs == "ranking" else config.pairs,
        min_gap=config.min_gap,
        keep_ties=config.ties == "keep",
    )
    if not len(pairs):  # everyone tied or dropped: nothing to learn, but the update goes through
        return 0.0 * g.sum(), {"pairs": 0.0}
    g_w, g_l = g[pairs.winner], g[pairs.loser]
    clipped_w = clip_ratios(g_w, anchor[pairs.winner], config.clip_range, config.clip, winner=True)
    clipped_l = clip_ratios(g_l, anchor[pairs.loser], config.clip_range, config.clip, winner=False)
    metrics = pair_metrics(g_w, g_l, clipped_w, clipped_l)
    if config.pairs == "ranking":
        return _ranking_loss(config, g, anchor, rewards, groups), metrics
    strict = (pairs.gap > 0).float()[:, None]  # a kept tie has no margin: a constant loss
    label = torch.sigmoid(pairs.gap / config.label_temperature)[:, None]
    if config.form == "trajectory":
        g_w, g_l, clipped_w, clipped_l = (v.sum(dim=1, keepdim=True) for v in (g_w, g_l, clipped_w, clipped_l))

    def loss(winner: Tensor, loser: Tensor) -> Tensor:
        return preference_loss(strict * (winner - loser), config.beta, config.loss, label)

    return proximal(loss, (g_w, g_l), (clipped_w, clipped_l), config.clip).mean(), metrics


def _ranking_loss(config: PPODConfig, g: Tensor, anchor: Tensor, rewards: Tensor, groups: Tensor) -> Tensor:
    clipped = clip_ratios(g, anchor, config.clip_range, config.clip, winner=True)
    if config.form == "trajectory":
        g, clipped = g.sum(dim=1, keepdim=True), clipped.sum(dim=1, keepdim=True)
    losses = []
    for group in groups.unique():
        members = torch.nonzero((groups == group) & rewards.isfinite()).flatten()
        # A group that is tied throughout has no ranking; Breslow's likelihood would pull it together all the same.
        if len(members) > 1 and rewards[members].max() - rewards[members].min() > config.min_gap:

            def loss(ratios: Tensor, of: Tensor = rewards[members]) -> Tensor:
                return plackett_luce(config.beta * ratios, of, config.min_gap)

            losses.append(proximal(loss, (g[members],), (clipped[members],), config.clip).mean())
    # Pairs may differ by more than min_gap where no group does, in another precision.
    return torch.stack(losses).mean() if losses else 0.0 * g.sum()
