"""The exact tilt of a run, and the run's path beside it: its kept checkpoints, each drawn anew."""

from __future__ import annotations

from pathlib import Path

from benchmarks.tilt.compare import Compared, Exact
from benchmarks.tilt.draws import BASE, COMPARED, TILT, Drawn, draw
from benchmarks.tilt.judging import judge, world_of
from cluster.config import Config
from cluster.errors import ConfigError
from cluster.prompts import read_prompts
from cluster.trained import Trained, find
from learner import checkpoint

BETAS = (-1.0, 0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
IMAGES = 8000


def exact(config: Config, images: int, folder: Path) -> Exact:
    """The tilt of a run's pretrained model by its reward, on its training prompts.

    Args:
        config: Of the run.
        images: How many pictures it rests on.
        folder: Where draws are kept.

    Raises:
        ConfigError: If the model is of no embedded world, or a picture has no reward.
    """
    world_of(config)  # before anything is drawn
    return Exact(judge(drawn_base(config, images, folder), read_prompts(config.prompts.train), config))


def drawn_base(config: Config, images: int, folder: Path) -> Drawn:
    """The pictures that the tilt of a run rests on, see `exact`."""
    return draw(_pretrained(config), read_prompts(config.prompts.train), images, folder, seed=0, noise=TILT, bare=True)


def path_of(run: Path, config: Config, like: Config, tilt: Exact, each: int, folder: Path) -> dict[int, Compared]:
    """What the pretrained model and each kept checkpoint of a run come to, by iteration.

    Args:
        run: Its folder.
        config: Its settings.
        like: Those that the tilt is of.
        tilt: Of its pretrained model by its reward.
        each: Pictures of each prompt, at least.
        folder: Where draws are kept.

    Raises:
        ConfigError: If the run has another tilt, or nothing to draw.
    """
    _check(run, config, like)
    prompts, models = read_prompts(config.prompts.train), models_of(run, config)
    if len(models) == 1:
        raise ConfigError(f"{run} has no checkpoint to draw with.")
    return {
        iteration: tilt.beside(judge(drawn_by(model, config, each, folder), prompts, like))
        for iteration, model in models.items()
    }


def models_of(run: Path, config: Config) -> dict[int, Trained]:
    """The pretrained model of a run, as 0, and its kept checkpoints after that, by iteration."""
    kept = {checkpoint.verify(folder): folder for folder in checkpoint.list_all(run / "checkpoints")}
    return {0: _pretrained(config)} | {
        iteration: find(str(folder)) for iteration, folder in sorted(kept.items()) if iteration
    }


def drawn_by(model: Trained, config: Config, each: int, folder: Path) -> Drawn:
    """Pictures of one of `models_of`, so many of each training prompt at least.

    All models of a run are drawn with the same noise, that of its seed, which is none of the training's and none of the
    tilt's.
    """
    prompts, bare = read_prompts(config.prompts.train), model.checkpoint is None
    return draw(model, prompts, each * len(prompts), folder, seed=config.seed, noise=COMPARED, bare=bare)


def _pretrained(config: Config) -> Trained:
    return Trained("pretrained", config.policy.model_copy(update={"model": config.pipeline}))


def _check(run: Path, config: Config, like: Config) -> None:
    def decides(of: Config) -> dict[str, object]:
        found: dict[str, object] = {f"policy.{name}": getattr(of.policy, name) for name in BASE}
        found |= {"policy.model": of.pipeline, "prompts.train": read_prompts(of.prompts.train)}
        return found | {
            f"rewards.{name}": (reward.kind, reward.weight, reward.options)
            for name, reward in of.rewards.items()
            if reward.weight
        }

    one, other = decides(config), decides(like)
    if differ := [key for key in one | other if one.get(key) != other.get(key)]:
        raise ConfigError(
            f"{run} has another tilt than the first run, since {differ[0]} differs; compare runs of one pretrained "
            "model, one chain, the same training prompts and the same rewards."
        )
