"""``python -m model``: the trainer's commands."""

from __future__ import annotations

import sys

from app.missing_packages import advise

sys.excepthook = advise

import signal
from collections.abc import Callable
from types import FrameType

import typer

from app.errors import CtrError
from model.commands import data, explaining, feedback, redis, scoring, stores, training
from model.progress import say
from model.result_places import reason_of

INTERRUPTED = 130
"""Exit code after SIGINT or SIGTERM, as shells have it."""
AGAIN_SECONDS = 1.0
"""Time after which a process that was told to end, and goes on, is told again."""

COMMANDS: dict[str, Callable[..., None]] = {
    "fetch": data.fetch_command,
    "spec": data.spec_command,
    "check": data.check_command,
    "prepare": data.prepare_command,
    "train": training.train_command,
    "compare": training.compare_command,
    "tune": training.tune_command,
    "evaluate": scoring.evaluate,
    "predict": scoring.predict,
    "explain": explaining.explain,
    "join": feedback.join_command,
    "replay": feedback.replay_command,
    "publish": redis.publish_command,
    "list": redis.list_command,
    "unpublish": redis.unpublish_command,
    "prune": redis.prune_command,
}

cli = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
for name, command in COMMANDS.items():
    cli.command(name)(command)
cli.add_typer(stores.items_cli, name="items")
cli.add_typer(stores.profiles_cli, name="profiles")


class Interrupted(BaseException):
    """The process was told to end, by SIGINT or SIGTERM.

    Not KeyboardInterrupt: once that has passed through code given to ``exec`` as text, as torch and
    dataclasses have it, CPython ends by the signal, whatever the exit code.
    """


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Unwind; once more where some code has swallowed it, as compiled code may."""
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
    if number != signal.SIGALRM or not _is_unwinding():
        raise Interrupted


def _is_unwinding() -> bool:
    """Tell whether code runs because of :class:`Interrupted`: what cleans up has its time."""
    handled = sys.exc_info()[1]
    while handled is not None and not isinstance(handled, Interrupted):
        handled = handled.__context__
    return handled is not None


def _stop_telling() -> None:
    if signal.getsignal(signal.SIGALRM) is _interrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> int:
    """Run a command; an expected failure is one message and exit code 1."""
    try:
        return _run()
    finally:
        _stop_telling()


def _run() -> int:
    # SIGTERM unwinds like Ctrl-C, so that no half-written file is left.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        # typer turns Ctrl-C into the exit code 130, which it returns where it does not exit itself.
        code: int = cli(standalone_mode=False) or 0
    except CtrError as error:
        say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        say(f"error: {reason_of(error)}")
        return 1
    except (Interrupted, typer.Abort):
        _stop_telling()
        code = INTERRUPTED
    except SystemError as error:
        # So does compiled code end, as Ray's, that was called when the signal came.
        if not isinstance(error.__cause__, Interrupted):
            raise
        _stop_telling()
        code = INTERRUPTED
    except typer.TyperException as error:
        # Without a command typer has printed the help already, and has no message.
        if message := error.format_message().rstrip("."):
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "python -m model"
            say(f"error: {message}; see {command} --help")
        return 2
    if code == INTERRUPTED:
        say("interrupted; no unfinished result is left")
    return code


if __name__ == "__main__":
    sys.exit(main())
