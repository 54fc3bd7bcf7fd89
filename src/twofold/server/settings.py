"""ServerSettings: where the server listens, who may ask, and how much."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Limits and access. Bound to loopback, without a key and without CORS unless asked for.

    api_key: clients must send it as a bearer token; cors: origins that browsers may call from; max_body:
    bytes of a request; max_prompt: tokens of a prompt (None: what the model and its cache take); max_queue:
    accepted requests that are not running yet; timeout: seconds from arrival to the end of an answer;
    drain: seconds that running answers get after SIGTERM; replicas: workers, each with the whole model;
    model_name: what clients call the model (None: as the plan does).
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    cors: tuple[str, ...] = ()
    max_body: int = 2 * MIB
    max_prompt: int | None = None
    max_queue: int = 256
    timeout: float = 600.0
    drain: float = 30.0
    replicas: int = 1
    model_name: str | None = None

    def __post_init__(self) -> None:
        def require(ok: bool, name: str, allowed: str) -> None:
            if not ok:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")

        require(0 <= self.port < 65536, "port", "from 0 (any that is free) to 65535")
        require(self.api_key is None or len(self.api_key) >= 1, "api_key", "not empty")
        require(self.max_body >= 1024, "max_body", "at least 1024 bytes")
        require(self.max_prompt is None or self.max_prompt >= 1, "max_prompt", "at least 1 token")
        require(self.max_queue >= 0, "max_queue", "0 or more requests")
        require(self.timeout > 0, "timeout", "above 0 seconds")
        require(self.drain >= 0, "drain", "0 or more seconds")
        require(self.replicas >= 1, "replicas", "at least 1")
