"""The commands over vocabularies in Redis: ``publish``, ``list``, ``unpublish``, ``prune``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.remote.address import Address
from app.remote.link import Link, open_link
from model import publish as publishing
from model.options import (
    PasswordFile,
    RedisUrl,
)
from model.progress import say, warn

Result = TypeVar("Result")


def _with_redis(
    url: str, password_file: Path | None, work: Callable[[Link], Awaitable[Result]]
) -> Result:
    async def run() -> Result:
        link = open_link(Address.parse(url), 1, password_file)
        try:
            return await work(link)
        finally:
            await link.close()

    return asyncio.run(run())


def publish_command(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a directory of them.")],
    redis: RedisUrl,
    redis_password_file: PasswordFile = None,
) -> None:
    """Write a bundle's vocabulary into Redis, check it, and let services see it."""
    opened = Bundle.open(newest(bundle), mapped=True)
    done = _with_redis(redis, redis_password_file, lambda link: publishing.publish(link, opened))
    for warning in done.warnings:
        warn(warning)
    say(f"{done.entry.values:,} values of {done.entry.bundle}; {done.written:,} buckets written")
    print(done.entry.hash)


def list_command(redis: RedisUrl, redis_password_file: PasswordFile = None) -> None:
    """List the vocabularies in Redis, the newest first."""
    for each in _with_redis(redis, redis_password_file, publishing.listed):
        entry = each.entry
        print(
            entry.hash[:12],
            entry.published,
            f"{entry.values:>12,}",
            f"{entry.state:10}",
            "in use" if each.in_use else "-     ",
            entry.bundle,
            sep="  ",
        )


def unpublish_command(
    vocabulary: Annotated[str, typer.Argument(help="First digits of the vocabulary's hash.")],
    redis: RedisUrl,
    redis_password_file: PasswordFile = None,
    force: Annotated[
        bool, typer.Option("--force", help="Remove it even if a service uses it.")
    ] = False,
) -> None:
    """Remove a vocabulary from Redis."""
    gone = _with_redis(
        redis, redis_password_file, lambda link: publishing.unpublish(link, vocabulary, force)
    )
    print(gone.hash)


def prune_command(
    keep: Annotated[int, typer.Option(min=1, help="Number of vocabularies to keep.")],
    redis: RedisUrl,
    redis_password_file: PasswordFile = None,
) -> None:
    """Remove older vocabularies from Redis, except those that services use."""
    for entry in _with_redis(redis, redis_password_file, lambda link: publishing.prune(link, keep)):
        print(entry.hash)
