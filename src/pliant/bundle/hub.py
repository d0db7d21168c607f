"""Models from the Hugging Face hub (extra `hub`), into pliant's home folder.

HF_ENDPOINT, HF_TOKEN (or `hf auth login`) and HF_HUB_OFFLINE count as they do for other programs.
huggingface_hub keeps no part of a file whose transfer was interrupted; here it is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pliant.bundle.architecture import Architecture
from pliant.bundle.bundle import Bundle
from pliant.bundle.gguf import GgufFile
from pliant.bundle.manifest import is_file_name
from pliant.bundle.plan import Level, Plan
from pliant.bundle.write import refuse_foreign, write_bundle
from pliant.errors import BundleError, HubError, MissingExtraError
from pliant.paths import home_folder

DEFAULT_ENDPOINT = "https://huggingface.co"
# Written when everything is there; a folder without it is an interrupted download.
_RECORD_FILE = "pliant-pull.json"
_CHECKPOINT_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class _File:
    """`digest` is the content's sha256, or git's sha1 of a blob for small files."""

    name: str
    nbytes: int
    digest: str


@dataclass(frozen=True)
class _Revision:
    """What a revision of a repository stands for now."""

    repository: str
    commit: str
    files: tuple[_File, ...]

    def record(self) -> dict[str, Any]:
        return {"repository": self.repository, "commit": self.commit}

    def named(self, pattern: str) -> str:
        """What to say of files that may have been meant."""
        names = sorted(file.name for file in self.files if fnmatch(file.name, pattern))
        return f"; it has {', '.join(names)}" if names else ""


def is_repository(name: str) -> bool:
    """Whether `name` looks like ORG/MODEL."""
    return _REPOSITORY.fullmatch(name) is not None and ".." not in name


def pulled_checkpoint(repository: str) -> Path | None:
    """The folder of a checkpoint that was pulled as a whole before."""
    folder = _checkpoint_folder(repository)
    return folder if (folder / _RECORD_FILE).is_file() else None


def pull_checkpoint(repository: str, revision: str | None = None) -> Path:
    """Downloads what `pliant elastify` needs of ORG/MODEL; returns the folder.

    What is there already is not transferred again. Raises HubError if the hub cannot be reached,
    has no such model, or sends something else; MissingExtraError without huggingface_hub.
    """
    found = _look_up(repository, revision)
    # Some repositories hold the same weights again, in folders.
    wanted = [file for file in found.files if "/" not in file.name and _is_needed(file.name)]
    if not any(file.name.endswith(".safetensors") for file in wanted):
        raise HubError(f"{repository} has no .safetensors weights{found.named('*.gguf')}")
    folder = _checkpoint_folder(repository)
    with _explained(repository, revision):
        # A record of another revision must not vouch for a mixture.
        (folder / _RECORD_FILE).unlink(missing_ok=True)
        _download(found, wanted, folder)
        (folder / _RECORD_FILE).write_text(json.dumps(found.record()), encoding="utf-8")
    return folder


def pull_gguf(
    repository: str, file: str, *, revision: str | None = None, name: str | None = None
) -> Bundle:
    """Downloads one GGUF file and installs it as the bundle `name` (default: as the file).

    Raises HubError as `pull_checkpoint` does, BundleError if pliant cannot run the file.
    """
    name = Path(file).stem if name is None else name
    if not is_file_name(name):
        raise BundleError(f"{name!r} cannot name a bundle: give another one with --name")
    folder = home_folder() / "bundles" / name
    refuse_foreign(folder)
    found = _look_up(repository, revision)
    wanted = [one for one in found.files if one.name == file]
    if not wanted:
        raise HubError(f"{repository} has no file {file!r}{found.named('*.gguf')}")
    downloads = home_folder() / "downloads" / repository
    with _explained(repository, revision):
        (path,) = _download(found, wanted, downloads)
    try:
        architecture = Architecture.from_gguf(GgufFile.open(path))
        full = Level(ratio=1.0, plan=Plan.full(architecture), cost=1.0)
        return write_bundle(folder, path, [full], {"source": {**found.record(), "file": file}})
    finally:
        # Either the bundle has a copy, or nothing can be done with it.
        path.unlink(missing_ok=True)


def _is_needed(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _CHECKPOINT_FILES)


def _checkpoint_folder(repository: str) -> Path:
    return home_folder() / "checkpoints" / repository


def _look_up(repository: str, revision: str | None) -> _Revision:
    if not is_repository(repository):
        raise HubError(f"{repository!r} is not the name of a model: it must be ORG/MODEL")
    hub = _hub()
    with _explained(repository, revision):
        info = hub.HfApi(endpoint=_endpoint()).model_info(
            repository, revision=revision, files_metadata=True
        )
    files = tuple(
        _File(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else str(one.blob_id))
        for one in info.siblings or ()
    )
    return _Revision(repository, str(info.sha), files)


def _download(found: _Revision, files: Iterable[_File], folder: Path) -> list[Path]:
    """Whole and checked, or not there: what is not finished is called `.<digest>.part`."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not _is_there(folder / Path(file.name).name, file)]
    needed, free = sum(file.nbytes for file in missing), shutil.disk_usage(folder).free
    if needed > free:
        raise HubError(f"{found.repository} takes {needed} bytes, but {folder} has {free} left")
    for file in missing:
        _transfer(found, file, folder)
    return [folder / Path(file.name).name for file in files]


def _transfer(found: _Revision, file: _File, folder: Path) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    part = folder / f".{hashlib.sha256(file.digest.encode()).hexdigest()[:16]}.part"
    url = _hub().hf_hub_url(
        found.repository, file.name, revision=found.commit, endpoint=_endpoint()
    )
    with part.open("ab") as target:
        if target.tell() < file.nbytes:
            http_get(
                url,
                target,
                resume_size=target.tell(),
                headers=build_hf_headers(),
                expected_size=file.nbytes,
                displayed_filename=file.name,
            )
        target.flush()
        os.fsync(target.fileno())
    if not _is_there(part, file):
        part.unlink()
        raise HubError(f"{file.name} of {found.repository} came damaged: run the command again")
    part.replace(folder / Path(file.name).name)


def _is_there(path: Path, file: _File) -> bool:
    """Whether `path` holds exactly what the hub has."""
    if not path.is_file() or path.stat().st_size != file.nbytes:
        return False
    is_sha256 = len(file.digest) == 64
    hasher = hashlib.sha256() if is_sha256 else hashlib.sha1(b"blob %d\0" % file.nbytes)
    with path.open("rb") as content:
        while chunk := content.read(_READ_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest() == file.digest


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT


def _hub() -> Any:
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars, logging
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"downloading models needs {error.name}: pip install 'pliant[hub]'"
        ) from error
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    return huggingface_hub


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """huggingface_hub's errors as one sentence."""
    from huggingface_hub import errors

    endpoint = _endpoint()
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repository} asks you to accept its terms: do so at {endpoint}/{repository}, then "
            "set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{endpoint} has no model {repository}, or it is private: check the name, or set "
            "HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repository} has no revision {revision!r}") from error
    except errors.HfHubHTTPError as error:
        raise HubError(f"{endpoint} answered: {_first_line(error)}") from error
    except (errors.HTTPError, errors.OfflineModeIsEnabled) as error:
        raise HubError(
            f"{endpoint} cannot be reached ({_first_line(error)}): connect and run the command "
            "again, it goes on where it stopped"
        ) from error
    except OSError as error:
        raise HubError(f"{repository} cannot be stored: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
