"""The entry point: parse, run a verb, and turn a person's mistakes into a message and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import tyro

from gossamer.cli.bench import bench
from gossamer.cli.compare import compare
from gossamer.cli.compress import compress, decompress, denoise
from gossamer.cli.convert import convert
from gossamer.cli.doctor import doctor
from gossamer.cli.eval import evaluate
from gossamer.cli.fit import fit
from gossamer.cli.generate import generate
from gossamer.cli.inspect import inspect
from gossamer.cli.push import push
from gossamer.cli.report import report
from gossamer.cli.select import select
from gossamer.cli.seq2seq import evaluate as evaluate_sequences
from gossamer.cli.seq2seq import train as train_sequences
from gossamer.cli.seq2seq import translate
from gossamer.cli.train import train
from gossamer.version import VERSION

__all__ = ["main"]

VERBS: dict[str, Callable[..., None]] = {
    "train": train,
    "fit": fit,
    "eval": evaluate,
    "report": report,
    "select": select,
    "compare": compare,
    "compress": compress,
    "decompress": decompress,
    "denoise": denoise,
    "generate": generate,
    "convert": convert,
    "inspect": inspect,
    "push": push,
    "bench": bench,
    "doctor": doctor,
}

GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "seq2seq": (
        "Transformers from sequence to sequence: train, translate, evaluate.",
        {"train": train_sequences, "translate": translate, "evaluate": evaluate_sequences},
    )
}
"""Verbs that have verbs of their own, and what they are."""

DESCRIPTION = "Sparse autoencoders: train, measure, look inside."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 2 a person's mistake (a wrong flag, file or value), 1 anything else that went wrong, 128 + n a stop
    by signal n. With GOSSAMER_TRACEBACK set in the environment, errors are raised with their traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"gossamer {VERSION}")
        return 0
    try:
        verb = parse(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("GOSSAMER_TRACEBACK"):
            raise
        print(f"gossamer: {_message(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | FileNotFoundError) else 1
    except KeyboardInterrupt as stop:
        print(f"\n{stop or 'stopped'}", file=sys.stderr)
        return 128 + getattr(stop, "signal", 2)
    return verb or 0


def parse(arguments: Sequence[str]) -> int | None:
    """Run the verb that the arguments name."""
    group, verbs, rest = "", {**VERBS, **{name: _group(name) for name in GROUPS}}, list(arguments)
    description = DESCRIPTION
    if rest and rest[0] in GROUPS:
        group, *rest = rest
        description, verbs = GROUPS[group]
    return tyro.extras.subcommand_cli_from_dict(
        verbs,
        prog=f"gossamer {group}".strip(),
        description=description,
        args=rest or ["--help"],
        use_underscores=False,
    )


def _group(name: str) -> Callable[..., None]:
    """Return what stands for a group in the list of verbs."""

    def listed() -> None: ...

    listed.__doc__ = GROUPS[name][0]
    return listed


def _message(error: Exception) -> object:
    """Return what a person should read: an OSError raised with a number and a text shows only its text."""
    return error.strerror or error if isinstance(error, OSError) and error.filename is None else error


if __name__ == "__main__":
    sys.exit(main())
