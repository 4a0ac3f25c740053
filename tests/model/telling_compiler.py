"""``python -m model``, which tells at its end whether it has loaded torch's compiler."""

from __future__ import annotations

import sys

from model.__main__ import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        print("loaded" if "torch._dynamo" in sys.modules else "not loaded", flush=True)
