"""The `video-vq` command.

The subcommands only parse arguments, call the library and print results.

torch is imported only after the arguments and the configuration have been checked.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import video_vq
from video_vq import completion
from video_vq.arguments import Parser, add_quiet
from video_vq.cli import (
    compare,
    continue_video,
    decode,
    doctor,
    encode,
    evaluate,
    fvd,
    info,
    reconstruct,
    report,
    sample,
    train_prior,
    train_tokenizer,
    view,
)
from video_vq.errors import ConfigError, InputError, system_refusal
from video_vq.progress import set_quiet

VERBS = (
    train_tokenizer, encode, decode, reconstruct, train_prior, sample, continue_video, evaluate,
    compare, report, view, fvd, info, doctor,
)  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """Return the argument parser for all subcommands."""
    parser = Parser(
        prog="video-vq",
        description="Turn videos into discrete tokens and back, train a prior over the tokens, and "
        "score both by FVD.",
        epilog="Several processes: accelerate launch --multi_gpu --num_processes N -m video_vq …",
        examples=(
            "video-vq train-tokenizer --config video64 --data clips --out runs/tokenizer",
            "video-vq fvd real_videos generated_videos",
            "video-vq encode --help",
        ),
    )
    parser.add_argument("--version", action="version", version=video_vq.__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_parser(verbs)
    for added in verbs.choices.values():
        add_quiet(added)
    completion.add_parser(verbs, parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status.

    The status is 0 on success, which includes a training run that saved its state after a request
    to stop; 1 on failure; 2 for wrong arguments or a wrong config; and 130 after Ctrl-C.

    Args:
        arguments: command-line arguments without the program name; None for those in sys.argv.
    """
    parsed = make_parser().parse_args(arguments)
    set_quiet(getattr(parsed, "quiet", False))
    try:
        return parsed.run(parsed)
    except KeyboardInterrupt:
        return _complain("stopped; finished work is kept, the same command resumes", 130)
    except ConfigError as error:
        return _complain(str(error), 2)
    except InputError as error:
        return _complain(str(error), 1)
    except MemoryError as error:
        return _complain(out_of_memory(error), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        return _complain(system_refusal(error), 1)
    except RuntimeError as error:
        # PyTorch raises OutOfMemoryError on a GPU; on a CPU only the text identifies the error.
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            return _complain(out_of_memory(error), 1)
        raise


def out_of_memory(error: BaseException) -> str:
    """Return the error message for running out of memory, with settings that reduce memory use."""
    return (
        f"out of memory ({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
        "lower optim.batch_size or --batch-size, raise optim.accumulation (same global batch), "
        "train with --mixed_precision bf16 or a smaller model; --dry-run estimates what a training "
        "run needs"
    )


def _complain(message: str, status: int) -> int:
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f" [rank {rank}]"
    print(f"video-vq{where}: {message}", file=sys.stderr)
    return status
