"""Keys and prefixes of keys, from Python values to the words that kernels look for.

`prefix_writer` makes one function for a sequence of columns. It is generated as source, since every
lookup runs it: each column's words go to a place that is known beforehand, ints go as they are, and
text and enums that were seen before cost one dictionary lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diptych.store.values import Codec
from diptych.store.views import Space

Write = Callable[[Sequence[Any]], int]


def prefix_writer(space: Space, codecs: Sequence[Codec], first: int = 0) -> Write:
    """A function that writes values of the first columns as kernel arguments `first` and up.

    It takes at most as many values as there are codecs and returns how many words they made.
    Errors: BadValue for what a column can't hold.
    """

    def refuse(values: Sequence[Any]) -> None:
        for codec, value in zip(codecs, values, strict=False):
            codec.encode(value)  # raises for the one that no word can hold

    known: dict[str, Any] = {"arguments": space.arguments, "refuse": refuse}
    lines = ["def write(values):", "  try:", "    count = len(values)"]
    position = first
    for i, codec in enumerate(codecs):
        known[f"word_{i}"], known[f"known_{i}"] = codec.word, codec.known
        known[f"encode_{i}"] = codec.encode
        lines += [f"    if count == {i}:", f"        return {position - first}"]
        lines.append(f"    value = values[{i}]")
        if codec.column.words > 1:
            lines += [
                f"    for at, word in enumerate(encode_{i}(value), {position}):",
                "        arguments[at] = word",
            ]
        elif codec.known is None:
            lines += [
                f"    arguments[{position}] = value if type(value) is int else word_{i}(value)",
            ]
        else:
            lines += [
                f"    arguments[{position}] = known_{i}.get(value) or word_{i}(value)",
            ]
        position += codec.column.words
    lines += [
        f"    return {position - first}",
        "  except (TypeError, ValueError):",
        "    refuse(values)",
        "    raise",
    ]
    names = "_".join(codec.column.name for codec in codecs)
    exec(compile("\n".join(lines), f"<prefix {names}>", "exec"), known)
    write: Write = known["write"]
    return write
