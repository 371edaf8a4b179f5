"""Students on the hub: `owner/name` as a folder of this machine, and a folder as a repository.

Three files of a repository are fetched, none of which is code: config, weights, card.
"""

import re
from pathlib import Path

from fpd_core.checkpoints import CARD, CONFIG, WEIGHTS, CheckpointError
from fpd_core.untrusted import shown

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository(name: str | Path) -> bool:
    """Whether `name` is `owner/name` of the hub: text of that form, where no folder here is called `owner`."""
    # Else a mistyped runs/studnet would be asked for on the hub.
    return isinstance(name, str) and bool(_REPOSITORY.fullmatch(name)) and not Path(name).parent.exists()


def local_folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder of an exported student. What was fetched before stays usable without a network.

    Args:
        name: a folder, or (as text, where no folder is called `owner`) a repository `owner/name` of the hub.
        revision: branch, tag or commit of the repository; None is its main branch.

    Raises:
        CheckpointError: no such repository or revision, a licence to accept first, no student in it, or no network.
        ValueError: a revision of a folder.
    """
    if not is_repository(name):
        if revision is not None:
            raise ValueError(f"revision {shown(revision)!r} is of a repository on the hub, and {shown(name)} is none")
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of httpx or httpx2, by its version

    try:
        fetched = snapshot_download(str(name), revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD])
    except (HTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot open {name} of the hub: {_why(str(name), revision, error)}") from None
    if not (Path(fetched) / CONFIG).is_file():
        raise CheckpointError(f"{name} of the hub is no exported student: it holds no {CONFIG}")
    return Path(fetched)


def push_folder(folder: Path, name: str, *, revision: str | None, private: bool | None, message: str) -> str:
    """Upload every file of `folder`; the repository is made where it does not exist. Returns its address.

    Raises:
        CheckpointError: not logged in, not allowed, or no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    hub = HfApi()
    try:
        hub.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(name, branch=revision, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message=message)
    except (HTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot push to {name} of the hub: {_why(name, revision, error)}") from None
    return f"{hub.endpoint}/{name}"


def _why(name: str, revision: str | None, error: Exception) -> str:
    """One sentence: what is wrong, and what helps."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
        error = error.__cause__
    reason = shown(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
    match error:
        case GatedRepoError():
            return f"its licence has to be accepted: open {constants.ENDPOINT}/{name}, accept, and run `hf auth login`"
        case RepositoryNotFoundError():
            return "there is no such folder here and no public repository; for a private one, run `hf auth login`"
        case RevisionNotFoundError():
            return f"it has no revision {shown(str(revision))!r}"
        case HfHubHTTPError():
            return f"the hub refused ({reason})"
        case LocalEntryNotFoundError() | ConnectionError() | TimeoutError():
            return "no connection, and it was not fetched before; if it is a folder, no such folder exists here"
        case PermissionError() | FileNotFoundError():
            return reason
        case _:
            return f"no connection ({reason})"
