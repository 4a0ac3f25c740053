"""Signals: which ones end the service, and which ones do nothing.

SIGTERM and SIGINT drain and end it. So does SIGHUP where the service has a terminal, which says
that the terminal is gone; without one it does nothing, nor do SIGUSR1 and SIGUSR2: tools send
them to have files opened again or settings read again, and the service does neither.
"""

from __future__ import annotations

import os
import signal

_UNUSED = (signal.SIGUSR1, signal.SIGUSR2)


def ignore_unused() -> None:
    """Ignore the signals that must not end the service; for the first moment of the process."""
    for number in _UNUSED:
        signal.signal(number, signal.SIG_IGN)
    if not _has_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def ignore_stops() -> None:
    """Ignore another signal to end, now that the service has ended: its exit code stays."""
    for number in stops():
        signal.signal(number, signal.SIG_IGN)


def stops() -> tuple[signal.Signals, ...]:
    """Return the signals that end the service; ``nohup`` leaves out SIGHUP."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGTERM, signal.SIGINT
    return signal.SIGTERM, signal.SIGINT, signal.SIGHUP


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
