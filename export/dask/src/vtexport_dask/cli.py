# SPDX-License-Identifier: MPL-2.0

"""Runs tasks that vtexport asks for on the workers of a Dask cluster."""

import argparse
import signal

from . import __version__


def main() -> None:
    # Ctrl-C goes to all of a terminal's processes: the caller decides, and ends the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arguments = parser().parse_args()
    # (Takes a while: not before the signal.)
    from .bridge import Options, run

    run(Options(**{name: value for name, value in vars(arguments).items() if name != "command"}))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vtexport-dask", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="tasks are lines on standard input")
    command.add_argument("--scheduler", required=True, metavar="ADDRESS")
    command.add_argument("--tag", required=True, help="the resource that workers offer")
    command.add_argument("--first-pass", action="store_true", dest="is_first_pass")
    command.add_argument(
        "--work-root", metavar="FOLDER", help="of relative paths, if a worker says no other"
    )
    command.add_argument("--source-root", metavar="FOLDER", help="of the source, likewise")
    command.add_argument("plan", metavar="PLAN", help="as workers see it")
    command.add_argument("logs", metavar="LOGS", help="a folder, as workers see it")
    return parser
