"""Checks of where a picture comes from: the fields of requests and answers."""

import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from danqing.service.requests.schemas import Reference
from danqing.trust.credentials import TERMS
from danqing.trust.verify import Check, Outcome, Provenance, Verdict

_STATES = Literal["trusted", "valid", "invalid", "not_present"]


class ProvenanceRequest(BaseModel):
    """The JSON body of POST /v1/content_provenance_checks.

    A form has the picture as `file` instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: Reference = Field(description="The picture.")


class Signal(BaseModel):
    """What one kind of mark says.

    type: `c2pa` for Content Credentials, `watermark`, `registry`, or `labels` for metadata labels.
    """

    type: Literal["c2pa", "watermark", "registry", "labels"]
    outcome: Literal["detected", "not_detected"]
    validation_state: _STATES | None = Field(None, description="Of `c2pa` alone.")
    issuer: str | None = Field(None, description="Who signed the Content Credentials.")
    model: str | None = Field(None, description="As the signed credentials name it.")
    generated_at: str | None = Field(None, description="As the signed credentials say.")
    detail: str | None = None


class NamedCheck(BaseModel):
    """One check of a picture."""

    name: str
    outcome: Outcome
    detail: str


class ProvenanceCheck(BaseModel):
    """The answer, with the fields of the OpenAI API and three more."""

    object: Literal["content_provenance_check"] = "content_provenance_check"
    created_at: int
    verdict: Verdict = Field(description="Whether the picture comes from this service.")
    summary: str
    results: list[Signal]
    checks: list[NamedCheck]


def describe(found: Provenance) -> ProvenanceCheck:
    """Return the answer for what was found."""
    checks = {check.name: check for check in found.checks}
    signals = [_credentials(found)]
    for kind in ("watermark", "registry", "labels"):
        check = checks.get(kind)
        is_there = check is not None and check.outcome is Outcome.PASSED
        detail = None if check is None else _detail(check) or None
        signals.append(Signal(type=kind, outcome=_outcome(is_there), detail=detail))
    return ProvenanceCheck(
        created_at=int(time.time()),
        verdict=found.verdict,
        summary=found.summary,
        results=signals,
        checks=[NamedCheck(name=one.name, outcome=one.outcome, detail=_detail(one)) for one in found.checks],
    )


def _detail(check: Check) -> str:
    """Return what clients may know; why a check was skipped can name files of the server."""
    return "" if check.outcome is Outcome.SKIPPED else check.detail


def _credentials(found: Provenance) -> Signal:
    state, action = _state(found), _action(found.manifest)
    terms = _mapping(_mapping(action.get("parameters")).get(TERMS))
    return Signal(
        type="c2pa",
        outcome=_outcome(state != "not_present"),
        validation_state=state,
        issuer=_text(_mapping(found.manifest.get("signature_info")).get("issuer")),
        model=_text(terms.get("model")),
        generated_at=_text(action.get("when")),
    )


def _state(found: Provenance) -> _STATES:
    outcomes = {check.name: check.outcome for check in found.checks}
    if Outcome.FAILED in (outcomes.get("signature"), outcomes.get("content")):
        return "invalid"
    if outcomes.get("signature") is not Outcome.PASSED:
        return "not_present"
    return "trusted" if outcomes.get("certificate") is Outcome.PASSED else "valid"


def _action(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the action that made the picture; anyone may have written it."""
    assertions = manifest.get("assertions")
    for assertion in assertions if isinstance(assertions, list) else ():
        actions = _mapping(_mapping(assertion).get("data")).get("actions")
        for action in actions if isinstance(actions, list) else ():
            if _mapping(action).get("action") in ("c2pa.created", "c2pa.edited"):
                return _mapping(action)
    return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value[:500] if isinstance(value, str) else None


def _outcome(is_there: bool) -> Literal["detected", "not_detected"]:
    return "detected" if is_there else "not_detected"
