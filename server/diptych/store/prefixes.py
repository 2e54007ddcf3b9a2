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
            codec.encode_sought(value)  # raises for the one that no word can hold

    known: dict[str, Any] = {"arguments": space.arguments, "refuse": refuse}
    lines = ["def write(values):", "  try:", "    count = len(values)"]
    position = first
    for i, codec in enumerate(codecs):
        known[f"word_{i}"], known[f"known_{i}"] = codec.sought, codec.known
        known[f"exact_{i}"] = codec.exact
        known[f"encode_{i}"] = codec.encode_sought
        lines += [f"    if count == {i}:", f"        return {position - first}"]
        lines.append(f"    value = values[{i}]")
        lines += _optional_lines(codec, position) if codec.column.optional else []
        indent = "        " if codec.column.optional else "    "
        lines += [indent + line for line in _value_lines(codec, i, position)]
        position += codec.column.all_words
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


def _optional_lines(codec: Codec, position: int) -> list[str]:
    """None: the word that tells it, which comes first in an index, and zeros; else what follows."""
    zeros = range(position, position + codec.column.all_words)
    return [
        "    if value is None:",
        f"        {' = '.join(f'arguments[{at}]' for at in zeros)} = 0",
        "    else:",
        f"        arguments[{position}] = 1",
    ]


def _value_lines(codec: Codec, i: int, position: int) -> list[str]:
    """Writes the words of a value that is not None."""
    position += codec.column.optional
    if codec.column.words > 1:
        words = range(position, position + codec.column.words)
        targets = ", ".join(f"arguments[{at}]" for at in words)
        rest = ", _" if codec.column.optional else ""
        return [f"{targets}{rest} = encode_{i}(value)"]
    if codec.is_word:
        return [f"arguments[{position}] = value if type(value) is int else word_{i}(value)"]
    if codec.known is None:
        return [f"arguments[{position}] = word_{i}(value)"]
    seen = f"known_{i}.get(value) if type(value) in exact_{i} else None"
    return [f"arguments[{position}] = ({seen}) or word_{i}(value)"]
