"""The variance of a reward split by what is drawn: the prompt, the initial noise x_T, and the chain's own noise.

The design is crossed: every prompt from every x_T, each pair several times with other noise in the chain. With P
prompts, S initial noises and R chains

    y_psr = m + a_p + b_s + (ab)_ps + e_psr

all effects random and independent. The sums of squares add up to that of all scores; the components follow from their
expectations (the two-way random-effects ANOVA, Searle, Casella & McCulloch, Variance Components, 1992, chapter 4):

    E MS_e = v_e,   E MS_ps = v_e + R v_ps,   E MS_s = E MS_ps + P R v_s,   E MS_p = E MS_ps + S R v_p
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Parts(NamedTuple):
    """Parts of the variance of one score, in the reward's units squared.

    They are unbiased, so one may fall below 0 by chance; they add up to the `total`.
    """

    prompt: float  # v_p, of the prompt alone
    noise: float  # v_s, of x_T alone: noise that is good or bad whatever is asked for
    both: float  # v_ps, of an x_T that suits one prompt and not another
    chain: float  # v_e, of the noise that the chain adds; 0 of a deterministic solver

    @property
    def total(self) -> float:
        """The variance of a score of a prompt, an x_T and a chain that are drawn anew."""
        return sum(self)


class Sums(NamedTuple):
    """Sums of squares, which add up to that of all scores about their mean."""

    prompt: float
    noise: float
    both: float
    chain: float


def sums_of_squares(scores: np.ndarray) -> Sums:
    """The sums of squares of a crossed design `(P, S, R)`."""
    prompts, noises, chains = scores.shape
    cells = scores.mean(axis=2)
    rows, columns, mean = cells.mean(axis=1), cells.mean(axis=0), cells.mean()
    return Sums(
        float(noises * chains * ((rows - mean) ** 2).sum()),
        float(prompts * chains * ((columns - mean) ** 2).sum()),
        float(chains * ((cells - rows[:, None] - columns + mean) ** 2).sum()),
        float(((scores - cells[..., None]) ** 2).sum()),
    )


def split(scores: np.ndarray) -> Parts | None:
    """The parts of a reward's variance.

    Args:
        scores: `(P, S, R)`; a prompt that could not be judged everywhere is left out.

    Returns:
        `None` where fewer than two prompts, initial noises or chains are left.
    """
    scores = scores[np.isfinite(scores).all(axis=(1, 2))].astype(np.float64)
    if min(scores.shape) < 2:
        return None
    (prompts, noises, chains), sums = scores.shape, sums_of_squares(scores)
    of_prompt, of_noise = sums.prompt / (prompts - 1), sums.noise / (noises - 1)
    of_both = sums.both / ((prompts - 1) * (noises - 1))
    of_chain = sums.chain / (prompts * noises * (chains - 1))
    return Parts(
        (of_prompt - of_both) / (noises * chains),
        (of_noise - of_both) / (prompts * chains),
        (of_both - of_chain) / chains,
        of_chain,
    )
