"""What choices say: how steady raters are, how far they agree, and how often each model wins.

Win rates are those of Luce's choice model (Bradley & Terry 1952 for pairs): of the sets S that are shown, m is chosen
with probability p_m = exp(theta_m) / sum over S of exp(theta). `choix` finds theta. A tie is a part of a choice of each
set; every two models have half a choice each beforehand, so that ten of ten is not certainty. The win rate of m is the
mean of exp(theta_m) / (exp(theta_m) + exp(theta_o)) over the others o, and its interval of 95 % is Wald's on the logit,
from the information, which is the sum of diag(p) - p p^T over choices; these are taken as independent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import choix
import krippendorff
import numpy as np

from rewards.people.choices import BOTH_BAD, TIE, Choice
from rewards.people.questions import Question

_Z = 1.959964


@dataclass(frozen=True)
class WinRate:
    """How often a model wins against the others.

    Args:
        model: Its name.
        rate: From 0 to 1, ties as half.
        low: Lower end of its interval of 95 %.
        high: Upper end.
        choices: In which it was shown, both bad left out.
    """

    model: str
    rate: float
    low: float
    high: float
    choices: int


def consistency(choices: Iterable[Choice]) -> tuple[int, int]:
    """How many of the questions that came again were answered as before, and how many came again."""
    answers: dict[tuple[str, str], dict[int, object]] = {}
    for choice in choices:
        answers.setdefault((choice.rater, choice.question), {})[choice.round] = _verdict(choice)
    twice = [given for given in answers.values() if {0, 1} <= given.keys()]
    return sum(given[0] == given[1] for given in twice), len(twice)


def agreement(choices: Iterable[Choice]) -> float | None:
    """Krippendorff's alpha of what several raters answered, nominal: 1 is agreement, 0 chance.

    `None` where no question has two raters, or all answers are the same.
    """
    answers = {(choice.rater, choice.question): _verdict(choice) for choice in choices if choice.round == 0}
    raters, questions = (sorted(set(names)) for names in zip(*answers, strict=True)) if answers else ([], [])
    several = [question for question in questions if sum((rater, question) in answers for rater in raters) > 1]
    # Numbers of the answers as they stand: a tie is no number between two sets.
    codes = {verdict: code for code, verdict in enumerate(dict.fromkeys(answers.values()))}
    table = np.array(
        [[codes[answers[rater, q]] if (rater, q) in answers else np.nan for q in several] for rater in raters]
    )
    if len(set(table[np.isfinite(table)])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal"))


def win_rates(choices: Iterable[Choice], questions: Mapping[str, Question]) -> dict[str, list[WinRate]]:
    """Win rates of models, by what was asked, the best first; what came again and what has no models is left out.

    Args:
        choices: Of any number of raters.
        questions: By their ids.
    """
    asked: dict[str, list[tuple[tuple[str, ...], int | None]]] = {}
    for choice in choices:
        question = questions.get(choice.question)
        if question is None or question.models is None or choice.round or choice.choice == BOTH_BAD:
            continue
        if len(set(question.models)) == len(question.models):
            asked.setdefault(question.words, []).append((question.models, choice.winner))
    return {words: _luce(answers) for words, answers in asked.items()}


def _luce(answers: Sequence[tuple[tuple[str, ...], int | None]]) -> list[WinRate]:
    models = sorted({model for shown, _ in answers for model in shown})
    number = {model: index for index, model in enumerate(models)}
    shown = [tuple(number[model] for model in names) for names, _ in answers]
    parts = math.lcm(2, *map(len, shown))  # of a choice, so that ties and what is given beforehand are whole numbers
    wins: list[tuple[int, tuple[int, ...]]] = []
    for names, (_, winner) in zip(shown, answers, strict=True):
        for place in range(len(names)) if winner is None else (winner,):
            others = names[:place] + names[place + 1 :]
            wins += [(names[place], others)] * (parts // len(names) if winner is None else parts)
    pairs = [(one, other) for one in number.values() for other in number.values() if one != other]
    wins += [(one, (other,)) for one, other in pairs] * (parts // 2)
    theta = choix.ilsr_top1(len(models), wins)
    information = np.zeros((len(models), len(models)))
    for names in [*shown, *(pair for pair in pairs if pair[0] < pair[1])]:
        here = np.ix_(names, names)
        p = np.exp(theta[list(names)] - theta[list(names)].max())
        p /= p.sum()
        information[here] += np.diag(p) - np.outer(p, p)
    covariance = np.linalg.pinv(information)
    rates = []
    for model, index in number.items():
        p = 1 / (1 + np.exp(np.delete(theta, index) - theta[index]))
        slope = np.insert(-p * (1 - p), index, (p * (1 - p)).sum()) / len(p)  # d rate / d theta
        rate = float(p.mean())
        width = _Z * math.sqrt(slope @ covariance @ slope) / (rate * (1 - rate))
        logit = math.log(rate / (1 - rate))
        low, high = (1 / (1 + math.exp(-(logit + side * width))) for side in (-1, 1))
        rates.append(WinRate(model, rate, low, high, sum(index in names for names in shown)))
    return sorted(rates, key=lambda found: -found.rate)


def summary(choices: Sequence[Choice], questions: Mapping[str, Question]) -> dict[str, Any]:
    """All of it, as JSON has it; what cannot be known yet is left out."""
    raters = []
    for name in sorted({choice.rater for choice in choices}):
        own = [choice for choice in choices if choice.rater == name]
        same, twice = consistency(own)
        kinds = Counter(choice.choice if choice.winner is None else "one" for choice in own)
        times = [choice.seconds for choice in own if choice.seconds is not None]
        row: dict[str, Any] = {"rater": name, "choices": len(own), "tie": kinds[TIE], "both_bad": kinds[BOTH_BAD]}
        if kinds["one"]:
            row["left"] = sum(choice.choice == 0 for choice in own) / kinds["one"]
        if times:
            row["seconds"] = median(times)
        if twice:
            row |= {"again": twice, "same": same}
        raters.append(row)
    found: dict[str, Any] = {"choices": len(choices), "raters": raters}
    if (alpha := agreement(choices)) is not None:
        found["alpha"] = alpha
    found["win_rates"] = [
        {"words": words, "models": [vars(rate) for rate in rates]}
        for words, rates in win_rates(choices, questions).items()
    ]
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """A `summary` for a terminal."""
    said = [f"{found['choices']} choices"]
    for row in found["raters"]:
        parts = [f"{row['rater']}: {row['choices']} choices", f"{row['tie']} ties", f"{row['both_bad']} both bad"]
        if "left" in row:
            parts.append(f"left {row['left']:.0%} of the rest")
        if "again" in row:
            parts.append(f"{row['same']} of {row['again']} that came again answered as before")
        if "seconds" in row:
            parts.append(f"{row['seconds']:.1f} s each (median)")
        said.append(", ".join(parts))
    if "alpha" in found:
        said.append(f"Krippendorff's alpha between raters: {found['alpha']:.3f}")
    for table in found["win_rates"]:
        said.append(f"win rates{': ' if table['words'] else ''}{table['words']}")
        for row in table["models"]:
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
            said.append(f"  {row['model']}: {row['rate']:.3f} ({interval}), {row['choices']} choices")
    return said


def _verdict(choice: Choice) -> object:
    """What was chosen, wherever it stood."""
    return choice.choice if choice.winner is None else choice.winner
