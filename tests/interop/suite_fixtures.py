"""What the tests of python-binary-memcached ask their runner for: a server with SASL."""

import os

import pytest


@pytest.fixture(scope="session")
def memcached_sasl():
    """Port, user, password."""
    port, user, password = os.environ["SASL_SERVER"].split()
    return int(port), user, password
