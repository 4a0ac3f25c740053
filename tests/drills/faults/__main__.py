"""Faults and overload, measured: what takes too long, or depends on time too much, for the tests.

Real services in processes of their own, driven over HTTP. Outcomes must hold exactly. A timed
figure fails if it is beyond three times its bound twice: what a busy machine did once is no fault.
Scenarios that are judged by their times run in turn; beside them, one of few requests. Those of
which outcomes count follow, three at a time. What was too slow is measured once more, alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.support.bytecode import keep_bytecode

# Before all that is imported here, and by the processes of scenarios.
keep_bytecode()

from tests.drills.faults.figures import as_json, failures, table
from tests.drills.faults.playing import SCENARIOS, play_all
from tests.drills.faults.stage import Stage


def main() -> int:
    """Run the scenarios and print their figures; 1 where one failed."""
    parser = argparse.ArgumentParser(prog="scripts/test-faults", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=SCENARIOS, help="one scenario; may be repeated"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found, broken = play_all(options.only or list(SCENARIOS), Stage(Path(directory)))
    print(table(found))
    if options.json:
        options.json.write_text(as_json(found))
    failed = failures(found)
    for problem in [*failed, *(f"{name} broke off" for name in broken)]:
        print(f"FAILED {problem}", file=sys.stderr)
    return 1 if failed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
