"""A program that runs modules in groups of processes, forked from one that has imported TorchRec.

Importing it takes each process seconds. A line of standard input asks for a group, as JSON: its
``size``, the ``module``, its ``words``, and the files for ``out`` and ``err``. A line with the
processes' numbers answers, and one with their exit codes when all have ended. For test_sharded.py.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from typing import Any

import torch
import torch.distributed.nn
import typer  # noqa: F401

from model.sharding.row_exchange import require_torchrec
from tests.support.groups import variables


def run(asked: dict[str, Any], rank: int, shared: dict[str, str]) -> int:
    """Be one process of a group, whose exit code is returned."""
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    if asked["size"]:
        os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
    sys.argv = [asked["module"], *asked["words"]]
    try:
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def begun(asked: dict[str, Any]) -> list[int]:
    """Start a group; return its processes. A size of 0 is one process without a group."""
    shared = variables(max(asked["size"], 1))
    pids = []
    for rank in range(max(asked["size"], 1)):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = run(asked, rank, shared)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    return pids


def main() -> None:
    require_torchrec()
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        pids = begun(json.loads(line))
        print(json.dumps(pids), flush=True)
        print(
            json.dumps([os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids]), flush=True
        )


if __name__ == "__main__":
    main()
