"""A lane between one caller and one server, for tests of the files of nodeproxy/native."""

import pytest

from tests.nodeproxy.fastpath.test_path import Place


@pytest.fixture
def place():
    made = Place()
    yield made
    made.close()
