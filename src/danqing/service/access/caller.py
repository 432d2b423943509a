"""The caller of a request: a key and what it allows, or anyone on this machine."""

from dataclasses import dataclass, field
from typing import Literal

from danqing.service.access.accounts import Account
from danqing.service.errors import ApiError
from danqing.service.settings import TRAINED

Right = Literal["generate", "edit", "recognize", "judge", "train", "admin", "metrics"]
RIGHTS: tuple[Right, ...] = ("generate", "edit", "recognize", "judge", "train", "admin", "metrics")
"""The scopes of keys; "admin" includes all others."""

_MISSING = "This service needs a key: send the header Authorization: Bearer KEY."


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request.

    key_id: None if the service has no keys, and callers on this machine may do everything.
    scopes: what the key allows (RIGHTS).
    models: names of the models that it may use; None for all.
    account: its rate limit and quota.
    """

    key_id: str | None
    name: str
    scopes: frozenset[str]
    models: frozenset[str] | None = None
    account: Account = field(default_factory=Account, repr=False, compare=False)

    @property
    def owner(self) -> str:
        """Return the id of the key, "" without one.

        The id owns the caller's work and jobs.
        """
        return self.key_id or ""

    def may(self, scope: Right) -> bool:
        """Return whether the key has this scope."""
        return scope in self.scopes or "admin" in self.scopes

    def require(self, scope: Right) -> None:
        """Raise ApiError 403 if the key lacks a scope."""
        if not self.may(scope):
            has = ", ".join(sorted(self.scopes)) or "none"
            raise ApiError(
                403, f"This key lacks the scope {scope}: it has {has}.", code="insufficient_permissions"
            )

    def may_use(self, model: str) -> bool:
        """Return whether the key may use a model.

        `model` is its name, not an alias. A model that was trained here is for its owner and administrators.
        """
        if model.startswith(TRAINED):
            return model.partition("@")[2] == self.owner or "admin" in self.scopes
        return self.models is None or model in self.models

    def permit(self, model: str) -> None:
        """Raise ApiError 403 if the key may not use this model."""
        if not self.may_use(model):
            allowed = ", ".join(sorted(self.models or ())) or "none"
            raise ApiError(
                403,
                f"This key may not use {model}: it may use {allowed}.",
                param="model",
                code="model_not_found",
            )


LOCAL = Caller(None, "local", frozenset(RIGHTS))
"""Any caller on the loopback of a service that has no keys."""


def missing_key() -> ApiError:
    """Return the error for a request without a key."""
    return ApiError(401, _MISSING, code="missing_api_key", headers={"www-authenticate": "Bearer"})
