"""Errors a person can act on: one paragraph saying what, where, expected, got and the remedy.

Not a place for programming errors: those stay ordinary exceptions and stop the run with a traceback.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from difflib import get_close_matches


def _sentence(text: str) -> str:
    """One line that ends like a sentence, whatever line breaks a foreign message brought along."""
    line = " ".join(text.split())
    return line if line.endswith(("?", "!")) else line.rstrip(".") + "."


_WIRE = re.compile(r"\[\[shardmill:([A-Za-z0-9_=-]+)\]\]")


class ShardmillError(Exception):
    """An error with a readable paragraph and an exit code.

    `exit_code` is 2 where the request is wrong (job file, options, places) and 1 where the data is.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        got: str = "",
        remedy: str = "",
    ) -> None:
        self.what, self.where, self.expected, self.got, self.remedy = what, where, expected, got, remedy
        super().__init__(what)

    def paragraph(self) -> str:
        """The whole error as one paragraph, empty parts left out."""
        parts = [_sentence(self.what)]
        for label, text in (("Where", self.where), ("Expected", self.expected), ("Got", self.got)):
            if text:
                parts.append(_sentence(f"{label}: {text}"))
        if self.remedy:
            parts.append(_sentence(self.remedy))
        return " ".join(parts)

    def to_wire(self) -> str:
        """The error as text that survives a runner which keeps only the message of an exception."""
        fields = {k: getattr(self, k) for k in ("what", "where", "expected", "got", "remedy")}
        payload = json.dumps({"class": type(self).__name__, **fields}).encode()
        # Base64, since a runner may quote the message any number of times.
        return f"[[shardmill:{base64.urlsafe_b64encode(payload).decode()}]]"

    def __str__(self) -> str:
        return self.paragraph()


class RequestError(ShardmillError):
    """The request cannot be carried out as written: fix the job file, an option or a place."""

    exit_code = 2


class DataError(ShardmillError):
    """The data is bad: too many rejected records, a checksum that differs, a shard that is missing."""

    exit_code = 1


def error_from_wire(text: str) -> ShardmillError | None:
    """Find the first wired error in a runner's message; None where there is none."""
    match = _WIRE.search(text)
    if match is None:
        return None
    try:
        fields = json.loads(base64.urlsafe_b64decode(match.group(1)))
        kind = RequestError if fields.pop("class") == "RequestError" else DataError
        return kind(fields.pop("what"), **fields)
    except (ValueError, KeyError, AttributeError, TypeError):
        return None  # somebody else's text that looks like ours


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the known names where none is near."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
