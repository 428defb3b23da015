"""A hub of models on the network: what a repository holds, and its files, byte for byte.

The only place that imports huggingface_hub, and only when a model is pulled. Its session, token, proxies
and addresses are used, but not its download function: that throws away what it has when it is interrupted
(2.4.0), and takes the Xet protocol where it can, which does not go on at a byte. Files come over plain HTTP,
which every hub and mirror offers, and `Range` asks for the rest of one. Knows nothing of folders or models.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import handloom
from handloom.checkpoints.model_store import ENDPOINT
from handloom.errors import CheckpointError, ConfigError

PAUSE = 1.0
"""Seconds to wait after a lost connection; twice as long after each further one that brought nothing."""
PATIENCE = 4
"""How many attempts in a row may bring nothing."""
_PASSING = (408, 429, 500, 502, 503, 504)
_NAME, _VERSION = "handloom", handloom.__version__


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, and what its bytes must amount to."""

    name: str
    bytes: int
    sha256: str | None
    """Of files in large-file storage, such as weights."""
    git: str | None
    """Of the others: git's object id, the SHA-1 of `blob SIZE`, a zero byte, and the content."""

    @property
    def digest(self) -> str:
        """The checksum that there is; empty where the hub tells none."""
        return self.sha256 or self.git or ""


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    name: str
    commit: str
    files: dict[str, RemoteFile]


class NotReachedError(CheckpointError):
    """The network, rather than the hub, is in the way."""


class Hub:
    """A hub at an address.

    Args:
        endpoint: the address; None: `$HF_ENDPOINT`, else Hugging Face's.

    Raises:
        ConfigError: when that is no web address.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        try:
            address = urlsplit(self.endpoint)
            known = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        except ValueError:  # a port that is no number
            known = False
        if not known:
            raise ConfigError(
                f"The endpoint {self.endpoint!r} is not a web address.",
                f"Give one like {ENDPOINT} with --endpoint, or in HF_ENDPOINT.",
            )

    def repository(self, name: str, revision: str | None) -> Repository:
        """What the repository `owner/name` holds at a branch, tag or commit (None: its main branch).

        Raises:
            CheckpointError: not found, not allowed, no network, or no answer that a hub gives.
        """
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError

        with self._in_our_words(name, revision):
            try:
                info = HfApi(self.endpoint, library_name=_NAME, library_version=_VERSION).model_info(
                    name,
                    revision=revision,
                    files_metadata=True,
                    timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                    token=_token(),
                )
                files = {file.rfilename: _remote(file) for file in info.siblings or ()}
                if not files or not info.sha:
                    raise KeyError("siblings")
            except HfHubHTTPError:
                raise  # some of them are ValueErrors too
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise CheckpointError(
                    f"{self.endpoint} answers, but not as a hub of models does ({type(error).__name__}).",
                    "Check the address (--endpoint, HF_ENDPOINT), and whether a proxy or a log-in page of the "
                    "network stands in between.",
                ) from None
        return Repository(info.id, info.sha, files)

    def fetch(self, repository: Repository, file: RemoteFile, part: Path, on_bytes: Callable[[int], None]) -> None:
        """Append to `part` what it still lacks of a file. A lost connection is taken up again.

        Args:
            part: holds the first bytes of the file already, or does not exist.
            on_bytes: told how many bytes `part` has now.

        Raises:
            CheckpointError: the hub refuses, or the connection was lost too often. `part` stays.
            OSError: the disk refuses. `part` stays.
        """
        from huggingface_hub.errors import HTTPError  # the base of all that goes wrong in HTTP and below it

        part.touch()
        if _size(part) > file.bytes:
            part.write_bytes(b"")
        fruitless = 0
        with self._in_our_words(repository.name, repository.commit):
            while (have := _size(part)) < file.bytes:
                try:
                    self._append(repository, file, part, have, on_bytes)
                except HTTPError as error:
                    if not _is_passing(error) or fruitless == PATIENCE:
                        raise
                fruitless = 0 if _size(part) > have else fruitless + 1
                if fruitless > PATIENCE:
                    raise CheckpointError(
                        f"{self.endpoint} sends {file.name} of {repository.name} only up to byte {have:,} of "
                        f"{file.bytes:,}.",
                        "The same command goes on from there; try again later, or another --endpoint.",
                    )
                if _size(part) < file.bytes:
                    time.sleep(PAUSE * 2**fruitless)

    def _append(
        self, repository: Repository, file: RemoteFile, part: Path, have: int, on_bytes: Callable[[int], None]
    ) -> None:
        """One request for all that `part` lacks behind its first `have` bytes."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(repository.name, file.name, revision=repository.commit, endpoint=self.endpoint)
        # Compressed in transit, a file could not go on at a byte.
        wanted = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        headers = build_hf_headers(headers=wanted, token=_token(), library_name=_NAME, library_version=_VERSION)
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if response.status_code == 416 or (response.status_code == 206 and not goes_on):
                part.write_bytes(b"")  # the hub has no such rest: begin anew
                return
            hf_raise_for_status(response)
            with part.open("ab" if response.status_code == 206 else "wb") as out:
                for piece in response.iter_bytes():
                    out.write(piece)
                    on_bytes(out.tell())
                    if out.tell() > file.bytes:
                        return  # more than there should be: the checksum will say so

    @contextmanager
    def _in_our_words(self, repository: str, revision: str | None) -> Iterator[None]:
        """Turn what huggingface_hub raises in the block into a CheckpointError."""
        from huggingface_hub import errors

        try:
            yield
        except errors.OfflineModeIsEnabled:
            raise NotReachedError(
                "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids to use the network.", "Unset it to pull a model."
            ) from None
        except errors.HfHubHTTPError as error:
            raise self._refused(error, repository, revision) from None
        except errors.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise NotReachedError(
                f"The connection to {self.endpoint} failed: {reason.rstrip('.')}.",
                "Check the network (and HTTPS_PROXY), or name a mirror with --endpoint. What was fetched is "
                "kept: the same command goes on.",
            ) from None

    def _refused(self, error: Any, repository: str, revision: str | None) -> CheckpointError:
        """What to tell about an answer of 400 or more."""
        from huggingface_hub import errors

        status, page = error.response.status_code, f"{self.endpoint}/{repository}"
        token = "HF_TOKEN" if _token() is None else "the token in use (HF_TOKEN, or that of `hf auth login`)"
        if isinstance(error, errors.GatedRepoError):
            return CheckpointError(
                f"{repository} is gated: only those who have accepted its conditions may fetch it.",
                f"Accept them at {page}, and set HF_TOKEN to a token of that account.",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return CheckpointError(
                f"{repository} has no revision {revision!r}.",
                f"Leave --revision out, or name a branch, tag or commit that {page}/commits shows.",
            )
        if error.response.headers.get("X-Error-Message", "").startswith("Invalid credentials"):
            return CheckpointError(
                f"{self.endpoint} does not accept {token} (HTTP {status}).",
                "Renew it, or do without: public models need no token.",
            )
        if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
            return CheckpointError(
                f"{self.endpoint} has no model {repository}, or does not show it to you (HTTP {status}).",
                f"Check the name. If the model is private, check {token}.",
            )
        if status == 403:
            return CheckpointError(
                f"{self.endpoint} does not let you have {repository} (HTTP {status}).", f"Check what {token} permits."
            )
        if status in _PASSING:
            return CheckpointError(
                f"{self.endpoint} cannot serve {repository} now (HTTP {status}).",
                "Wait a while. What was fetched is kept: the same command goes on.",
            )
        return CheckpointError(
            f"{self.endpoint} refuses a file of {repository} (HTTP {status}).",
            "Try again later, or another --endpoint.",
        )


def _token() -> str | None:
    """The user's token, as huggingface_hub finds it: `$HF_TOKEN`, or that of a log-in.

    Raises:
        ConfigError: when it has characters that no token has, which could not even be sent.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_token

    # Else every request's headers begin with a request of their own to huggingface.co, whatever the endpoint.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(
            "The token for the hub (HF_TOKEN, or that of `hf auth login`) has characters that no token has.",
            "Copy it again; it begins with hf_.",
        )
    return token


def _remote(sibling: Any) -> RemoteFile:
    if sibling.lfs is not None:
        return RemoteFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256, None)
    if sibling.size is None:
        return RemoteFile(sibling.rfilename, 0, None, None)
    return RemoteFile(sibling.rfilename, sibling.size, None, sibling.blob_id)


def _is_passing(error: Exception) -> bool:
    """Whether a further attempt may help: a lost connection, or a hub that is too busy."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, errors.HTTPError)


def _size(path: Path) -> int:
    return path.stat().st_size
