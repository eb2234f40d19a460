"""Tests that concurrent evaluations share a feature cache without losing or tearing records."""

import threading

import numpy as np

from video_vq.evaluation.feature_cache import FeatureCache
from video_vq.stores import files

SETTINGS = {"network": "a"}


def rows(number: int) -> np.ndarray:
    return np.full((1, 6), number, np.float32)


def test_what_several_processes_add_at_once_is_known_to_the_next(tmp_path, monkeypatch):
    caches = []
    for pid in (11, 12, 13):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        monkeypatch.setattr("time.time_ns", lambda: 7)  # at the same moment
        caches.append(FeatureCache(SETTINGS, 6, tmp_path))
        caches[-1].add([bytes([pid]) * 32], rows(pid))
    for number, cache in enumerate(caches):
        cache.add([bytes([20 + number]) * 32], rows(20 + number))
    found = FeatureCache(SETTINGS, 6, tmp_path)
    assert (len(found), found.num_torn) == (6, 0)
    for number in (11, 12, 13, 20, 21, 22):
        features = found.get(bytes([number]) * 32)
        assert features is not None
        assert np.array_equal(features, rows(number)[0])


def test_two_that_open_a_new_cache_at_once_both_read_whole_settings(tmp_path, monkeypatch):
    """The second cache begins to write settings just before the first puts its own in place."""
    begun, may_go_on = threading.Event(), threading.Event()
    write, rename = files.write, files.rename
    opened: list[FeatureCache] = []
    second = threading.Thread(target=lambda: opened.append(FeatureCache(SETTINGS, 6, tmp_path)))

    def slow_write(file, data):
        if threading.current_thread() is second:
            begun.set()
            assert may_go_on.wait(30)
        write(file, data)

    def late_rename(source, target):
        if threading.current_thread() is not second and not second.ident:
            second.start()
            assert begun.wait(30)
        rename(source, target)

    monkeypatch.setattr(files, "write", slow_write)
    monkeypatch.setattr(files, "rename", late_rename)
    try:
        first = FeatureCache(SETTINGS, 6, tmp_path)
    finally:
        may_go_on.set()
        second.join()
    assert opened[0].path == first.path
    assert [entry.name for entry in first.path.iterdir()] == ["settings.json"]
    FeatureCache(SETTINGS, 6, tmp_path)
