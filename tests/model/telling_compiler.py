"""``python -m model``, which tells at its end whether it has loaded torch's compiler."""

from __future__ import annotations

import sys

from model.__main__ import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        loaded = {"torch._dynamo", "torch.fx.experimental.symbolic_shapes"} & sys.modules.keys()
        print(*sorted(loaded) or ["not loaded"], flush=True)
