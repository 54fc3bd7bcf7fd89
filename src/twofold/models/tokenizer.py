"""Text to token ids and back, by the `tokenizers` library, and text that streams out as ids come in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend

from twofold.models.chat import ChatTemplate
from twofold.models.control_text import ControlTokens

if TYPE_CHECKING:
    from twofold.models.tensors import Tokenizer
from twofold.models.token_bytes import TokenBytes

_REPLACEMENT = "\ufffd"  # what undecodable bytes, such as the first half of a character, decode to


class TextTokenizer:
    """A model's tokenizer (see protocol `models.tensors.Tokenizer`).

    eos_ids: ids that end a text; bos_id: the id that begins one (None where the model has none); special:
    strings that chat templates name (bos_token, eos_token …).
    """

    def __init__(
        self,
        backend: Backend,
        *,
        eos_ids: Iterable[int] = (),
        bos_id: int | None = None,
        chat_template: str | None = None,
        special: Mapping[str, str] | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._lock = threading.Lock()  # whether control tokens are parsed is a switch on the shared backend
        self.eos_ids = frozenset(eos_ids)
        self.bos_id = bos_id
        self._control = ControlTokens(backend.get_added_tokens_decoder())
        self._template = None if chat_template is None else ChatTemplate(chat_template, special or {})

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, special: bool = True, leading: bool | None = None) -> list[int]:
        """Token ids of `text`.

        With `special`, the model's own leading tokens are added (unless `leading` says otherwise) and control
        tokens in the text are parsed; a text that already begins with the leading token (chat templates write
        it) does not get it twice. Without, all is plain text.
        """
        add = special if leading is None else leading
        with self._lock:
            self._backend.encode_special_tokens = not special
            ids: list[int] = self._backend.encode(text, add_special_tokens=add).ids
        if self.bos_id is not None and ids[:2] == [self.bos_id, self.bos_id]:
            del ids[0]
        return ids

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; undecodable bytes become U+FFFD."""
        return str(self._backend.decode(ids, skip_special_tokens=skip_special))

    def to_json(self) -> str:
        """The tokenizer in the format of the library `tokenizers` (what a tokenizer.json holds)."""
        return str(self._backend.to_str())

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """The bytes of each token, by id."""
        return TokenBytes(self._backend)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generate: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The chat template applied to `messages` and `tools` (see `ChatTemplate.render`); ValueError where
        the model has none or it refuses them."""
        if self._template is None:
            raise ValueError(
                "this model has no chat template: it is not made for chat; give it plain text instead"
            )
        return self._template.render(messages, generate=generate, tools=tools)

    def writes_tools(self, marker: str) -> bool:
        """Whether the chat template describes tools itself, with calls that begin with `marker`."""
        return self._template is not None and self._template.writes_tools(marker)

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generate: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of `chat`. Control tokens are those that the template writes; what looks like one within
        a message or tool is plain text, so that no message can end its turn or begin another."""
        if not self._control.spelled_in([messages, tools]):
            return self.encode(self.chat(messages, generate=generate, tools=tools))
        (messages, tools), stands_for = self._control.hide([messages, tools])
        put_back = str.maketrans(stands_for)
        ids = self.encode("")
        for part in self._control.cut(self.chat(messages, generate=generate, tools=tools)):
            if isinstance(part, int):
                ids += [] if ids == [part] == [self.bos_id] else [part]
            else:
                ids += self.encode(part.translate(put_back), special=False)
        return ids


class Detokenizer:
    """Turns ids into text piece by piece; a piece never ends within a character.

    The pieces of `add`, followed by `flush`, join to the decoded text of all ids (where those spell valid
    UTF-8).
    """

    # A character takes at most four bytes, so at most four ids; where more bring no text, they spell none.
    _MAX_STALL = 16

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer, self._skip_special = tokenizer, skip_special
        self._window: list[int] = []  # the ids that are held back, and those given out last, for context
        self._since_whole = 0  # ids since the text last ended with a whole character
        self._since_piece = 0  # ids since text was last given out
        self._sent = 0  # characters of the window's text that were given out

    def _text(self) -> str:
        return self._tokenizer.decode(self._window, skip_special=self._skip_special)

    def add(self, ids: list[int]) -> str:
        """The text that `ids` complete; empty where they end within the character they began."""
        return "".join([self._add(number) for number in ids])

    def _add(self, number: int) -> str:
        self._window.append(number)
        self._since_whole += 1
        self._since_piece += 1
        text = self._text()
        stable = text if self._since_piece > self._MAX_STALL else text.rstrip(_REPLACEMENT)
        piece, self._sent = stable[self._sent :], max(self._sent, len(stable))
        if piece:
            self._since_piece = 0
        if len(stable) == len(text):
            if piece:
                # Decoding depends on what stands before (a leading space is dropped, bytes join to
                # characters), so the ids of this piece stay as context.
                self._window = self._window[-self._since_whole :]
                self._sent = len(self._text())
            self._since_whole = 0
        return piece

    def flush(self) -> str:
        """Whatever is still held back, as it decodes now; call it once, at the end."""
        text = self._text()
        piece, self._sent = text[self._sent :], len(text)
        return piece


def hf_tokenizer(directory: Path, eos_ids: Iterable[int]) -> TextTokenizer | None:
    """The tokenizer of a Hugging Face directory, None where there is no tokenizer.json.

    The chat template is that of chat_template.jinja or tokenizer_config.json. Raises ValueError for damaged
    files.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path}: not a readable tokenizer ({error})") from None
    config: dict[str, Any] = {}
    if (config_path := directory / "tokenizer_config.json").is_file():
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{config_path}: not valid JSON ({error})") from None
    special = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = config.get(name)
        if isinstance(value, dict):  # a token with its settings
            value = value.get("content")
        if isinstance(value, str):
            special[name] = value
    ends = set(eos_ids)
    if "eos_token" in special and (end := backend.token_to_id(special["eos_token"])) is not None:
        ends.add(end)
    return TextTokenizer(
        backend,
        eos_ids=ends,
        bos_id=backend.token_to_id(special["bos_token"]) if "bos_token" in special else None,
        chat_template=_chat_template(directory, config),
        special=special,
    )


def _chat_template(directory: Path, config: Mapping[str, Any]) -> str | None:
    if (path := directory / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {t["name"]: t["template"] for t in template}.get("default")
    return template if isinstance(template, str) else None
