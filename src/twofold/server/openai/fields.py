"""What the server does with each field of a request, declared where the field is.

Every field is annotated with Honoured, Accepted or Refused. The documentation is made of that, and a test
holds it against OpenAI's own list of fields. A field that nobody declared is refused as unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from twofold.errors import nearest
from twofold.server.validation import UNKNOWN_FIELD


@dataclass(frozen=True)
class Use:
    """What becomes of a field. note: how, or why."""

    note: str = ""

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The field's own schema, with the note as its description."""
        found = handler(core)
        return {**found, "description": f"{self.note[0].upper()}{self.note[1:]}."} if self.note else found


@dataclass(frozen=True)
class Honoured(Use):
    """It does what OpenAI says it does (or, for a field of ours, what the note says)."""


@dataclass(frozen=True)
class Accepted(Use):
    """It changes no answer, and the note says why what OpenAI promises is kept all the same."""


@dataclass(frozen=True)
class Refused(Use):
    """The server cannot do it and says so, unless the value is null or one of `asks_nothing`."""

    asks_nothing: tuple[Any, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema that refuses."""
        del source, handler
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The values that pass, for the OpenAPI document."""
        del handler
        return {"enum": [None, *self.asks_nothing], "description": f"Refused otherwise: {self.note}."}

    def _check(self, value: Any) -> Any:
        if value is None or any(value == v and type(value) is type(v) for v in self.asks_nothing):
            return value
        fine = " or ".join(["leave it out", *(f"give {json.dumps(v)}" for v in self.asks_nothing)])
        raise PydanticCustomError("unsupported", "{message}", {"message": f"{self.note}; {fine}"})


class Asked(BaseModel):
    """A part of a request: strict types, and no field but the declared ones."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(), populate_by_name=False
    )

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        names = {field.alias or name for name, field in cls.model_fields.items()}
        for name in data:
            if name not in names:
                raise PydanticCustomError(
                    UNKNOWN_FIELD, "unknown field; {hint}", {"field": name, "hint": nearest(str(name), names)}
                )
        return data


class Body(Asked):
    """A whole request."""

    @model_validator(mode="before")
    @classmethod
    def _writable(cls, data: Any) -> Any:
        # Half a surrogate pair, a nesting of thousands: what we could not write ourselves is no request.
        try:
            orjson.dumps(data, default=lambda _: None)
        except orjson.JSONEncodeError as error:
            raise PydanticCustomError(
                "unwritable", "this JSON cannot be used: {why}", {"why": str(error)}
            ) from None
        return data


def uses(model: type[BaseModel]) -> Iterator[tuple[str, Use]]:
    """Each field of `model` as it is called in JSON, with what is declared for it."""
    for name, field in model.model_fields.items():
        declared = [m for m in field.metadata if isinstance(m, Use)]
        assert len(declared) == 1, f"{model.__name__}.{name} declares {len(declared)} uses"
        yield field.alias or name, declared[0]
