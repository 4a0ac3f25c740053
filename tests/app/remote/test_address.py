"""A URL says where Redis is; what it says wrong is told without repeating a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import AddressError
from app.remote.address import Address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", Address("redis", (("cache", 6379),))),
        ("redis://cache:7000/3", Address("redis", (("cache", 7000),), database=3)),
        ("redis://[::1]:7000", Address("redis", (("::1", 7000),))),
        ("redis://:pw@cache", Address("redis", (("cache", 6379),), password="pw")),
        (
            "rediss://ann:p%40%2F%3A@cache?ssl_ca_certs=/ca.pem",
            Address("rediss", (("cache", 6379),), username="ann", password="p@/:",
                    tls_files=(("ssl_ca_certs", "/ca.pem"),)),
        ),
        ("unix:///run/redis.sock?db=2", Address("unix", (), socket="/run/redis.sock", database=2)),
        (
            "redis+sentinel://ann:pw@s1,s2:7001/main/4?sentinel_password=sp",
            Address("redis+sentinel", (("s1", 26379), ("s2", 7001)), service="main", database=4,
                    username="ann", password="pw", sentinel_password="sp"),
        ),
        (
            "rediss+cluster://n1,n2:7001",
            Address("rediss+cluster", (("n1", 6379), ("n2", 7001))),
        ),
        (
            "redis://cache?password_file=/run/secrets/redis",
            Address("redis", (("cache", 6379),), password_file=Path("/run/secrets/redis")),
        ),
    ],
)  # fmt: skip
def test_every_form_is_read(url: str, address: Address) -> None:
    """One server, a socket, sentinels and a cluster, each with its options."""
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must begin with"),
        ("cache:6379", "must begin with"),
        ("http://cache", "must begin with"),
        ("redis://", "a host is absent"),
        ("redis://:6379", "a host is absent"),
        ("redis://cache:0", "1 to 65535"),
        ("redis://cache:70000", "1 to 65535"),
        ("redis://cache:port", "1 to 65535"),
        ("redis://cache/one", "not a number"),
        ("redis://cache/1/2", "too many parts"),
        ("redis://a,b", "several hosts"),
        ("redis://secret@cache", "user:password"),
        ("redis://cache?ssl_ca_certs=/ca.pem", "unknown option"),
        ("redis://cache?socket_timeout=9", "unknown option"),
        ("redis+sentinel://s1", "service's name"),
        ("redis+cluster://n1/1", "too many parts"),
        ("unix://host/path", "unix:///path"),
    ],
)
def test_what_is_wrong_is_told(url: str, problem: str) -> None:
    """A URL of no known form is refused, and says what it lacks."""
    with pytest.raises(AddressError, match=problem) as caught:
        Address.parse(url)
    assert "secret" not in str(caught.value)


def test_its_text_holds_no_secret() -> None:
    """The text of an address for the log tells neither user nor password."""
    address = Address.parse("redis+sentinel://ann:pw@s1,[::1]/main/1?sentinel_password=sp")
    assert str(address) == "redis+sentinel://s1:26379,[::1]:26379/main/1"
    for text in (str(address), repr(address)):
        assert not any(secret in text for secret in ("ann", "pw", "sp'"))
