"""File descriptors: noticing that a process has none left."""

from __future__ import annotations

import errno
import logging
import os
import resource

from app.logs import LogLimit

LOG_SECONDS = 10.0
log = logging.getLogger(__name__)


class DescriptorWatch:
    """Logs that there is no descriptor left, once in ``LOG_SECONDS``.

    Nothing else does: the event loop closes connections that it has no descriptor for, silently.
    """

    def __init__(self) -> None:
        self._limit = LogLimit(LOG_SECONDS)

    def look(self) -> None:
        """Try to open a file."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if out_of_descriptors(error):
                allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                self._limit.log(
                    log,
                    logging.ERROR,
                    "out of file descriptors (%d are allowed): new connections are closed; raise"
                    " the limit (ulimit -n, LimitNOFILE) or have fewer connections",
                    allowed,
                )


def out_of_descriptors(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, is that no descriptor was left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__
    return False
