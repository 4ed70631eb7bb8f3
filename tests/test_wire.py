import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archipelago.core.buffers import join, length
from archipelago.core.errors import UpdateRefused
from archipelago.wire.frame import bundle, pack, packed, unbundle, unpack

ARRAYS = st.lists(st.lists(st.floats(width=32), max_size=40), max_size=3)


WHOLE = st.integers(1 - 10**20, 10**20 - 1)
"""Whole numbers of at most twenty digits: longer ones are refused."""


@given(ARRAYS, st.dictionaries(st.text(max_size=5), WHOLE | st.text(), max_size=3))
def test_the_receiver_rebuilds_exactly_what_was_packed(rows, fields):
    arrays = [np.array(row, dtype=np.float32) for row in rows]
    pieces = pack("update", fields, arrays)
    data = join(pieces)
    assert len(data) == length(pieces)
    frame = unpack(data)
    assert (frame.kind, frame.fields) == ("update", fields)
    for sent, received in zip(arrays, frame.arrays, strict=True):
        assert sent.tobytes() == received.tobytes()
        assert not received.flags.writeable


GOOD = join(pack("update", {"a": 1}, [np.arange(20, dtype=np.float32)]))


@given(st.integers(0, len(GOOD) - 1))
def test_a_frame_cut_anywhere_is_refused(cut):
    with pytest.raises(UpdateRefused):
        unpack(GOOD[:cut])


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_flipped_byte_never_raises_anything_else(at, value):
    data = bytearray(GOOD)
    data[at] = value
    with contextlib.suppress(UpdateRefused):
        unpack(bytes(data))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"PK\x03\x04" + GOOD[4:], "not an Archipelago frame"),
        (GOOD[:4] + b"\x09\x00" + GOOD[6:], "a frame of another version"),
        (GOOD + b"\0" * 64, "bytes behind the end"),
        (GOOD.replace(b'"f4"', b'"O4"'), "type not allowed"),
        (GOOD.replace(b"[20]", b"[99]"), "cut short"),
        (GOOD.replace(b"[20]", b"-20 "), "cannot be read"),
    ],
)
def test_hostile_frames_are_named(data, text):
    with pytest.raises(UpdateRefused, match=text):
        unpack(data)


def test_a_frame_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(UpdateRefused, match="larger than this receiver accepts"):
        unpack(GOOD, limit=10)


def test_objects_cannot_be_framed():
    with pytest.raises(UpdateRefused, match="cannot be framed"):
        pack("x", {}, [np.array([object()])])


def test_the_size_of_a_frame_is_known_without_making_it():
    numbers = (
        0,
        7,
        -12,
        123456789012345,
        0.1,
        1e-30,
        2.0,
        1 / 3,
        np.pi * 1e17,
        np.inf,
        -np.inf,
        np.nan,
    )
    clients = (10**n for n in range(64))  # every place of the padding
    several = [{"client": n, "metrics": {"loss": x}} for n in clients for x in numbers]
    arrays = [np.zeros(5, np.float32), np.zeros((2, 3))]
    made = [len(join(pack("update", fields, arrays))) for fields in several]
    told = [(fields["client"], fields["metrics"]["loss"]) for fields in several]
    assert packed("update", several[0], told, arrays) == made
    assert len(set(made)) > 1


def test_a_bundle_returns_each_message_or_its_reason():
    one, two = pack("a", {"n": 1}, [np.arange(5.0)]), pack("b", {})
    data = memoryview(join(bundle([one, "ValueError: no rows", two])))
    first, reason, last = unbundle(data)
    assert bytes(first) == join(one)
    assert reason == "ValueError: no rows"
    assert unpack(last).kind == "b"


@pytest.mark.parametrize("cut", [-64, -1, 64])
def test_a_bundle_of_another_length_is_refused(cut):
    data = join(bundle([pack("a", {}), pack("b", {})]))
    wrong = data[:cut] if cut < 0 else data + bytes(cut)
    with pytest.raises(UpdateRefused, match="bundle"):
        unbundle(memoryview(wrong))
    with pytest.raises(UpdateRefused, match="cut short"):
        unbundle(memoryview(data[:8]))
