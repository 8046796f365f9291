"""Pictures from a run, a checkpoint or a bare model, in this process alone: PNG files that say how they were made.

    python -m cluster.generate RUN "a red circle" "two blue squares" --seeds 0,1 --base guidance=3

The noise of a picture is a function of its seed, the number of its prompt in the list and the number of its sample, as
in rollouts: with a run's seed and its training prompts, up to 64, these are the pictures of the run's evaluations of
them. In the place of a run a picture may stand that was made so before: it is made again, with the same pixels.

With --dataset FOLDER the pictures also become pairs that a run can train on (docs/datasets.md), labelled by the run's
rewards or by --reward.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from rich.console import Console

from actors.model_check import check_model, check_prompts, partly_adapted
from actors.model_files import fetch
from actors.policy import Policy
from actors.rollout import rollout
from cluster.arguments import Parser
from cluster.counting import counting
from cluster.crew.machine import check, memory_here
from cluster.crew.memory import Need, estimate_drawing
from cluster.errors import ConfigError, DoesNotFit, sentence
from cluster.order import Order, make_order, repeat_order
from cluster.pairing import judge_of, pairs_of, write_pairs
from cluster.prompts import make_prompt, read_prompts
from cluster.records.files import writable
from cluster.records.pictures import before_after, grid
from cluster.records.png import read_facts, read_pixels, write_png
from cluster.start_images import check_starts
from cluster.stopping import Stopped, at_once, deferred
from cluster.text import counted, shown
from cluster.trained import find
from shapes.arguments import positive

_SETTING = re.compile(r"[a-z][a-z_.]*=")
_ROWS, _COLUMNS, _CELL = 24, 16, 256  # of the grid: prompts, pictures of each, and pixels of one at most
_GRID = "grid.png"
_CPU_IS_FULL = "DefaultCPUAllocator: can't allocate memory"  # of torch's RuntimeError
_BATCH = 4  # pictures of one pass, where no run says


def draw(order: Order, out: Path, console: Console) -> int:
    """Make the pictures that are not there yet, each written as soon as it is made; returns how many are not finite.

    Raises:
        ConfigError: If a file of another picture is in the place of one.
        DoesNotFit: If the model is larger than the memory, or leaves too little for the pictures.
        ValueError: If the model cannot be driven, or does not read a prompt to its end.
        WriteError: If one cannot be written.
    """
    missing = [picture for picture in order if not _is_there(out / picture.name, picture.facts)]
    _check_grid(out / _GRID)
    if not missing:
        return 0
    config = order.model.policy
    folder = fetch(config.model, config.variant)
    check_model(config, folder)
    check_prompts(config, [picture.facts["prompt"] for picture in missing], folder)
    need = estimate_drawing(config, folder, max(len(picture.job.request.prompts) for picture in missing))
    if need is not None:
        console.print(need.line(), markup=False, highlight=False, soft_wrap=True)
        machine, gpus = memory_here()
        check("This machine", machine, [(need, 1, need.host)])
        for total in gpus[:1] if need.device else ():
            check("The GPU", total, [(need, 1, need.device)])
    with writable(out):  # known before the model is loaded
        out.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=out).close()
    with _room(need):
        policy, lost = Policy.load(config), 0
    done = len(order) - len(missing)
    with counting(console, "pictures") as count:
        count(done, len(order))
        for job, pictures in groupby(missing, key=lambda picture: picture.job):
            with policy.using(None) if job.base or order.model.bare else nullcontext(), _room(need):
                pixels, _ = rollout(policy, job.request)
            for picture in pictures:
                if np.ma.getmaskarray(pixels)[picture.row].any():
                    lost += 1
                else:
                    image = Image.fromarray(np.ma.getdata(pixels)[picture.row])
                    write_png(out / picture.name, image, picture.facts, picture.facts["prompt"])
                done += 1
                count(done, len(order))
    return lost


@contextmanager
def _room(need: Need | None) -> Iterator[None]:
    """Memory that runs out within, on a GPU or not, as a sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and _CPU_IS_FULL not in str(error):
            raise
        where = "The GPU" if isinstance(error, torch.cuda.OutOfMemoryError) else "This machine"
        advice = need.advice if need and need.advice else "draw smaller ones (height, width)"
        raise DoesNotFit(f"{where} has no memory left for so many pictures at a time; {advice}.") from error


def _is_there(path: Path, facts: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    try:
        found = read_facts(path)
    except ValueError as error:
        raise ConfigError(f"{path} is in the way: it {error}; give another folder with --out.") from error
    if found != facts:
        name = next((name for name in facts if found.get(name) != facts[name]), "version")
        raise ConfigError(
            f"{path} is a picture that was made otherwise (of another {name}) and is not overwritten; give another "
            "folder with --out."
        )
    return True


def _check_grid(path: Path) -> None:
    with suppress(ValueError):
        if not path.exists() or "grid" in read_facts(path):
            return
    raise ConfigError(f"{path} is in the way: it is no grid of this command; give another folder with --out.")


def write_grid(order: Order, out: Path) -> Path | None:
    """Write `grid.png` of the first pictures, a row a prompt; with `--base` both models' side by side."""
    sheets = []
    for base in sorted({job.base for job in order.jobs}, reverse=True):
        paths: dict[str, list[Path]] = {}
        for name, facts, job, _ in order:
            if job.base == base:
                paths.setdefault(f"{facts['prompt_index']} {facts['prompt']}", []).append(out / name)
        sheets.append(_sheet({prompt: of_prompt[:_COLUMNS] for prompt, of_prompt in list(paths.items())[:_ROWS]}))
    there = [sheet for sheet in sheets if sheet is not None]
    if there:
        write_png(out / _GRID, there[0] if len(there) == 1 else before_after(*there), {"grid": len(order)})
    return out / _GRID if there else None


def _sheet(paths: dict[str, list[Path]]) -> Image.Image | None:
    """A grid of files by prompt, black where there is none; `None` if there are none at all."""
    images = {path: read_pixels(path) for of_prompt in paths.values() for path in of_prompt if path.exists()}
    if not images:
        return None
    size = next(iter(images.values())).size
    width = max(map(len, paths.values()))
    rows = [
        [images.get(path) for path in of_prompt] + [None] * (width - len(of_prompt)) for of_prompt in paths.values()
    ]
    pixels = np.stack([[np.asarray(image or Image.new("RGB", size)) for image in row] for row in rows])
    return grid(pixels, list(paths), max(96, min(_CELL, *size)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pictures that the command line asks for; returns the exit status."""
    args = _parse(arguments)
    console = Console(emoji=False)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    out: Path | None = None
    order: Order | None = None
    status, last = 0, ""
    try:
        with deferred(), at_once():
            order = _order(args)
            out = args.out or Path("generated") / order.model.name
            wanted = None if args.dataset is None else (pairs_of(order), judge_of(order, args.reward))
            lost = draw(order, out, console)
            sheet = write_grid(order, out)
            written = None if wanted is None else write_pairs(wanted[0], out, args.dataset, *wanted[1])
        lines = [f"{counted(len(order) - lost, 'picture')}: {out}", *([f"grid: {sheet}"] if sheet else [])]
        if written is not None and wanted is not None:
            if written[1]:
                lines.append(f"{counted(written[1], 'pair')}, labelled by {wanted[1][0]}: {written[0]}")
            else:
                status, last = 1, f"error: {wanted[1][0]} can judge none of the pairs, so no dataset is written."
        if not order.model.bare and (steps := partly_adapted(order.model.policy)) is not None:
            lines.append(
                f"the adapter acts as in training (adapted_steps={steps}); exported it acts in every step (null)"
            )
        console.print(*map(shown, lines), sep="\n", markup=False, highlight=False, soft_wrap=True)
        if lost:
            status = 1
            last = (
                f"error: {lost} of {len(order)} pictures are not finite and were not written: the model overflows (try "
                "dtype=float32), or its weights are damaged."
            )
    except (Stopped, KeyboardInterrupt) as stop:
        asked = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        done = sum((out / picture.name).exists() for picture in order) if order and out else 0
        status = 128 + asked
        last = f"stopped by {asked.name} after {counted(done, 'picture')}" + "; the same command goes on" * bool(done)
    except Exception as error:
        status, last = 1, f"error: {sentence(error)}"
    if last:
        print(last, file=sys.stderr)
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("cluster.generate", (__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "source",
        metavar="RUN|CHECKPOINT|MODEL|PICTURE",
        help="a run's folder (its newest checkpoint), a checkpoint, a model as policy.model, or a picture of this "
        "command, which is made again",
    )
    words = "settings of the policy such as guidance=3 or negative_prompt=blurred, all else is drawn"
    parser.add_argument("words", nargs="*", metavar="PROMPT|key=value", help=words)
    parser.add_argument("--prompts", metavar="FILE", help="draw the prompts of a file, as prompts.train takes it")
    parser.add_argument("--seeds", type=_seeds, metavar="N,N,...", help="the run's seed by default, or 0")
    parser.add_argument("--samples", type=positive, default=1, metavar="N", help="of each prompt and seed (default 1)")
    parser.add_argument("--base", action="store_true", help="also draw each with the adapter off, from the same seed")
    parser.add_argument("--ema", action="store_true", help="take the exponential average of the weights")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: generated/NAME, after what is drawn with")
    parser.add_argument(
        "--batch", type=positive, metavar="N", help=f"pictures of one pass; the run's request_size, or {_BATCH}"
    )
    parser.add_argument(
        "--dataset", type=Path, metavar="FOLDER", help="also write pairs of the pictures of each prompt, to train on"
    )
    parser.add_argument(
        "--reward", metavar="NAME", help="what labels them, such as pickscore or module:Class; the run's rewards"
    )
    args = parser.parse_intermixed_args(arguments)
    if args.reward and args.dataset is None:
        parser.error("--reward labels the pairs of --dataset FOLDER, which is not given")
    return args


def _order(args: argparse.Namespace) -> Order:
    settings = [word for word in args.words if _SETTING.match(word)]
    texts = [word for word in args.words if not _SETTING.match(word)]
    if os.path.isfile(os.path.expanduser(args.source)):
        if texts or args.prompts or args.seeds or args.samples > 1 or args.base or args.ema or args.batch:
            raise ConfigError(f"{args.source} is made again as it was; of all else only settings key=value can differ.")
        return repeat_order(Path(args.source).expanduser(), settings)
    model = find(args.source, settings, args.ema)
    if bool(texts) == bool(args.prompts):
        raise ConfigError("Give what is to be drawn as words or with --prompts FILE, one of both.")
    try:
        prompts = read_prompts(args.prompts) if args.prompts else tuple(map(make_prompt, texts))
        check_starts(prompts, model.policy.steps)
    except ValueError as error:
        raise ConfigError(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
    seeds = args.seeds or (model.run.seed if model.run else 0,)
    batch = args.batch or (model.run.samplers.request_size if model.run else _BATCH)
    if args.base and model.bare:
        raise ConfigError(f"{model.source} has no adapter that could be off (--base).")
    return make_order(model, prompts, seeds, args.samples, batch, args.base)


def _seeds(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) < 2**32 for part in parts):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} are no seeds; write 0, or several with commas: 0,1,2")
    return tuple(dict.fromkeys(map(int, parts)))


if __name__ == "__main__":
    sys.exit(main())
