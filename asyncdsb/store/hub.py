"""Weights on the Hugging Face Hub: upload in one commit, download, errors in one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from asyncdsb.store.card import CARD
from asyncdsb.store.checkpoint import KINDS

FILES = tuple(f"{kind}.{end}" for kind in KINDS for end in ("json", "safetensors"))
"""Names of the files that make up a folder of weights."""

LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
"""Errors of the local disk, which holds the Hub's cache."""

LOG_IN = "log in with `hf auth login`"


def download(repo: str, revision: str | None = None) -> Path:
    """Fetch weights "user/repo" from the Hub, or from its cache when offline; return their folder.

    ValueError if the repository cannot be read, or holds no such weights.
    """
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    with _refusals(f"weights not found: there is no folder {repo!r}, and", repo, revision):
        silence: Exception | None = None
        # snapshot_download asks for the commit without a timeout, so a Hub, or a proxy on the way,
        # that accepts the request and is silent is found here. It meets all other errors again.
        try:
            HfApi().repo_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception as error:
            silence = error if _timed_out(error) else None
        try:
            cached = silence is not None
            found = snapshot_download(
                repo, revision=revision, allow_patterns=[*FILES, CARD], local_files_only=cached
            )
        except errors.LocalEntryNotFoundError:
            if silence is not None:
                raise silence from None
            raise
    folder = Path(found)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ValueError(
            f"weights not found: the repository {repo!r} has no {', '.join(missing)} at revision "
            f"{revision or 'main'}: expected what push_to_hub writes"
        )
    return folder


def upload(folder: Path, repo: str, message: str, private: bool) -> str:
    """Upload a folder of weights and its card; see :meth:`AsyncDSBPipeline.push_to_hub`."""
    from huggingface_hub import CommitOperationAdd, HfApi

    files = [CommitOperationAdd(name, folder / name) for name in (CARD, *FILES)]
    api = HfApi()
    with _refusals(f"cannot upload to {repo!r}:", repo, None):
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.create_commit(repo, files, commit_message=message).commit_url)


def _timed_out(error: BaseException) -> bool:
    """By name, because the client's HTTP library has changed between versions."""
    return type(error).__name__.endswith("Timeout")


@contextmanager
def _refusals(told: str, repo: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the Hub's client into a ValueError of one line that says what to do."""
    from huggingface_hub import constants, errors

    # The base of all errors of the client's HTTP library, which has changed between versions.
    http_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    # Of a proxy that is no address; not one of the former.
    library = import_module(http_error.__module__.partition(".")[0])
    bad_address: type[Exception] = getattr(library, "InvalidURL", http_error)
    try:
        yield
    # The last four can come from a proxy that the client cannot use.
    except (
        http_error, errors.HFValidationError, OSError, ImportError, ValueError, bad_address
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno in LOCAL:
            where = f": {error.filename}" if error.filename else ""
            raise ValueError(f"{told} {error.strerror}{where}") from error
        # The client wraps the Hub's answer if it looked into its cache afterwards.
        answers = [getattr(e, "response", None) for e in (error, error.__cause__)]
        status = next((answer.status_code for answer in answers if answer is not None), None)
        if isinstance(error, errors.HFValidationError):
            why = "this is no name of a repository on the Hugging Face Hub: expected user/repo"
        elif isinstance(error, errors.GatedRepoError):
            page = f"{constants.ENDPOINT}/{repo}"
            why = f"the repository is gated: ask for access at {page}, then {LOG_IN}"
        elif isinstance(error, errors.RepositoryNotFoundError):
            why = f"no such repository on the Hugging Face Hub: check its name, or {LOG_IN}"
        elif isinstance(error, errors.RevisionNotFoundError):
            why = f"the repository has no revision {revision!r}: expected a branch, tag or commit"
        elif constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set: unset it to reach the Hugging Face Hub"
        elif not isinstance(error, (OSError, http_error)):
            if not isinstance(error, bad_address) and "proxy" not in str(error).lower():
                raise
            why = f"the proxy of this machine cannot be used: {' '.join(str(error).split())}"
        elif status is None:
            way = _proxy_to(constants.ENDPOINT)
            failed = f"cannot be reached{way} ({type(error.__cause__ or error).__name__})"
            if _timed_out(error):
                failed = f"does not answer within {constants.HF_HUB_ETAG_TIMEOUT} s{way}"
            why = f"the Hub at {constants.ENDPOINT} {failed}: check the connection"
        elif status in (401, 403):
            why = f"the Hub does not allow it: {LOG_IN} and a token that may do this"
        else:
            why = f"the Hub answers with status {status}: try again later"
        raise ValueError(f"{told} {why}") from error


def _proxy_to(address: str) -> str:
    """What tells of the proxy to an address, without the name and password that it may hold."""
    place, found = urlsplit(address), getproxies()
    proxy = found.get(place.scheme) or found.get("all")
    if not proxy or proxy_bypass(place.hostname or ""):
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]}"
