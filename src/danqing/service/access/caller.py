"""Who asks: a key and what it allows, or whoever is on this machine."""

from dataclasses import dataclass, field
from typing import Literal

from danqing.service.access.accounts import Account
from danqing.service.errors import ApiError

Right = Literal["generate", "edit", "admin", "metrics"]
RIGHTS: tuple[Right, ...] = ("generate", "edit", "admin", "metrics")
"""What a key may allow: its scopes. "admin" allows all of them."""

_MISSING = "This service asks for a key: send it as the header Authorization: Bearer KEY."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. key_id: None where the service has no keys, and whoever reaches it may do everything.

    scopes: what the key allows (RIGHTS). models: which it may use by their names, None for all.
    """

    key_id: str | None
    name: str
    scopes: frozenset[str]
    models: frozenset[str] | None = None
    account: Account = field(default_factory=Account, repr=False, compare=False)

    @property
    def owner(self) -> str:
        """The key's id where the caller has one, else "": whose work and jobs these are."""
        return self.key_id or ""

    def may(self, scope: Right) -> bool:
        """Whether the key has this scope."""
        return scope in self.scopes or "admin" in self.scopes

    def may_use(self, model: str) -> bool:
        """Whether the key may use this model; `model` is its name, no alias."""
        return self.models is None or model in self.models

    def permit(self, model: str) -> None:
        """Raise ApiError 403 where the key may not use this model."""
        if not self.may_use(model):
            allowed = ", ".join(sorted(self.models or ())) or "none"
            raise ApiError(
                403,
                f"This key may not use {model}: it may use {allowed}.",
                param="model",
                code="model_not_found",
            )


LOCAL = Caller(None, "local", frozenset(RIGHTS))
"""Whoever asks on the loopback of a service that has no keys."""


def missing_key() -> ApiError:
    """What is answered where a key is needed and none is sent."""
    return ApiError(401, _MISSING, code="missing_api_key", headers={"www-authenticate": "Bearer"})
