"""Long calculations on the event loop, cut into steps between which other requests run."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import TypeVar

T = TypeVar("T")
Wait = Awaitable[object] | None
Steps = Generator[Wait, None, T]
"""A calculation in steps. Each step holds the event loop for a short, bounded time.

A step yields None, or an awaitable that must be done before the next step. The code that drives the
steps decides when to let other requests run. The result is the generator's return value.
"""
