"""Repositories on Hugging Face, by the `huggingface_hub` library."""

from __future__ import annotations

import shutil
from pathlib import Path

from twofold.models.registry import HubSource
from twofold.models.transfer import Progress, PullError

# What a model needs; repositories hold copies in other formats beside it.
_PATTERNS = ["*.json", "*.safetensors", "*.jinja"]
_LOCAL_STATE = ".cache"  # where huggingface_hub keeps its notes beside the files


def download_repository(source: HubSource, folder: Path, progress: Progress) -> Path:
    """Fetch the repository into a new folder below `folder`; returns it.

    huggingface_hub draws its own bars; `progress` is told the final size. Raises PullError where the
    repository cannot be reached, does not exist or wants its licence accepted first.
    """
    # Imported here: importing it takes longer than most commands.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    target = folder / "hf"
    try:
        snapshot_download(source.hf, revision=source.revision, allow_patterns=_PATTERNS, local_dir=target)
    except GatedRepoError:
        raise PullError(
            f"accept its licence at https://huggingface.co/{source.hf}, then run `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise PullError("there is no such repository or revision, or it is private") from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        raise PullError("huggingface.co cannot be reached") from None
    except OSError:
        raise  # of the disk
    except (
        Exception
    ) as error:  # the library's transport, which differs from version to version, has its own kinds
        raise PullError(f"huggingface.co cannot be reached ({type(error).__name__})") from None
    shutil.rmtree(target / _LOCAL_STATE, ignore_errors=True)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    progress("download", size, size)
    return target
