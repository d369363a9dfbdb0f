"""Without langchain-core 1.8 the decision model's name says which version it needs, and nothing else suffers."""

import sys

import pytest

import routenlp_integrations.langchain as face
from router_core.errors import MissingExtraError


def test_older_core_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the version needed, the version found and the command."""
    monkeypatch.setitem(sys.modules, "langchain_core.decisions", None)
    monkeypatch.delitem(sys.modules, "routenlp_integrations.langchain.decision", raising=False)
    monkeypatch.delitem(vars(face), "RoutingDecisionModel", raising=False)
    with pytest.raises(MissingExtraError) as raised:
        _ = face.RoutingDecisionModel
    told = str(raised.value)
    assert "RoutingDecisionModel, with langchain-core 1.8 or newer (1." in told
    assert told.endswith("pip install 'routenlp[agents]' 'langchain-core>=1.8' 'langchain>=1.5'")
    assert face.RoutingChatModel.__name__ == "RoutingChatModel"
