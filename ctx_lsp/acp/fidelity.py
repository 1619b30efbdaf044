"""How exact answers are to be, as a session's mode and as its configuration option: the same choice in both forms.

Clients that know options show those, older ones the modes.
"""

from __future__ import annotations

from typing import get_args

from acp import RequestError
from acp.schema import (
    SessionConfigOptionBoolean,
    SessionConfigOptionSelect,
    SessionConfigSelectOption,
    SessionMode,
    SessionModeState,
)

from ctx_lsp.protocol import Fidelity

OPTION = "fidelity"

_DESCRIPTIONS: dict[Fidelity, str] = {
    "auto": "Exact where that costs little time, else from the files as they were computed last",
    "exact": "First compute whatever an edit has made inexact",
    "instant": "Answer at once from what is there",
}


def chosen(value: object) -> Fidelity:
    """Raises RequestError for what is none."""
    fidelity: Fidelity | None = next((known for known in get_args(Fidelity) if known == value), None)
    if fidelity is None:
        raise RequestError.invalid_params({"message": f"there is no {OPTION} {value!r}: {', '.join(_DESCRIPTIONS)}"})
    return fidelity


def modes(current: Fidelity) -> SessionModeState:
    available = [SessionMode(id=id, name=id.title(), description=text) for id, text in _DESCRIPTIONS.items()]
    return SessionModeState(current_mode_id=current, available_modes=available)


def config_options(current: Fidelity) -> list[SessionConfigOptionSelect | SessionConfigOptionBoolean]:
    options = [
        SessionConfigSelectOption(value=id, name=id.title(), description=text) for id, text in _DESCRIPTIONS.items()
    ]
    choice = SessionConfigOptionSelect(
        type="select", id=OPTION, name="Fidelity", category="mode", current_value=current, options=options
    )
    return [choice]
