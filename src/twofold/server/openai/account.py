"""Fields that chats and responses share and that are about the account, not the answer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from twofold.server.openai.fields import Accepted, Body, Refused

LOGGED = "written to the server's log beside the request's id"
_Key = Annotated[str, Field(max_length=64)]
_Value = Annotated[str, Field(max_length=512)]


class AccountFields(Body):
    """Who asks, what for, and how prompts are cached."""

    metadata: Annotated[
        Annotated[dict[_Key, _Value], Field(max_length=16)] | None,
        Accepted("returned with the whole answer (the chunks of a chat have no place for it), not stored"),
    ] = None
    user: Annotated[str | None, Accepted(LOGGED)] = None
    safety_identifier: Annotated[Annotated[str, Field(max_length=128)] | None, Accepted(LOGGED)] = None
    prompt_cache_key: Annotated[
        str | None, Accepted("equal beginnings of prompts are found by their content, without a key")
    ] = None
    prompt_cache_retention: Annotated[
        Any, Refused("cached prefixes stay in memory until room is needed, without a time", ("in_memory",))
    ] = None
    prompt_cache_options: Annotated[
        Any,
        Refused(
            "every block of a prompt is cached by its content, for no set time", ({}, {"mode": "implicit"})
        ),
    ] = None
    service_tier: Annotated[Any, Refused("there is one tier of service", ("auto", "default"))] = None
