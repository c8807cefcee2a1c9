"""The dataset's tokenizer: there, and the one that made the ids."""

from __future__ import annotations

import hashlib

from schemas.errors import DataError, RequestError
from schemas.manifest import Manifest
from schemas.storage import Location


def check_tokenizer(dataset: Location, manifest: Manifest) -> None:
    """Refuse to train a model that would be saved without its tokenizer, or with another one.

    Raises:
      DataError: the tokenizer is missing.
      RequestError: it is not the one that made the dataset's ids.
    """
    place = dataset / "tokenizer.json"
    try:
        content = place.read_bytes()
    except FileNotFoundError:
        raise DataError(
            "The dataset lacks its tokenizer, and the model would be saved without one",
            where=str(place),
            remedy="Restore it, or prepare the dataset again",
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.tokenizer.sha256:
        raise RequestError(
            "The tokenizer is not the one that made the dataset's ids",
            where=str(place),
            expected=f"sha256 {manifest.tokenizer.sha256}",
            got=f"sha256 {found}",
            remedy="Restore the dataset's own tokenizer.json, or prepare the dataset again",
        )
