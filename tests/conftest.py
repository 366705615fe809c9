"""What holds for every test: time is never what fails one. And the mint, for every test that needs certificates."""

import pytest
from hypothesis import settings

settings.register_profile("edgemesh", deadline=None)
settings.load_profile("edgemesh")


@pytest.fixture(scope="session")
def mint():
    """mint.ca(), mint.credentials(spiffe, ...), mint.trust(ca, ...): tests/mint.py."""
    from tests.mint import Mint  # cryptography is not for tests that need no certificate

    return Mint()
