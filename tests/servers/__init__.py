"""Real servers for the tests: Apache Kafka and Redis, started without Docker.

`python -m tests.servers up` runs both in the foreground for a person; the fixtures in
`tests/conftest.py` run them for pytest.
"""
