"""Tests that TensorFlow's TFRecords are read exactly, and that TensorFlow reads ours.

TensorFlow is not a dependency of the project: install tensorflow-cpu in another environment, and
run this file there with `-m slow`.
"""

from pathlib import Path

import numpy as np
import pytest

from data_prep.sources.bair import BairSettings, frames_of, list_bair
from data_prep.tfrecord import (
    encode_example,
    parse_example,
    read_record,
    scan_records,
    write_records,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def features_of(seed: int) -> dict[str, list[bytes] | np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "bytes": [rng.bytes(int(size)) for size in rng.integers(0, 300, 4)],
        "no bytes": [],
        "floats": rng.normal(size=int(rng.integers(1, 40))).astype(np.float32),
        "whole": rng.integers(-(2**62), 2**62, int(rng.integers(1, 40))),
        "ünïcode/0": np.array([np.inf, -0.0, 1e-40], np.float32),
    }


def to_tensorflow(tf, features) -> bytes:
    def feature(value):
        if isinstance(value, list):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        if value.dtype == np.float32:
            return tf.train.Feature(float_list=tf.train.FloatList(value=value))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))

    named = {name: feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def assert_equal(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, list):
            assert found[name] == value
        else:
            assert found[name].dtype == value.dtype
            assert found[name].tobytes() == value.tobytes()


def test_what_tensorflow_wrote_is_read_bit_for_bit(tf, tmp_path):
    path = tmp_path / "a.tfrecords"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for seed in range(50):
            writer.write(to_tensorflow(tf, features_of(seed)))
    offsets = scan_records(path).records
    assert len(offsets) == 50
    for seed, (offset, _) in enumerate(offsets):
        assert_equal(parse_example(read_record(path, offset)), features_of(seed))


def test_tensorflow_reads_what_we_wrote(tf, tmp_path):
    path = tmp_path / "a.tfrecords"
    write_records(path, [encode_example(features_of(seed)) for seed in range(50)])
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    assert len(records) == 50
    for seed, data in enumerate(records):
        example = tf.train.Example.FromString(data)
        found = {}
        for name, feature in example.features.feature.items():
            kind = feature.WhichOneof("kind")
            values = getattr(feature, kind).value
            if kind == "bytes_list":
                found[name] = list(values)
            else:
                dtype = np.float32 if kind == "float_list" else np.int64
                found[name] = np.array(values, dtype)
        assert_equal(found, features_of(seed))


def test_bairs_layout_written_by_tensorflow_comes_back_exactly(tf, tmp_path):
    rng = np.random.default_rng(0)
    path = Path(tmp_path / "softmotion30_44k/train/traj_0_to_2.tfrecords")
    path.parent.mkdir(parents=True)
    videos = [
        {
            "frames": rng.integers(0, 256, (30, 64, 64, 3), np.uint8),
            "actions": rng.normal(size=(30, 4)).astype(np.float32),
            "endeffector_pos": rng.normal(size=(30, 3)).astype(np.float32),
        }
        for _ in range(3)
    ]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for video in videos:
            features = {}
            for t in range(30):
                features[f"{t}/image_aux1/encoded"] = [video["frames"][t].tobytes()]
                features[f"{t}/image_main/encoded"] = [bytes(64 * 64 * 3)]
                features[f"{t}/action"] = video["actions"][t]
                features[f"{t}/endeffector_pos"] = video["endeffector_pos"][t]
            writer.write(to_tensorflow(tf, features))
    items = list_bair(tmp_path, BairSettings()).items
    assert len(items) == 3
    for item, video in zip(items, videos, strict=True):
        frames, arrays = frames_of(read_record(Path(item.path), item.offset), "aux1")
        assert np.array_equal(frames, video["frames"])
        assert arrays["actions"].tobytes() == video["actions"].tobytes()
        assert arrays["endeffector_pos"].tobytes() == video["endeffector_pos"].tobytes()
