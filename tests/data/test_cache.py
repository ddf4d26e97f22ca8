"""A cached directory is complete or absent, made once however many want it."""

import threading
import time

import pytest

from seqgen.data import cache
from seqgen.errors import StorageError


def test_many_at_once_build_once(tmp_path):
    target, built = tmp_path / "made", []

    def build(directory):
        built.append(directory)
        (directory / "a").write_text("first")
        time.sleep(0.05)
        assert not target.exists()  # nothing is seen before it is complete
        (directory / "b").write_text("second")

    def want():
        made = cache.build_once(target, build)
        assert (made / "b").read_text() == "second"

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["made"]


def test_failed_build_leaves_nothing_and_can_be_repeated(tmp_path):
    target = tmp_path / "made"

    def fail(directory):
        (directory / "half").write_text("x")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        cache.build_once(target, fail)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    cache.build_once(target, lambda directory: (directory / "a").touch())
    assert (target / "a").exists()


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    stale = tmp_path / ".made.tmp-killed"
    stale.mkdir()
    (stale / "half").touch()
    cache.build_once(tmp_path / "made", lambda directory: None)
    assert not stale.exists()


def test_unwritable_place_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cache_dir"):
        cache.build_once(tmp_path / "file" / "made", lambda directory: None)


def test_discarded_directory_is_made_again(tmp_path):
    target = tmp_path / "made"
    cache.build_once(target, lambda directory: (directory / "old").touch())
    cache.discard(target)
    assert not target.exists()
    cache.build_once(target, lambda directory: (directory / "new").touch())
    assert [path.name for path in target.iterdir()] == ["new"]


def test_cache_directory_prefers_option_then_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQGEN_CACHE", str(tmp_path / "env"))
    assert cache.cache_directory(str(tmp_path / "own")) == tmp_path / "own"
    assert cache.cache_directory() == tmp_path / "env"
    monkeypatch.delenv("SEQGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_directory() == tmp_path / "xdg" / "seqgen"


def test_digest_of_json_ignores_the_order_of_keys():
    assert cache.digest_json({"a": 1, "b": 2}) == cache.digest_json({"b": 2, "a": 1})
    assert cache.digest_json({"a": 1}) != cache.digest_json({"a": 2})
