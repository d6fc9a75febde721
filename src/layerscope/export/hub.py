"""Upload a verified folder to a model hub, by huggingface_hub.

What can be refused is refused before the work that makes the folder: the token, and a repository of
another visibility or with other files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from layerscope.config import Flag, checked
from layerscope.data.files import write_atomically
from layerscope.errors import InputError, LayerscopeError, RunError
from layerscope.export.card import CARD
from layerscope.export.formats import ONNX_FILE, RECORD
from layerscope.settings import HubConfig, RepositoryName
from layerscope.states.extract import Progress

_OWN_FILES: Final = {".gitattributes"}  # that a hub puts into a new repository


@dataclass(frozen=True)
class Upload:
    """An upload to a repository.

    Attributes:
        name: of the repository, like org/name.
        private: whether it is private.
        overwrite: whether a model that layerscope uploaded there may be replaced.
    """

    name: str
    private: bool = True
    overwrite: bool = False

    def check(self) -> None:
        """Refuse what can be refused before there is anything to upload.

        Raises:
            InputError: no hub is to be used, the token cannot write there, or the repository holds
                something or is not as private as asked for.
            RunError: the hub does not answer.
        """
        from huggingface_hub import HfApi, is_offline_mode

        if is_offline_mode():
            raise InputError(
                "an upload needs the hub, but HF_HUB_OFFLINE is set; unset it, or leave the upload out."
            )
        with _explained(self.name):
            self._refuse_token(HfApi().whoami())
            self._refuse_repository(_existing(self.name))

    def send(self, folder: Path) -> str:
        """Upload a folder and return the address of the repository.

        Raises:
            InputError: as `check`; or the folder is not one that was verified.
            RunError: the hub does not answer.
        """
        from huggingface_hub import HfApi

        _refuse_unverified(folder)
        self.check()  # the repository may have changed since
        api = HfApi()
        with _explained(self.name, self._by_hand(folder)), _card_for(folder, self.name):
            address = api.create_repo(self.name, private=self.private, exist_ok=True)
            api.upload_folder(
                repo_id=self.name,
                folder_path=folder,
                commit_message="Upload a model made by layerscope",
                delete_patterns="*" if self.overwrite else None,
            )
        return str(address)

    def sent(self, folder: Path, progress: Progress) -> str:
        """Do the same, and report it as a stage of a command."""
        progress("uploading", 0, 1)
        address = self.send(folder)
        progress("uploading", 1, 1)
        return address

    def _by_hand(self, folder: Path) -> str:
        """Return what to say where the work is done and the upload failed."""
        option = " --private" if self.private else ""
        return (
            f" The model is complete in {str(folder)!r}; upload it later by: hf upload {self.name} "
            f"{folder}{option}"
        )

    def _refuse_token(self, user: dict[str, Any]) -> None:
        owner, own = self.name.split("/")[0], str(user.get("name"))
        role = user.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise InputError(
                f"the token of {own!r} may only read; set HF_TOKEN to one that may write to "
                f"{self.name!r}."
            )
        known = [own, *(str(each.get("name")) for each in user.get("orgs", ()))]
        if role == "write" and owner not in known:  # a fine-grained token does not list them all
            raise InputError(
                f"{own!r} may not write to {self.name!r}; name a repository of {' or '.join(known)}."
            )

    def _refuse_repository(self, found: Any) -> None:
        if found is None:
            return
        if bool(found.private) != self.private:
            is_now, other = ("private", "--private") if found.private else ("public", "--public")
            raise InputError(
                f"the repository {self.name!r} is {is_now} already; pass {other}, change that on the "
                "hub, or choose another name."
            )
        files = {each.rfilename for each in found.siblings or ()} - _OWN_FILES
        if not files:
            return
        if RECORD not in files:
            raise InputError(
                f"the repository {self.name!r} holds other files; choose a new or empty one."
            )
        if not self.overwrite:
            raise InputError(
                f"the repository {self.name!r} already holds a model that layerscope saved; pass "
                "--overwrite to replace it, or choose another name."
            )


class Uploadable:
    """A result with a saved folder that can be uploaded."""

    shipped: Any

    @checked
    def push_to_hub(
        self, repo: RepositoryName, *, private: Flag = True, overwrite: Flag = False
    ) -> str:
        """Upload the saved folder to a repository of the hub and return its address.

        Args:
            repo: the repository, like "org/name"; it is made if there is none.
            private: whether it is private.
            overwrite: whether a model that layerscope uploaded there may be replaced.

        Raises:
            InputError: nothing was saved, or the hub takes nothing there with this token.
            RunError: the hub does not answer.
        """
        if self.shipped is None:
            raise InputError("expected a saved model to upload, but nothing was saved; pass out=.")
        return Upload(repo, private, overwrite).send(self.shipped.folder)


def upload_of(config: HubConfig, *, overwrite: bool) -> Upload | None:
    """Return the upload that settings ask for, checked; None where they ask for none.

    Raises:
        InputError, RunError: as `Upload.check`.
    """
    if config.push is None:
        return None
    upload = Upload(config.push, config.private, overwrite)
    upload.check()
    return upload


def _existing(name: str) -> Any:
    """Return what a hub says of a repository; None where there is none that the token can see."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return HfApi().model_info(name)
    except RepositoryNotFoundError:
        return None


def _refuse_unverified(folder: Path) -> None:
    record = folder / RECORD
    found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if not found.get("verified"):
        raise InputError(
            f"expected a model that layerscope saved and verified in {str(folder)!r}, found none; save "
            "it again."
        )


@contextmanager
def _card_for(folder: Path, name: str) -> Iterator[None]:
    """Let the card's lines load the model from the hub; undone if the upload fails."""
    path = folder / CARD
    before = path.read_text(encoding="utf-8")
    write_atomically(path, loading_from_hub(before, folder.name, name).encode())
    try:
        yield
    except BaseException:
        write_atomically(path, before.encode())
        raise


def loading_from_hub(card: str, folder: str, name: str) -> str:
    """Return a card whose lines load the model from a repository instead of a folder."""
    file = f'"{folder}/{ONNX_FILE}"'
    if file in card:
        card = card.replace(file, f'hf_hub_download("{name}", "{ONNX_FILE}")')
        card = card.replace(
            "```python\n", "```python\nfrom huggingface_hub import hf_hub_download\n"
        )
    return card.replace(f'"{folder}"', f'"{name}"')


# --- what a hub says, in one sentence ----------------------------------------------------------------


@contextmanager
def _explained(name: str, what_next: str = "") -> Iterator[None]:
    """Turn whatever huggingface_hub raises into an error of one sentence, and what to do next."""
    try:
        yield
    except LayerscopeError:
        raise
    except Exception as error:
        found = _explanation(error, name)
        raise type(found)(f"{found}{what_next}") from error


def _explanation(error: Exception, name: str) -> LayerscopeError:
    from huggingface_hub.errors import LocalTokenNotFoundError

    cause = _cause(error)
    status = getattr(getattr(cause, "response", None), "status_code", None)
    said = [line.strip() for line in str(cause).splitlines() if line.strip()]
    why = f"{type(cause).__name__}: {said[0].rstrip('.') if said else 'nothing more was said'}"
    if isinstance(error, LocalTokenNotFoundError):
        return InputError(
            "no token for the hub was found; log in by `hf auth login`, or set HF_TOKEN to one that may "
            "write."
        )
    if status == 401:
        return InputError(
            "the hub does not accept the token; log in again by `hf auth login`, or set another HF_TOKEN."
        )
    if status == 403:
        return InputError(
            f"the token may not write to {name!r}; name another repository, or set HF_TOKEN to one that "
            "may."
        )
    if status is not None:
        return RunError(f"the hub refused the upload to {name!r} ({why}); try again later.")
    return RunError(
        f"nothing was uploaded to {name!r}: the hub does not answer ({why}); check the network."
    )


def _cause(error: BaseException) -> BaseException:
    """Return the error of the chain that holds the hub's answer, or the first that was raised."""
    while not hasattr(error, "response") and error.__cause__ is not None:
        error = error.__cause__
    return error
