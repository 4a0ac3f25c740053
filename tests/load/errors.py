"""Reasons for which a run ends without figures."""

from __future__ import annotations


class UsageError(Exception):
    """An argument, a file or the service makes the run impossible; the message says which."""


class RunFailed(Exception):
    """A process of the generator ended without a record."""
