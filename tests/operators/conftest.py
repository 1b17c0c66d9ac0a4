"""What every test of the core starts with: the same ids, whichever tests ran before."""

import pytest

from tests.operators.builders import begin_ids


def pytest_runtest_setup(item: pytest.Item) -> None:  # noqa: ARG001  the hook's signature
    begin_ids()
