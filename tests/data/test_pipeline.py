"""Batches: a function of the seed and the step, whatever the start and the number of hosts."""

import subprocess
import sys
from itertools import islice

import numpy as np
import pytest

from ddpm_jax.config import DataConfig
from ddpm_jax.data import (
    Batches,
    CroppedRecords,
    Source,
    batch_indices,
    centre_crop,
    first_images,
    load_source,
    ordered_batches,
    pipeline,
    train_batches,
)
from ddpm_jax.data.sources import ArrayRecords
from ddpm_jax.errors import UserError

DATA = DataConfig(image_size=4, channels=1, flip=True)
CROPS = DataConfig(image_size=4, channels=3, flip=True, random_crop=True)
Arrays = list[tuple[np.ndarray, np.ndarray]]


def source(size: int = 50, in_memory: bool = True) -> Source:
    """Images that show their index, which is their label too, and whether they are mirrored."""
    images = np.zeros((size, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0] = 255
    images[:, 3, :, 0] = np.arange(size)[:, None]
    return Source("test", ArrayRecords(images, np.arange(size)), size, in_memory=in_memory)


def photos(size: int = 20, in_memory: bool = True) -> Source:
    """Images larger than the crops, of several sizes."""
    rng = np.random.default_rng(0)
    images = np.empty(size, object)
    for i in range(size):
        images[i] = rng.integers(0, 256, (9 + i % 3, 12, 3), np.uint8)
    return Source("photos", ArrayRecords(images, np.arange(size)), size, in_memory=in_memory)


def take(batches: Batches, count: int) -> Arrays:
    with batches:
        return [(batch["x"], batch["label"]) for batch in islice(batches, count)]


def assert_equal(got: Arrays, want: Arrays) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("step", [0, 3, 40])
def test_the_records_of_a_batch_are_known_without_reading_them(step: int) -> None:
    indices = batch_indices(50, 8, seed=3, step=step)
    for processes in (1, 2):
        slices = [
            take(train_batches(source(), DATA, 8, 3, step, process, processes), 1)[0][1]
            for process in range(processes)
        ]
        np.testing.assert_array_equal(np.concatenate(slices), indices)


@pytest.mark.parametrize("in_memory", [True, False])
def test_batch_of_a_step_does_not_depend_on_the_start(in_memory: bool) -> None:
    examples = source(in_memory=in_memory)
    whole = take(train_batches(examples, DATA, 8, seed=3), 30)
    for start in (1, 7, 29):
        later = take(train_batches(examples, DATA, 8, seed=3, start_step=start), 30 - start)
        assert_equal(later, whole[start:])


def test_far_steps_cost_the_same() -> None:
    far = take(train_batches(source(), DATA, 8, seed=3, start_step=10**9), 2)
    near = take(train_batches(source(), DATA, 8, seed=3, start_step=10**9 + 1), 1)
    assert_equal(far[1:], near)


@pytest.mark.parametrize("processes", [2, 4])
def test_slices_of_all_processes_make_the_batch_of_one(processes: int) -> None:
    whole = take(train_batches(source(), DATA, 8, seed=3, start_step=5), 20)
    slices = [
        take(train_batches(source(), DATA, 8, 3, 5, index, processes), 20)
        for index in range(processes)
    ]
    joined = [
        tuple(np.concatenate(arrays) for arrays in zip(*step, strict=True))
        for step in zip(*slices, strict=True)
    ]
    assert_equal(joined, whole)


def test_threads_and_memory_give_the_same_batches() -> None:
    with_threads = take(train_batches(source(in_memory=False), DATA, 8, seed=0), 30)
    assert_equal(with_threads, take(train_batches(source(), DATA, 8, seed=0), 30))


def test_every_epoch_is_another_permutation() -> None:
    batches = take(train_batches(source(50), DATA, 8, seed=0), 25)  # four epochs of 50
    epochs = np.concatenate([label for _, label in batches]).reshape(4, 50)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(50))
    assert len({epoch.tobytes() for epoch in epochs}) == 4


def test_seeds_give_other_orders() -> None:
    first, second = (take(train_batches(source(), DATA, 50, seed), 2) for seed in (0, 1))
    assert not np.array_equal(first[0][1], second[0][1])
    assert not np.array_equal(first[1][1], second[0][1])  # nor is it the next epoch of the other


def test_batches_larger_than_the_source_run_on() -> None:
    [(x, label)] = take(train_batches(source(3), DATA, 10, seed=0), 1)
    assert x.shape == (10, 4, 4, 1)
    assert sorted(np.bincount(label, minlength=3)) == [3, 3, 4]


def test_half_of_the_images_are_flipped_and_labels_stay() -> None:
    batches = take(train_batches(source(), DATA, 50, seed=0), 40)
    flipped = 0
    for x, label in batches:
        np.testing.assert_array_equal(x[:, 3, 0, 0], label)
        assert ((x[:, 0, 0, 0] == 255) != (x[:, 0, 3, 0] == 255)).all()
        flipped += (x[:, 0, 3, 0] == 255).sum()
    assert 0.45 < flipped / 2000 < 0.55
    unflipped = take(train_batches(source(), DataConfig(image_size=4, channels=1), 50, seed=0), 2)
    assert all((x[:, 0, 0, 0] == 255).all() for x, _ in unflipped)


def test_an_example_is_not_always_flipped_the_same_way() -> None:
    batches = take(train_batches(source(1), DATA, 64, seed=0), 1)
    assert 10 < (batches[0][0][:, 0, 3, 0] == 255).sum() < 54


def test_shapes_and_types() -> None:
    data = DataConfig(name="digits", image_size=8, channels=1)
    [(x, label)] = take(train_batches(load_source(data), data, 16, 0), 1)
    assert (x.shape, x.dtype) == ((16, 8, 8, 1), np.uint8)
    assert (label.shape, label.dtype) == ((16,), np.int32)
    data = DataConfig(name="s_curve")
    [(x, label)] = take(train_batches(load_source(data), data, 16, 0), 1)
    assert (x.shape, x.dtype) == ((16, 2), np.float32)
    np.testing.assert_array_equal(label, np.full(16, -1, np.int32))


@pytest.mark.parametrize("in_memory", [True, False])
def test_random_crops_depend_on_the_seed_and_the_place_alone(in_memory: bool) -> None:
    whole = take(train_batches(photos(), CROPS, 8, seed=3), 12)
    examples = photos(in_memory=in_memory)
    for start in (0, 5):
        later = take(train_batches(examples, CROPS, 8, seed=3, start_step=start), 12 - start)
        assert_equal(later, whole[start:])
    slices = [take(train_batches(examples, CROPS, 8, 3, 0, index, 2), 12) for index in range(2)]
    joined = [
        tuple(np.concatenate(arrays) for arrays in zip(*step, strict=True))
        for step in zip(*slices, strict=True)
    ]
    assert_equal(joined, whole)
    assert whole[0][0].shape == (8, 4, 4, 3) and whole[0][0].dtype == np.uint8
    assert whole[0][1].dtype == np.int32


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_image_is_cropped_anew_each_time(in_memory: bool) -> None:
    one = photos(1, in_memory)
    [(x, _)] = take(train_batches(one, CROPS, 64, seed=0), 1)
    assert len({crop.tobytes() for crop in x}) > 15  # of 20: two sizes, ten places, two sides


def test_random_crops_leave_the_order_of_the_images_as_it_is() -> None:
    plain = DataConfig(image_size=4, channels=3)
    for cropped, centred in zip(
        take(train_batches(photos(), CROPS, 8, seed=0), 6),
        take(train_batches(photos(), plain, 8, seed=0), 6),
        strict=True,
    ):
        np.testing.assert_array_equal(cropped[1], centred[1])
        assert not np.array_equal(cropped[0], centred[0])


@pytest.mark.parametrize("in_memory", [True, False])
def test_ordered_batches_are_the_centres_of_all_images_once(in_memory: bool) -> None:
    examples = photos(in_memory=in_memory)
    batches = list(ordered_batches(examples, CROPS, 8))
    assert [len(batch["x"]) for batch in batches] == [8, 8, 4]
    x, label = (np.concatenate([batch[key] for batch in batches]) for key in ("x", "label"))
    np.testing.assert_array_equal(label, np.arange(20))
    assert x.dtype == np.uint8 and label.dtype == np.int32
    records = CroppedRecords(examples, CROPS)
    for i in range(20):
        want = centre_crop(examples.records[i]["x"], 4)
        np.testing.assert_array_equal(x[i], want)
        np.testing.assert_array_equal(records[i]["x"], want)
    assert [len(batch["x"]) for batch in ordered_batches(examples, CROPS, 8, count=11)] == [8, 3]


def test_first_images_are_the_first_of_the_ordered_ones() -> None:
    [whole] = ordered_batches(photos(), CROPS, 20)
    for count, got in [(3, 3), (20, 20), (50, 20)]:
        images, labels = first_images(photos(), CROPS, count)
        np.testing.assert_array_equal(images, whole["x"][:got])
        np.testing.assert_array_equal(labels, np.arange(got))


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_images_are_cropped_and_decoded_once_if_they_fit(
    monkeypatch: pytest.MonkeyPatch, cache_bytes: int
) -> None:
    monkeypatch.setattr(pipeline, "CACHE_BYTES", cache_bytes)
    reads: list[int] = []

    class Counting(ArrayRecords):
        def __getitem__(self, index: int) -> dict[str, object]:
            reads.append(index)
            return super().__getitem__(index)

    images = np.random.default_rng(0).integers(0, 255, (10, 9, 12, 3), np.uint8)
    counted = Source("test", Counting(images, np.arange(10)))
    data = DataConfig(image_size=4, channels=3)
    batches = take(train_batches(counted, data, 10, seed=0), 20)
    order = np.argsort(batches[0][1])
    for x, label in batches[1:]:
        np.testing.assert_array_equal(x[np.argsort(label)], batches[0][0][order])
    # Two threads that ask for the same image at once may both decode it.
    assert len(reads) >= 200 if cache_bytes == 0 else len(reads) <= 40


def test_wrong_numbers_are_refused() -> None:
    for arguments, words in [
        ({"batch_size": 9, "process_count": 2}, "positive multiple of the number of processes, 2"),
        ({"batch_size": 0}, "train.batch_size is 0"),
        ({"batch_size": 8, "seed": -1}, "train.seed is -1"),
        ({"batch_size": 8, "seed": 2**32}, "from 0 to 4294967295"),
    ]:
        with pytest.raises(UserError, match=words):
            train_batches(source(), DATA, **{"seed": 0, **arguments})


def test_a_reader_threads_error_arrives_as_it_was() -> None:
    class Failing(ArrayRecords):
        def __getitem__(self, index: int) -> dict[str, object]:
            raise UserError("the disk is gone")

    failing = Source("test", Failing(np.zeros((5, 4, 4, 1), np.uint8), np.zeros(5)))
    with train_batches(failing, DATA, 2, seed=0) as batches:
        with pytest.raises(UserError) as error:
            next(batches)
        assert str(error.value) == "the disk is gone"


@pytest.mark.parametrize("ending", ["batches.close(); batches.close()", "pass", "sys.exit(0)"])
def test_a_plain_script_ends_in_silence(ending: str) -> None:
    code = f"""
import sys, numpy as np
from ddpm_jax.config import DataConfig
from ddpm_jax.data import Source, train_batches
from ddpm_jax.data.sources import ArrayRecords
records = ArrayRecords(np.zeros((500, 4, 4, 1), np.uint8), np.zeros(500))
data = DataConfig(image_size=4, channels=1, flip=True)
batches = train_batches(Source("test", records), data, 64, seed=0)
next(batches)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
