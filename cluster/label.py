"""A page where people choose between pictures: those of a run, of a folder, or of a dataset in Pick-a-Pic's format.

    python -m cluster.label RUN|FOLDER|DATASET               pairs of one prompt
    python -m cluster.label RUN RUN@0                        pairs of two runs, or of two evaluations of one
    python -m cluster.label RUN OTHER --ask "Which set is the most diverse?"    a study: sets side by side

A run that waits for people (rewards.people) has pairs of its own: RUN then shows those, as they come.

Choices are kept in the folder `people` of the first source (--records), each before the next pair is shown. How steady
raters are, how far they agree, and win rates are printed at the end, and until then stand under /results, to which the
page does not lead: whoever rates should not know which model wins.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from cluster.arguments import Parser
from cluster.errors import ConfigError, sentence
from cluster.gallery import gallery, has_pictures, split_source, waits_for_people
from cluster.records.reading import CONFIG
from cluster.sources.shuffle import Shuffle
from cluster.text import counted, shown
from rewards.errors import RewardFailed, RewardUnavailable, UnknownReward
from rewards.people import choices, export, questions, results
from rewards.people.asking import Picture, ask_pairs, ask_sets, pairs, sets
from rewards.people.lines import InUse
from rewards.people.pick_a_pic import Corrupt, caption_of, read_index, read_rows
from rewards.people.schedule import Rules
from rewards.people.server import Page, serve
from rewards.service.security import is_loopback, read_token, split_address
from shapes.arguments import positive, share

_PAIRS, _SET_SIZE = 200, 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the page, until Ctrl-C, or write what was chosen; returns the exit status."""
    args = _parse(arguments)
    try:
        host, port, token, encrypted = _access(args)
        folder = _records(args)
        if args.export is not None:
            if not (made_before := choices.read(folder)):
                raise ConfigError(f"Nobody has chosen anything in {folder} yet.")
            count, lost = export.export(folder, made_before, args.export)
            print(f"{counted(count, 'choice')}: {shown(str(args.export))}")
            if lost:
                print(f"warning: {counted(lost, 'choice')} left out, because a picture cannot be read", file=sys.stderr)
            return 0
        if live := _is_live(args):
            _check_live(args, folder)
        else:
            _ask(args, folder)
        if not len(asked := questions.Questions(folder)) and not live:
            raise ConfigError("There is nothing to choose between: no prompt has two different pictures.")
        there = counted(len(asked), "question") + (", and more as the run draws pictures" if live else "")
        started = partial(_announce, args, folder, there, host, token)
        with closing(choices.Choices(folder)) as made:
            rules = Rules(args.seed, args.pick, args.again, args.shared)
            page = Page(asked, made, rules, token, local=is_loopback(host) and token is None)
            with suppress(asyncio.CancelledError):
                asyncio.run(_serve(page, host, port, encrypted, started))
    except (ConfigError, InUse, RewardFailed, RewardUnavailable, UnknownReward, OSError, ValueError) as error:
        print(f"error: {shown(sentence(error))}", file=sys.stderr)
        return 1
    found = results.summary(choices.read(folder), {question.id: question for question in asked})
    print("\n".join(map(shown, results.lines(found))))
    return 0


async def _serve(page: Page, *address: object) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    await serve(page, *address)  # type: ignore[arg-type]


def _announce(args: argparse.Namespace, folder: Path, there: str, host: str, token: str | None, port: int) -> None:
    scheme, where = "https" if args.certificate else "http", f"[{host}]" if ":" in host else host
    print(f"{there}; choices are kept in {shown(str(folder))}")
    print(
        f"open {scheme}://{where}:{port}/{'?token=' + quote(token, safe='') if token else ''} (Ctrl-C ends it)",
        flush=True,
    )
    print("results so far are under /results there, and name the models: show them to nobody who rates", flush=True)


def _access(args: argparse.Namespace) -> tuple[str, int, str | None, ssl.SSLContext | None]:
    """Address, token and TLS.

    Raises:
        ConfigError: If strangers could come in, or a file is not what it should be.
    """
    host, port = split_address(args.listen)
    token = read_token(args.token_file) if args.token_file else None
    if bool(args.certificate) != bool(args.key):
        raise ConfigError("TLS needs --certificate and --key together.")
    if not is_loopback(host):
        if token is None:
            raise ConfigError(
                f"{host} can be reached from other machines, so the page needs a token: put one word into a file "
                "(openssl rand -hex 16) and name it with --token-file."
            )
        if not args.certificate and not args.insecure:
            raise ConfigError(
                f"{host} can be reached from other machines, and without TLS token and choices travel in the open: "
                "give --certificate and --key, or say --insecure where everybody on the network is trusted."
            )
    if not args.certificate:
        return host, port, token, None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(args.certificate, args.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{args.certificate} and {args.key} cannot be used for TLS ({error}).") from error
    return host, port, token, context


def _records(args: argparse.Namespace) -> Path:
    """The folder of questions and choices; raises a `ConfigError` where it is none."""
    if args.records is not None:
        folder = Path(args.records).expanduser().absolute()
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--records names a folder, and {folder} is a file.")
        return folder
    first, _ = split_source(args.sources[0])
    return first.with_name(f"{first.stem}-people") if first.is_file() else first / "people"


def _ask(args: argparse.Namespace, folder: Path) -> None:
    """Make questions of the sources' pictures, as many as are wanted (--pairs), and put them into the folder.

    Raises:
        ConfigError: If a source has no pictures, or the settings do not fit to it.
        NotKept: If they cannot be written.
    """
    dataset = _is_dataset(args.sources[0])
    if dataset and (len(args.sources) > 1 or args.ask or args.pick == "unsure"):
        raise ConfigError("A dataset has pairs of its own: it is the only source, without --ask and --pick unsure.")
    count = args.pairs or _PAIRS
    if args.ask:
        if len(args.sources) < 2:
            raise ConfigError("A study (--ask) compares several runs or folders; name two at least.")
        size = args.set_size or _SET_SIZE
        found = sets(gallery(args.sources), size)
        if not found:
            raise ConfigError(
                f"There is no prompt of which each source has {counted(size, 'picture')}; take a smaller --set-size."
            )
        made, damaged = ask_sets(folder, found, args.ask, count)
    else:
        chosen = _of_dataset(Path(args.sources[0]).expanduser(), args.seed) if dataset else _of_gallery(args)
        made, damaged = ask_pairs(folder, chosen, count)
    questions.offer(folder, made)
    if damaged:
        print(f"warning: {counted(damaged, 'pair')} could not be shown, because a picture is damaged", file=sys.stderr)


def _is_live(args: argparse.Namespace) -> bool:
    """Whether the only source is a run that asks about its newest samples itself."""
    path, iteration = split_source(args.sources[0])
    alone = len(args.sources) == 1 and iteration is None and not args.ask and (path / CONFIG).is_file()
    return alone and waits_for_people(path)


def _check_live(args: argparse.Namespace, folder: Path) -> None:
    """Refuse what has no say in the pairs that a run asks about itself; raises a `ConfigError`."""
    run = args.sources[0]
    own = folder.resolve() == (split_source(run)[0] / "people").resolve()
    given = {"--pairs": args.pairs, "--set-size": args.set_size, "--pick unsure": args.pick == "unsure"}
    if said := [option for option, value in {**given, "--records": not own}.items() if value]:
        raise ConfigError(
            f"{run} is a run that waits for people and asks about its own pairs, all of them: leave out "
            f"{' and '.join(said)}, or name an evaluation of it ({run}@0, with --records of its own)."
        )


def _is_dataset(source: str) -> bool:
    path = Path(source).expanduser()
    if path.is_dir() and not (path / CONFIG).is_file():
        return any(path.rglob("*.parquet")) and not has_pictures(path)
    return path.is_file()


def _of_gallery(args: argparse.Namespace) -> Iterator[tuple[Picture, Picture]]:
    found = gallery(args.sources)
    if args.pick == "unsure":
        found = _scored(found, args.reward) if args.reward else found
        if not any(picture.score is not None for picture in found):
            raise ConfigError("No picture has a score to be unsure by; name a reward with --reward, or --pick random.")
    return iter(pairs(found, args.seed, args.pick == "unsure"))


def _scored(found: list[Picture], kind: str) -> list[Picture]:
    """The pictures that can be read with the scores of a reward, which is asked about one after the other."""
    import torch  # which the page itself does without

    from rewards import make_judge
    from rewards.checked import Checked
    from rewards.reward import to_images

    reward = Checked.make(kind, lambda: make_judge(kind))
    scored = []
    for picture in found:
        try:
            with Image.open(BytesIO(picture.read())) as image:
                pixels = np.asarray(image.convert("RGB"))[None]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # nor can it be shown
        with torch.no_grad():
            score = float(reward.score(to_images(pixels), [picture.prompt])[0])
        scored.append(picture._replace(score=score if math.isfinite(score) else None))
    return scored


def _of_dataset(path: Path, seed: int) -> Iterator[tuple[Picture, Picture]]:
    """The pairs of a dataset, in an order drawn by the seed, read as they are wanted."""
    try:
        index = read_index(path, labelled=False)
    except ValueError as error:
        raise ConfigError(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
    for group, rows in Shuffle(index.sizes, seed).take(0, index.rows):
        file, number = index.groups[group]
        with suppress(Corrupt):  # all of a row group
            for row in read_rows(index.files[file], number, rows, labelled=False):
                with suppress(Corrupt):
                    caption = caption_of(row)
                    one, other = (Picture(caption, partial(bytes, row[name] or b"")) for name in ("jpg_0", "jpg_1"))
                    yield one, other


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("cluster.label", __doc__ or "")
    add = parser.add_argument
    add("sources", nargs="+", metavar="RUN|FOLDER|DATASET", help="whose pictures; RUN@ITERATION is an older evaluation")
    add("--listen", default="127.0.0.1:8080", metavar="HOST:PORT", help="default %(default)s; port 0 is a free one")
    add("--token-file", type=Path, metavar="FILE", help="who opens the page must know the token in it")
    add("--certificate", type=Path, metavar="PEM", help="the page's certificate: turns TLS on")
    add("--key", type=Path, metavar="PEM", help="its private key")
    add("--insecure", action="store_true", help="listen beyond this machine without TLS")
    add("--records", metavar="FOLDER", help="where questions and choices are kept (default: people, in the source)")
    add("--pairs", type=positive, metavar="N", help=f"to ask about, of a study prompts (default {_PAIRS})")
    add("--pick", choices=("random", "unsure"), default="random", help="unsure: where the reward is least sure, first")
    add("--reward", metavar="KIND", help="that --pick unsure asks, where the pictures have no scores of their own")
    add("--again", type=share, default=0.1, metavar="SHARE", help="of a rater's pairs that come again (default 0.1)")
    add("--shared", type=share, default=0.2, metavar="SHARE", help="of the pairs that every rater sees (default 0.2)")
    add("--seed", type=int, default=0, help="of the choice of pairs, of their order, and of left and right (default 0)")
    add("--ask", action="append", metavar="WORDS", help="a question of a study; as often as there are questions")
    add("--set-size", type=positive, metavar="N", help=f"pictures of a set in a study (default {_SET_SIZE})")
    add("--export", type=Path, metavar="FOLDER", help="write the choices as a Pick-a-Pic dataset, and open no page")
    args = parser.parse_args(arguments)
    if args.reward and args.pick != "unsure":
        parser.error("--reward is asked by --pick unsure alone")
    return args


if __name__ == "__main__":
    sys.exit(main())
