"""What cannot work of a dataset, one function a rule, as in `cluster.config.rules`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.config.schema import Config
from rewards.people.pick_a_pic import LABEL, read_index


def data_have_what_the_objective_asks_for(config: Config) -> None:
    asks, name = config.objective.asks, config.objective.name
    if config.data is None or (
        asks.noise == "nowhere" and asks.reward == "scores" and not asks.images and not asks.current
    ):
        return
    raise ValueError(
        f"{name}, as it is set, trains on what the policy itself draws, and a dataset has finished pictures of others; "
        "set data=null, or objective.name to one that noises finished pictures again, such as rwr"
    )


def data_need_no_staleness(config: Config) -> None:
    if config.data is not None and config.samplers.max_staleness:
        raise ValueError(
            f"samplers.max_staleness is {config.samplers.max_staleness}, but a dataset does not age with the policy; "
            "set it to 0, and data.ahead to how far ahead it is to be read"
        )


def data_have_no_chains(config: Config) -> None:
    if config.data is not None and (weight := config.learner.chain_kl_weight):
        raise ValueError(
            f"learner.chain_kl_weight is {weight:g}, but nobody goes a chain to the pictures of a dataset; set it to 0"
        )


def ties_are_learned_from(config: Config) -> None:
    if config.data is not None and config.data.ties == "soft" and config.objective.asks.strict:
        cure = ", or objective.ties to soft" if "ties" in type(config.objective).model_fields else ""
        raise ValueError(
            f"data.ties=soft keeps the ties, of which {config.objective.name}, as it is set, learns nothing; set it to "
            f"drop{cure}"
        )


def labels_differ_by_more_than_the_gap(config: Config) -> None:
    if config.data is None or config.data.labels != "people":
        return
    objective, gap = config.objective, getattr(config.objective, "min_gap", 0.0)
    raw = config.standardise == "nothing" and not config.combination.whiten
    better, worse = (1.0, 0.0) if raw else (1.0, -1.0)  # standardised, as many are the one as the other
    threshold = getattr(objective, "threshold", 0.0)
    widest = better - worse if objective.asks.groups else max(abs(better - threshold), abs(worse - threshold))
    if gap >= widest:
        what = "apart" if objective.asks.groups else "from objective.threshold"
        raise ValueError(
            f"objective.min_gap is {gap:g}, but what people chose and what they did not are {widest:g} {what}"
            f"{'' if raw else ' once they are standardised'}, so {objective.name} would learn nothing; set it lower"
        )


def data_keep_their_name(config: Config) -> None:
    if config.data is not None and LABEL in config.rewards:
        raise ValueError(f"a reward is called {LABEL!r}, as the choices in a dataset are; take another name")


def data_are_there(config: Config) -> None:
    if (data := config.data) is None:
        return
    found = read_index(Path(data.path), data.split, data.labels == "people").checksum
    if data.checksum not in (None, found):
        raise ValueError(
            f"the dataset {data.path} is not what the run began with (data.checksum): its files have other names, "
            "lengths or row groups; put back what was there, or name where it is now (data.path)"
        )


def requests_hold_whole_pairs(config: Config) -> None:
    if config.data is not None and config.samplers.request_size % 2:
        raise ValueError(
            f"samplers.request_size is {config.samplers.request_size}, which cuts a pair of pictures in two; set it to "
            "an even number"
        )


DATA_RULES: tuple[Callable[[Config], None], ...] = (
    data_have_what_the_objective_asks_for,
    data_need_no_staleness,
    data_have_no_chains,
    ties_are_learned_from,
    labels_differ_by_more_than_the_gap,
    data_keep_their_name,
    data_are_there,
    requests_hold_whole_pairs,
)
