"""Rows from arrays and files: all of them, once, with their origin, and none of the held-out ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.sources.arrays import Arrays, ArraysSpec
from gossamer.sources.source import Feed, held_out


def numbered(rows: int, width: int = 3) -> np.ndarray:
    """Row r holds r in every entry, so that a row says where it comes from."""
    return np.repeat(np.arange(rows, dtype=np.float32)[:, None], width, axis=1)


def drawn(feed: Feed, batches: int) -> np.ndarray:
    return torch.cat([feed.next().rows[""][:, 0] for _ in range(batches)]).numpy()


@given(
    rows=st.integers(2, 400),
    buffer_rows=st.integers(1, 200),
    batch=st.integers(1, 50),
    validation=st.sampled_from([0.0, 0.1, 0.5]),
)
@settings(max_examples=40)
def test_an_epoch_is_every_training_row_once_whatever_the_buffer(rows, buffer_rows, batch, validation):
    source = Arrays(numbered(rows), validation=validation, buffer_rows=buffer_rows)
    feed = Feed(source, batch=batch, seed=1)
    batches = -(-2 * source.rows // batch)
    seen = drawn(feed, batches)
    first, second = np.sort(seen[: source.rows]), np.sort(seen[source.rows : 2 * source.rows])
    held = np.concatenate([b.rows[""][:, 0].numpy() for b in source.validation(batch=7)] or [np.empty(0)])
    assert len(held) == source.validation_rows
    assert np.array_equal(first, second)
    assert np.array_equal(np.sort(np.concatenate([first, held])), np.arange(rows))


@given(stop=st.integers(0, 60), rows=st.integers(40, 200), buffer_rows=st.integers(5, 90))
@settings(max_examples=30)
def test_a_saved_feed_goes_on_where_it_was(stop, rows, buffer_rows):
    source = Arrays(numbered(rows), buffer_rows=buffer_rows)
    whole, first, second = (Feed(source, batch=8, seed=2) for _ in range(3))
    for _ in range(stop):
        whole.next()
        first.next()
    second.load_state_dict({name: t.clone() for name, t in first.state_dict().items()})
    for _ in range(12):
        expected, got = whole.next(), second.next()
        assert torch.equal(expected.rows[""], got.rows[""])
        assert torch.equal(expected.origins, got.origins)


def test_the_order_depends_on_the_seed_alone():
    source = Arrays(numbered(100))
    again, same, other = (drawn(Feed(source, batch=10, seed=seed), 5) for seed in (0, 0, 1))
    assert np.array_equal(again, same)
    assert not np.array_equal(again, other)


def test_a_memory_mapped_file_gives_the_same_rows_as_the_array_and_stays_on_disk(tmp_path):
    x = numbered(5000)
    np.save(tmp_path / "x.npy", x)
    source = Arrays(tmp_path / "x.npy", buffer_rows=1000)
    assert isinstance(source._x, np.memmap)
    feed = Feed(source, batch=50, seed=0)
    seen = drawn(feed, source.rows // 50)
    assert len(np.unique(seen)) == len(seen)
    assert not np.array_equal(seen[:50], np.sort(seen[:50]))


def test_torch_tensors_and_integers_are_rows_too():
    batch = Feed(Arrays(torch.arange(40).reshape(20, 2), validation=0), batch=4, seed=0).next()
    assert batch.rows[""].dtype == torch.float32
    half = Feed(Arrays(torch.ones(20, 2, dtype=torch.bfloat16), validation=0), batch=4, seed=0).next()
    assert half.rows[""].dtype == torch.bfloat16


def test_documents_are_held_out_whole():
    documents = np.arange(200) // 8
    source = Arrays(numbered(200), documents=documents, validation=0.2)
    batches = list(source.validation(batch=1000))
    held = {int(d) for b in batches for d in b.origins[:, 0]}
    feed = Feed(source, batch=10, seed=0)
    trained = {int(d) for _ in range(source.rows // 10) for d in feed.next().origins[:, 0]}
    assert held and not held & trained
    assert source.validation_rows == 8 * len(held)


def test_origins_name_document_and_row():
    source = Arrays(numbered(50), documents=np.arange(50) // 10, validation=0)
    batch = Feed(source, batch=20, seed=0).next()
    assert torch.equal(batch.origins[:, 1].float(), batch.rows[""][:, 0])
    assert torch.equal(batch.origins[:, 0], batch.origins[:, 1] // 10)


@given(st.integers(1, 300), st.floats(0, 0.99))
def test_a_share_is_held_out_but_never_everything(documents, share):
    count = int(held_out(documents, share).sum())
    assert count <= documents - 1
    assert (count > 0) == (share > 0 and documents > 1)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((0, 3)), ValueError, "shape"),
        (np.zeros(5), ValueError, r"\(rows, width\)"),
        (np.zeros((2, 2, 2)), ValueError, r"\(2, 2, 2\)"),
        (np.array([["a", "b"]]), TypeError, "real numbers"),
        (np.ones((3, 2), dtype=complex), TypeError, "real numbers"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(x, error, message):
    with pytest.raises(error, match=message):
        Arrays(x)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"x\.npy does not exist"):
        Arrays(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY but not really")
    with pytest.raises(ValueError, match=r"x\.npy is damaged"):
        ArraysSpec(path=str(tmp_path / "x.npy")).build()


def test_a_pickled_array_is_not_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"x\.npy is damaged or no \.npy array"):
        Arrays(tmp_path / "x.npy")


@pytest.mark.parametrize("share", [-0.1, 1.0, 3])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="validation"):
        Arrays(numbered(10), validation=share)


def test_fingerprints_tell_arrays_apart():
    x = numbered(500)
    changed = x.copy()
    changed[17, 1] += 1
    assert Arrays(x).fingerprint() == Arrays(x.copy()).fingerprint()
    assert Arrays(x).fingerprint() != Arrays(changed).fingerprint()
    assert Arrays(x).fingerprint() != Arrays(x, validation=0.5).fingerprint()
