"""A hub of models on the network: lists a repository and fetches its files, byte for byte.

The only module that imports huggingface_hub, and only when a model is pulled. Its session, token, proxies and
addresses are used, but not its download function, which deletes a partial file when it is interrupted (2.4.0) and
prefers the Xet protocol, which cannot resume at a byte. Files come over plain HTTP, which every hub and mirror
offers; `Range` requests the rest of one. Knows nothing of folders or models.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import handloom
from handloom import storage
from handloom.checkpoints.model_store import ENDPOINT
from handloom.errors import CheckpointError, ConfigError

PAUSE = 1.0
"""Seconds to wait after a lost connection; doubled after each attempt that fetched nothing."""
PATIENCE = 4
"""How many attempts in a row may fetch nothing."""
_BUSY = (408, 429, 500, 502, 503, 504)
_CLIENT: dict[str, Any] = {"library_name": "handloom", "library_version": handloom.__version__}


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository with its size and checksum."""

    name: str
    bytes: int
    sha256: str | None
    """Of files in large-file storage, such as weights."""
    git: str | None
    """Of other files: git's object id, the SHA-1 of `blob SIZE`, a zero byte, and the content."""

    @property
    def digest(self) -> str:
        """The checksum; empty if the hub names none."""
        return self.sha256 or self.git or ""

    def matches(self, path: Path) -> bool:
        """Whether the file on disk has this size and checksum."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        if self.sha256:
            return storage.sha256(path) == self.sha256
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == self.git


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    name: str
    commit: str
    files: dict[str, RemoteFile]


class NotReachedError(CheckpointError):
    """The network, rather than the hub, failed."""


class Hub:
    """A hub at an address; None: `$HF_ENDPOINT`, else Hugging Face's.

    Raises ConfigError for anything but a web address.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        try:
            address = urlsplit(self.endpoint)
            known = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        except ValueError:  # a port that is not a number
            known = False
        if not known:
            raise ConfigError(
                f"The endpoint {self.endpoint!r} is not a web address.",
                f"Pass one like {ENDPOINT} as `endpoint`, or set HF_ENDPOINT.",
                setting="endpoint",
            )

    def repository(self, name: str, revision: str | None) -> Repository:
        """The files of the repository `owner/name` at a branch, tag or commit (None: its main branch).

        Raises CheckpointError: not found, not allowed, no network, or an answer that is not a hub's.
        """
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError

        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with self._explaining_errors(name, revision):
            try:
                api = HfApi(self.endpoint, **_CLIENT)
                info = api.model_info(name, revision=revision, files_metadata=True, timeout=timeout, token=_token())
                files = {file.rfilename: _remote(file) for file in info.siblings or ()}
                if not files or not info.sha:
                    raise KeyError("siblings")
            except HfHubHTTPError:
                raise  # some of them are ValueErrors too
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise CheckpointError(
                    f"{self.endpoint} answers, but not as a hub of models does ({type(error).__name__}).",
                    "Check the address (`endpoint`, HF_ENDPOINT), and whether a proxy or a log-in page of the network "
                    "stands in between.",
                ) from None
        return Repository(info.id, info.sha, files)

    def fetch(self, repository: Repository, file: RemoteFile, part: Path, on_bytes: Callable[[int], None]) -> None:
        """Append to `part` the bytes of a file that it lacks, and resume after a lost connection.

        Args:
            part: the first bytes of the file; it may be missing.
            on_bytes: called with the size of `part` after each piece.

        Raises:
            CheckpointError: the hub refuses, or the connection was lost too often. `part` stays.
            OSError: the disk refuses. `part` stays.
        """
        from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the base of all errors in HTTP and below it

        part.touch()
        if part.stat().st_size > file.bytes:
            part.write_bytes(b"")
        fruitless = 0
        with self._explaining_errors(repository.name, repository.commit):
            while (have := part.stat().st_size) < file.bytes:
                try:
                    self._append(repository, file, part, on_bytes)
                except HTTPError as error:
                    refused = isinstance(error, HfHubHTTPError) and error.response.status_code not in _BUSY
                    if refused or fruitless == PATIENCE:
                        raise
                fruitless = 0 if part.stat().st_size > have else fruitless + 1
                if fruitless > PATIENCE:
                    raise CheckpointError(
                        f"{self.endpoint} sends {file.name} of {repository.name} only up to byte {have:,} of "
                        f"{file.bytes:,}.",
                        "The same command resumes there; try again later, or another `endpoint`.",
                    )
                if part.stat().st_size < file.bytes:
                    time.sleep(PAUSE * 2**fruitless)

    def _append(self, repository: Repository, file: RemoteFile, part: Path, on_bytes: Callable[[int], None]) -> None:
        """One request for all bytes that `part` lacks."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        have = part.stat().st_size
        url = hf_hub_url(repository.name, file.name, revision=repository.commit, endpoint=self.endpoint)
        # Compressed in transit, a file could not be resumed at a byte.
        wanted = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        headers = build_hf_headers(headers=wanted, token=_token(), **_CLIENT)
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            resumes = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if response.status_code == 416 or (response.status_code == 206 and not resumes):
                part.write_bytes(b"")  # the hub does not have such a rest: begin again
                return
            hf_raise_for_status(response)
            with part.open("ab" if response.status_code == 206 else "wb") as out:
                for piece in response.iter_bytes():
                    out.write(piece)
                    on_bytes(out.tell())
                    if out.tell() > file.bytes:
                        return  # the checksum will differ

    @contextmanager
    def _explaining_errors(self, repository: str, revision: str | None) -> Iterator[None]:
        """Turn an error of huggingface_hub in the block into a CheckpointError."""
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
                f"Check the network (and HTTPS_PROXY), or name a mirror as `endpoint`. {KEPT}",
            ) from None

    def _refused(self, error: Any, repository: str, revision: str | None) -> CheckpointError:
        """The error for an answer of 400 or more."""
        from huggingface_hub import errors

        status, page = error.response.status_code, f"{self.endpoint}/{repository}"
        token = "HF_TOKEN" if _token() is None else "the token in use (HF_TOKEN, or that of `hf auth login`)"
        invalid = error.response.headers.get("X-Error-Message", "").startswith("Invalid credentials")
        answers = (
            (isinstance(error, errors.GatedRepoError),
             f"{repository} is gated: only those who have accepted its conditions may fetch it.",
             f"Accept them at {page}, and set HF_TOKEN to a token of that account."),
            (isinstance(error, errors.RevisionNotFoundError),
             f"{repository} does not have the revision {revision!r}.",
             f"Leave `revision` out, or name a branch, tag or commit that {page}/commits shows."),
            (invalid,
             f"{self.endpoint} does not accept {token} (HTTP {status}).",
             "Renew it, or unset it: public models need no token."),
            (isinstance(error, errors.RepositoryNotFoundError) or status == 401,
             f"{self.endpoint} does not have a model {repository}, or hides it from you (HTTP {status}).",
             f"Check the name. If the model is private, check {token}."),
            (status == 403,
             f"{self.endpoint} does not let you have {repository} (HTTP {status}).", f"Check what {token} permits."),
            (status in _BUSY,
             f"{self.endpoint} cannot serve {repository} now (HTTP {status}).", f"Wait a while. {KEPT}"),
            (True, f"{self.endpoint} refuses a file of {repository} (HTTP {status}).",
             "Try later, or another `endpoint`."),
        )  # fmt: skip
        return next(CheckpointError(problem, remedy) for applies, problem, remedy in answers if applies)


KEPT = "What was fetched is kept: the same command resumes."


def _token() -> str | None:
    """The user's token, as huggingface_hub finds it: `$HF_TOKEN`, or that of a log-in.

    Raises ConfigError for characters that cannot be sent.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_token

    # Else every request's headers begin with a request of their own to huggingface.co, whatever the endpoint.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(
            "The token for the hub (HF_TOKEN, or that of `hf auth login`) has characters that tokens never have.",
            "Copy it again; it begins with hf_.",
        )
    return token


def _remote(sibling: Any) -> RemoteFile:
    if sibling.lfs is not None:
        return RemoteFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256, None)
    return RemoteFile(sibling.rfilename, sibling.size or 0, None, None if sibling.size is None else sibling.blob_id)
