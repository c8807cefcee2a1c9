"""Object stores: file systems that retry with back-off, and their errors as one paragraph. Knows no paths or names.

Credentials come from where each cloud's own tools find them (environment, profile, instance role), never from a path.
`AWS_ENDPOINT_URL` points at another S3 server, `STORAGE_EMULATOR_HOST` at another server for `gs://`.
"""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from schemas.errors import DataError, RequestError, ShardmillError

ATTEMPTS = 10
"""Tries of one request, with exponential back-off between them: about a minute in all."""
CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 60.0
"""A request that moves no byte for so long is tried again."""

_CUT, _CUT_ATTEMPTS = "Failed to flush response stream", 4
"""What the SDK says of an answer that was cut off, and how often one is asked for."""

_AGAIN = "Run the same command again when the storage answers; what is finished is kept and not redone"


@dataclass(frozen=True)
class _Kind:
    """A kind of failure: how it shows in a client's message, and what to say."""

    pattern: re.Pattern[str]
    error: type[ShardmillError]
    what: str
    remedy: str


_NO_BUCKET = _Kind(
    re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|Bucket '[^']*' not found|bucket does not exist", re.IGNORECASE),
    RequestError,
    "There is no such bucket",
    "Mend the bucket's name, or create the bucket; shardmill never creates one",
)
_KINDS = (
    _NO_BUCKET,
    _Kind(
        re.compile(r"Could not create a OAuth2 access token|could not load credentials", re.IGNORECASE),
        RequestError,
        "There are no credentials for the storage that can be used",
        "Set GOOGLE_APPLICATION_CREDENTIALS to a key file, run `gcloud auth application-default login`, or give the "
        "machine an account",
    ),
    _Kind(
        re.compile(
            r"INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN|ExpiredToken|InvalidToken"
            r"|REQUEST_EXPIRED|UNRECOGNIZED_CLIENT|InvalidAccessKeyId|SignatureDoesNotMatch|UNAUTHENTICATED"
            r"|HTTP status 401|MISSING_AUTHENTICATION|INVALID_SIGNATURE|TooSkewed"
            r"|HTTP status 400\) during HeadObject",  # which has no body to say so
            re.IGNORECASE,
        ),
        RequestError,
        "The storage does not accept the credentials",
        "Log in again, or set the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, a role; "
        "for gs:// GOOGLE_APPLICATION_CREDENTIALS), and check this machine's clock",
    ),
    _Kind(
        re.compile(r"ACCESS_DENIED|AccessDenied|PERMISSION_DENIED|HTTP status 403|Forbidden", re.IGNORECASE),
        RequestError,
        "The storage refuses access",
        "Set credentials that may read, list and write there (for s3:// GetObject, ListBucket, PutObject and "
        "DeleteObject); without any credentials every private bucket refuses",
    ),
    _Kind(
        re.compile(
            r"NETWORK_CONNECTION|curlCode|Couldn't (?:connect|resolve)|Failed to connect|Connection (?:refused|reset)"
            r"|REQUEST_TIMEOUT|Timeout was reached|CURL error \[\d+\]|from the peer",
            re.IGNORECASE,
        ),
        DataError,
        "The storage cannot be reached",
        f"Check the network and the endpoint (AWS_ENDPOINT_URL, AWS_REGION). {_AGAIN}",
    ),
    _Kind(
        re.compile(
            r"SLOW_DOWN|SlowDown|THROTTLING|HTTP status 429|RESOURCE_EXHAUSTED|TOO_MANY|rateLimitExceeded",
            re.IGNORECASE,
        ),
        DataError,
        "The storage asks for fewer requests than the job makes, also after waiting",
        f"Use fewer workers. {_AGAIN}",
    ),
    _Kind(
        re.compile(r"AWS Error|google::cloud|HTTP status \d|GcsFileSystem", re.IGNORECASE),
        DataError,
        "The storage failed, also when asked again",
        _AGAIN,
    ),
)

_DETAILS = re.compile(r"\s*error_info=\{.*", re.DOTALL)
"""What Google's client adds to a message: the message once more, and places in its own source."""

_SECRET = re.compile(
    r"(?i)\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|(?<=://)[^/@\s]+@"
    r"|(?:secret|token|password|signature|credential|access_?key(?:_?id)?)[\w-]*\s*[=:]\s*['\"]?[^\s'\"&<]+"
)


def redact(text: str) -> str:
    """`text` without what looks like a key, a token or a password in a URL.

    >>> redact("http://user:pass@host/x failed")
    'http://…host/x failed'
    """
    return _SECRET.sub("…", text)


def whole_answer(read: Callable[[], bytes]) -> bytes:
    """What `read` gives, tried again where an answer was cut off: to the SDK that is no failure of a request.

    Raises:
      OSError: so it was each time, or another failure.
    """
    for attempt in range(_CUT_ATTEMPTS - 1):
        try:
            return read()
        except OSError as error:
            if _CUT not in str(error):
                raise
            time.sleep(0.2 * 2**attempt)
    return read()


def file_system(scheme: str, bucket: str) -> pafs.FileSystem:
    """The file system that holds a bucket.

    Args:
      scheme: `s3` or `gs`.
      bucket: its name, to find its region.
    """
    return _gcs() if scheme == "gs" else _s3(bucket)


def _s3(bucket: str) -> pafs.S3FileSystem:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options: dict[str, Any] = {}
    if endpoint:
        scheme, host = endpoint.split("://", 1) if "://" in endpoint else ("https", endpoint)
        options = {"endpoint_override": host.rstrip("/"), "scheme": scheme, "region": region or "us-east-1"}
    else:
        try:
            options["region"] = pafs.resolve_s3_region(bucket)
        except OSError as error:
            if region is None:
                raise explained(error, f"s3://{bucket}") or error from error
            options["region"] = region  # the bucket's owner may hide where it is
    return pafs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        allow_delayed_open=True,  # one request puts a small object
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def _gcs() -> pafs.FileSystem:
    limit = datetime.timedelta(seconds=REQUEST_SECONDS)
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if not emulator:
        return pafs.GcsFileSystem(retry_time_limit=limit)
    scheme, host = emulator.split("://", 1) if "://" in emulator else ("http", emulator)
    return pafs.GcsFileSystem(
        anonymous=True, endpoint_override=host.rstrip("/"), scheme=scheme, retry_time_limit=limit
    )


def is_storage_failure(error: OSError) -> bool:
    """True for an error of the storage or the network, false for what a file holds, such as a damaged archive."""
    return error.errno is not None or _kind_of(str(error)) is not None


def explained(error: Exception, place: str) -> ShardmillError | None:
    """The error in words, without credentials; None if it is no storage's error.

    Args:
      error: what `pyarrow.fs` raised.
      place: the URI that was asked for.
    """
    kind = _kind_of(str(error))
    if kind is None or (isinstance(error, FileNotFoundError) and kind is not _NO_BUCKET):
        return None
    message = _DETAILS.sub("", str(error))
    return kind.error(kind.what, where=redact(place), got=redact(message), remedy=kind.remedy)


def _kind_of(message: str) -> _Kind | None:
    return next((kind for kind in _KINDS if kind.pattern.search(message)), None)
