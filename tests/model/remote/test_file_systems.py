"""Addresses of object stores, and what is said where one cannot be used."""

from __future__ import annotations

import sys

import pytest

from model.remote import file_systems
from model.remote.file_systems import TRIES, RemoteError, checked_url, find, is_url
from tests.support.serving import free_port


def test_addresses_have_one_form() -> None:
    """Scheme, bucket and path; a slash at the end says nothing."""
    assert checked_url("s3://bucket/days/") == "s3://bucket/days"
    assert checked_url("gs://bucket") == "gs://bucket"
    assert checked_url("hdfs:///days/1.csv") == "hdfs://default/days/1.csv"
    assert checked_url("hdfs://name:8020/days/1.csv") == "hdfs://name:8020/days/1.csv"
    assert is_url("s3://bucket/x")
    assert not is_url("s3:/bucket/x")
    assert not is_url("days/1.csv")
    assert not is_url("http://bucket/x")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("s3://", "the bucket is missing"),
        ("gs:///days/1.csv", "the bucket is missing"),
        ("s3://bucket//1.csv", "empty parts of a path"),
        ("s3://bucket/../1.csv", "'.' and '..' are not read"),
        ("s3://key:secret@bucket/1.csv", "logins and options come from the environment"),
    ],
)
def test_other_addresses_are_refused(address: str, problem: str) -> None:
    """The message names the address and says what is wrong."""
    with pytest.raises(RemoteError, match="^" + address.replace("?", ".")) as caught:
        checked_url(address)
    assert problem in str(caught.value)


@pytest.mark.parametrize("scheme", ["s3", "gs", "hdfs"])
def test_without_pyarrow_the_extra_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main environment of a user may lack it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RemoteError, match=rf"cannot read {scheme}://b/x: .*'pyarrow'.*\[stores\]"):
        find(f"{scheme}://b/x")


def test_a_store_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bounded number of tries, in one line with the file's name."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setattr(file_systems, "FIRST_PAUSE", 0.001)
    file_systems._system.cache_clear()
    with pytest.raises(RemoteError) as caught:
        find("s3://bucket/1.csv")
    file_systems._system.cache_clear()
    assert str(caught.value) == (
        f"cannot read s3://bucket/1.csv: the connection failed ({TRIES} tries failed)"
    )


def test_hdfs_without_hadoop_is_told_at_once() -> None:
    """Its library comes with Hadoop, and is not tried twice."""
    with pytest.raises(RemoteError, match=r"^cannot read hdfs://name:8020/1.csv: ") as caught:
        find("hdfs://name:8020/1.csv")
    assert "tries failed" not in str(caught.value)
