"""What a run has learned, for other libraries: an adapter in their format, or a whole model with it in its weights.

    python -m cluster.export RUN --format diffusers --out FOLDER

diffusers   a folder for pipeline.load_lora_weights(FOLDER), with its alpha
peft        a folder for PeftModel.from_pretrained(denoiser, FOLDER)
kohya       a .safetensors file for ComfyUI: kohya's names for UNets, diffusers' for transformers
merged      a folder for DiffusionPipeline.from_pretrained(FOLDER): the whole model
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import diffusers
import torch
import transformers

from actors.export import Adapter, full_pipeline, merged_pipeline, write_comfy, write_diffusers, write_peft
from actors.model_check import partly_adapted
from cluster.arguments import Parser
from cluster.errors import ConfigError, sentence
from cluster.records.files import writable
from cluster.stopping import Stopped, at_once, deferred
from cluster.text import shown
from cluster.trained import find

_FORMATS: dict[str, Callable[[Adapter, Path, torch.dtype], None]] = {
    "diffusers": write_diffusers,
    "peft": write_peft,
    "kohya": write_comfy,
}
_MERGED = "merged"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SUFFIX = ".safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what the command line asks for; returns the exit status."""
    args = _parse(arguments)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    try:
        with deferred(), at_once():
            only = export(args)
    except (Stopped, KeyboardInterrupt) as stop:
        asked = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        print(f"stopped by {asked.name}; nothing was written", file=sys.stderr)
        return 128 + asked
    except Exception as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    print(f"{args.format}: {shown(str(args.out))}")
    if only is not None:
        print(
            f"it was trained to act in some steps of the chain alone (policy.adapted_steps={only}), and elsewhere acts "
            "in all: pictures there are not the run's, but those of cluster.generate with adapted_steps=null"
        )
    return 0


def export(args: argparse.Namespace) -> int | str | None:
    """Write a file or a folder, whole or not at all.

    Returns:
        In how many steps it was trained to act, where what is written will act in more.

    Raises:
        ConfigError: If something is in its place, or there is nothing to write.
        WriteError: If it cannot be written.
    """
    out: Path = args.out.expanduser().absolute()
    if (args.format == "kohya") != (out.suffix == _SUFFIX):
        what = f"a file, so --out ends in {_SUFFIX}" if args.format == "kohya" else "a folder, so --out names one"
        raise ConfigError(f"The format {args.format} is {what}, and not {out.name!r}.")
    if os.path.lexists(out):
        raise ConfigError(f"{out} is there already, and is not overwritten; give another --out.")
    model = find(args.source, args.settings, args.ema)
    if model.bare:
        raise ConfigError(f"{model.source} has no adapter to hand on; name a run, a checkpoint, or init_lora=FILE too.")
    is_full, dtype = model.policy.train == "full", _DTYPES[args.dtype]
    if args.format == _MERGED:  # all that is read is read before anything is written
        pipeline = full_pipeline(model.policy, dtype) if is_full else merged_pipeline(Adapter.of(model.policy), dtype)
        write = pipeline.save_pretrained
    elif is_full:
        raise ConfigError(f"Of {model.source} all weights were trained, which are no adapter; take --format merged.")
    else:
        adapter, form = Adapter.of(model.policy), _FORMATS[args.format]

        def write(folder: Path) -> None:
            form(adapter, folder, dtype)

    temporary = out.with_name(f".{out.stem}.{os.getpid()}.tmp")
    try:
        with writable(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            temporary.rename(out)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):  # such as a file in the place of a folder of its path
                temporary.unlink()
    return partly_adapted(model.policy)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("cluster.export", __doc__ or "")
    parser.add_argument(
        "source", metavar="RUN|CHECKPOINT", help="a run's folder (its newest checkpoint), or a checkpoint"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings of the policy that differ, such as model=FOLDER"
    )
    parser.add_argument("--format", required=True, choices=[*_FORMATS, _MERGED], help="see above")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="PATH", help="a folder, or kohya's file; nothing yet"
    )
    parser.add_argument("--ema", action="store_true", help="take the exponential average of the weights")
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", help="of what is written (default float32)")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
