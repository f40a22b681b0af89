"""The command line as a whole: its commands, and how it ends."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from serket.cli.compare import compare
from serket.cli.embed import embed
from serket.cli.grow import add, calibrate, refit, swap
from serket.cli.look import check, draw, modules, new_module, schema
from serket.cli.run import run
from serket.cli.shared import err
from serket.cli.stream import replay, stream
from serket.cli.use import evaluate, generate, infer, retrieve
from serket.report.status import say, status

RESUMES = ("run", "embed", "add", "swap", "refit", "calibrate", "compare")  # what is done of them is kept

app = typer.Typer(
    name="serket",
    help="Connect models trained apart into one probabilistic model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"serket {version('serket-perception')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Connect models trained apart into one probabilistic model."""


for command in (
    run, embed, add, swap, refit, calibrate, compare, check, draw, infer, generate, retrieve, evaluate, stream, replay,
    modules, schema, new_module,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """Run the command line; a user's mistake is a text and status 2, an interrupt 130, our own mistake 1."""
    warnings.showwarning = lambda message, *_: say(err, f"warning: {message}")
    sys.exit(status(app, err, resumes=any(word in RESUMES for word in sys.argv[1:2])))
