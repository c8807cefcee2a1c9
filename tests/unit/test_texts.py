"""Texts as arrays: the same texts, the same judgement of each, as strings have one by one."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st
from unit_helpers import cases

from transforms.texts import from_binary, is_utf8, is_visible, strings, utf8

BYTES = st.sampled_from(
    [b"", b"a", b" ", b"\xc3", b"\xa9", "é中😀".encode(), b"\xe4\xb8", b"\xff", b"\t\n"]
) | st.binary(max_size=4)


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@cases(300)
@given(st.lists(st.text(max_size=6), max_size=8))
@example(["\u00a0", "\u2003\t", "\x1c", "\x7f", "\u200b", " a", "\u00a0a", ""])
def test_texts_stay_what_they_are_and_are_blank_where_strip_leaves_nothing(texts: list[str]) -> None:
    assert strings(utf8(texts)) == texts
    assert is_visible(utf8(texts)).tolist() == [bool(text.strip()) for text in texts]


@cases(300)
@given(st.lists(BYTES, max_size=8), st.integers(0, 3))
@example([b"\xc3", b"\xa9"], 0)  # valid together, and not apart
@example([b"\xc3", b"", b"\xa9"], 0)
def test_bad_utf8_is_seen_wherever_texts_are_divided(texts: list[bytes], begin: int) -> None:
    column = from_binary(pa.array(texts, pa.large_binary())[begin:])
    assert is_utf8(column) == all(map(decodes, texts[begin:]))
    assert column.lengths.tolist() == [len(text) for text in texts[begin:]]
    assert column.flat.tobytes() == b"".join(texts[begin:])
