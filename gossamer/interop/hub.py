"""The Hugging Face Hub: fetching an autoencoder through its cache, and pushing one with a model card.

Only weights, configurations and texts are fetched, never programs. Without a network, or with HF_HUB_OFFLINE=1, the
cache answers. `huggingface_hub` comes with `pip install 'gossamer[hf]'`.
"""

from __future__ import annotations

import fnmatch
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.files import save
from gossamer.interop.card import CARD, MARK, model_card

__all__ = ["HUB", "fetch", "fetch_named", "push"]

HUB = "hf:"
"""Before the name of a repository, where a path could stand as well."""

WEIGHTS = ("*.safetensors", "*.npz", "*.pt")
TEXTS = ("*.json", "*.md", "*.yaml", "LICENSE*")
"""What is fetched."""


def fetch_named(name: str) -> Path:
    """Fetch "hf:owner/repo[/folder][@revision]" and return the folder; raises ValueError for another form."""
    where, _, revision = name.removeprefix(HUB).partition("@")
    parts = where.strip("/").split("/")
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"expected hf:owner/repo or hf:owner/repo/folder, got {name!r}")
    return fetch("/".join(parts[:2]), "/".join(parts[2:]), revision=revision or None)


def fetch(repository: str, folder: str = "", *, revision: str | None = None) -> Path:
    """Fetch a folder of a repository into the cache and return where it is.

    Without a folder: the only one that holds weights, so that nothing is fetched that nobody asked for. Raises
    ValueError if there are several (it names them) or none, or if there is no such repository; OSError if the hub
    cannot be reached and the cache has no copy.
    """
    if ".." in PurePosixPath(folder).parts:
        raise ValueError(f"{folder!r} leaves the repository {repository}")
    with _explained(repository):
        from huggingface_hub import snapshot_download

        listed = _listing(repository, revision)
        if listed is None:  # no network: what the cache has
            return Path(snapshot_download(repository, revision=revision, allow_patterns=[])) / folder
        wanted = [name for name in listed if _is_below(name, folder) and _is_wanted(name)]
        folder = folder or _only_folder(wanted, repository)
        wanted = [name for name in wanted if _is_below(name, folder)]
        if not any(_matches(name, WEIGHTS) for name in wanted):
            raise ValueError(f"{repository} has no weights{f' in {folder!r}' if folder else ''}; {_known(listed)}")
        card = [CARD] if CARD in listed else []  # it states the licence
        patterns = [_literal(name) for name in (*wanted, *card)]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns)) / folder


def push(
    saes: Mapping[str, SparseAutoencoder], repository: str, *, private: bool = False, message: str = "Add autoencoders"
) -> str:
    """Push autoencoders and a model card to a repository, which is made if there is none, and return its address.

    saes: by the folder that each shall be in, "" for the repository itself. A README.md that somebody else wrote stays.
    Raises ValueError for no autoencoder or a name that is none, OSError if the hub refuses or cannot be reached.
    """
    if not saes or ("" in saes and len(saes) > 1):
        raise ValueError("give one autoencoder, or several with a folder each")
    with _explained(repository), tempfile.TemporaryDirectory() as temporary:
        from huggingface_hub import HfApi

        api, place = HfApi(), Path(temporary)
        for folder, sae in saes.items():
            save(sae, place / "all" / folder)
        api.create_repo(repository, private=private, exist_ok=True)
        if _card_is_ours(api, repository, place):
            (place / "all" / CARD).write_text(model_card(saes, repository), encoding="utf-8")
        done = api.upload_folder(repo_id=repository, folder_path=place / "all", commit_message=message)
        return str(getattr(done, "repo_url", repository))


def _listing(repository: str, revision: str | None) -> list[str] | None:
    """Return the files of a repository, or None if there is no network."""
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        return huggingface_hub.HfApi().list_repo_files(repository, revision=revision)
    except OfflineModeIsEnabled:
        return None
    except OSError as error:
        if getattr(error, "response", None) is not None:  # somebody answered, and refused
            raise
        return None
    except Exception as error:
        if _is_unreachable(error):
            return None
        raise


def _is_unreachable(error: Exception) -> bool:
    """Say whether this is the network's failure, whichever client the hub's library uses."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectError", "TimeoutException", "TransportError", "ConnectionError", "Timeout"})


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turn what the hub's library raises into what a person can act on."""
    try:
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise ValueError("the hub needs huggingface_hub: pip install 'gossamer[hf]'") from error
    try:
        yield
    except GatedRepoError as error:
        raise ValueError(f"{repository} asks its readers to agree to terms; do so on its page and log in") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ValueError(f"there is no repository or revision {repository} that you may see: {_line(error)}") from error
    except LocalEntryNotFoundError as error:
        raise OSError(f"{repository} is not in the cache, and the hub was not asked or did not answer") from error
    except HfHubHTTPError as error:
        raise OSError(f"the hub refused {repository}: {_line(error)}") from error
    except Exception as error:
        if isinstance(error, ValueError | OSError) or not (_is_unreachable(error) or isinstance(error, RuntimeError)):
            raise
        raise OSError(f"the hub did not answer about {repository}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _card_is_ours(api: Any, repository: str, place: Path) -> bool:
    if not api.file_exists(repository, CARD):
        return True
    found = api.hf_hub_download(repository, CARD, cache_dir=place / "cache")
    return MARK in Path(found).read_text(encoding="utf-8", errors="replace")


def _only_folder(names: Sequence[str], repository: str) -> str:
    folders = sorted({str(PurePosixPath(name).parent) for name in names if _matches(name, WEIGHTS)})
    if len(folders) > 1 and "." not in folders:
        shown = ", ".join(map(repr, folders[:12])) + (", …" if len(folders) > 12 else "")
        raise ValueError(f"{repository} holds {len(folders)} folders with weights; choose one of them: {shown}")
    return "" if not folders or "." in folders else folders[0]


def _is_below(name: str, folder: str) -> bool:
    return not folder or PurePosixPath(name).is_relative_to(folder)


def _is_wanted(name: str) -> bool:
    return _matches(name, (*WEIGHTS, *TEXTS))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(PurePosixPath(name).name, pattern) for pattern in patterns)


def _literal(name: str) -> str:
    """Return a pattern that matches this name only."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _known(names: Sequence[str]) -> str:
    return f"it has {', '.join(sorted(names)[:12]) or 'no files'}"
