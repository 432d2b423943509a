"""Brings the files of a pipeline from a hub into its cache: only those that are read, and no code."""

from pathlib import Path
from typing import Any

from danqing.errors import ModelError, first_line
from danqing.pipelines.layout import read_index, wanted

ERRORS = (OSError, ValueError)
"""What fetching from the hub, and sending to it, raises: the errors of its client are derived from these."""


def fetch_pipeline(repo_id: str, snapshot: Path, revision: str | None, variant: str) -> Path:
    """Download the files of a pipeline; returns their folder.

    snapshot: the folder in the cache, which has its index already. Without a connection, the files that are
    there are used. Raises ModelError.
    """
    from huggingface_hub import snapshot_download  # takes as long to import as all our modules
    from huggingface_hub.errors import GatedRepoError

    try:
        index = read_index(snapshot, snapshot.parent.parent)
        files = wanted(_listed(repo_id, snapshot, revision), index, variant)
        commit = snapshot.name
        return Path(snapshot_download(repo_id, revision=commit, allow_patterns=files))
    except GatedRepoError as error:
        raise ModelError(gated(repo_id)) from error
    except ERRORS as error:
        raise ModelError(f"The hub did not return all of {repo_id}: {first_line(error)}") from error


def gated(repo_id: str) -> str:
    """Return what to do about a model whose terms must be accepted."""
    from huggingface_hub import constants

    return (
        f"{repo_id} is gated: accept its terms at {constants.ENDPOINT}/{repo_id} and run hf auth login, or "
        "set HF_TOKEN."
    )


def _listed(repo_id: str, snapshot: Path, revision: str | None) -> list[str]:
    """Return the names of all files of a repository, or of those in the cache without a connection."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError

    try:
        return HfApi().list_repo_files(repo_id, revision=revision)
    except GatedRepoError:
        raise
    except Exception:  # whatever the client's own HTTP library raises: what is in the cache may be enough
        return [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]


def licence_of(folder: Path) -> str:
    """Return the licence that a folder's card names, or ""."""
    try:
        head, _, rest = (folder / "README.md").read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return ""
    fields: dict[str, Any] = {}
    if head.strip() == "---":
        for line in rest.partition("\n---")[0].splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith((" ", "-")):
                fields[name.strip()] = value.strip().strip("'\"")
    licence = fields.get("license", "")
    return str(fields.get("license_name") or licence if licence == "other" else licence)[:200]
