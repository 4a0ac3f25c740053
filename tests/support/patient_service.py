"""``python -m app``, but its own short times are as long as a busy machine needs.

It listens only when it has loaded, and connections have some seconds for a last request.
"""

from __future__ import annotations

import sys

import app.main
import app.web.bounded_protocol
from app.__main__ import main

PATIENT_APP = (sys.executable, "-m", "tests.support.patient_service")
"""The program, for a :class:`tests.support.serving.Service`."""


if __name__ == "__main__":
    app.main.START_SECONDS = 60.0
    app.web.bounded_protocol.GRACE_SECONDS = 5.0
    sys.exit(main())
