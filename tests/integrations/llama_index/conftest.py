"""Fixtures of the LlamaIndex tests: no network, and settings that are put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_socket import disable_socket, enable_socket


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every socket but the event loop's own."""
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()
