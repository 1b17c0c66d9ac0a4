"""The one way in which a benchmark may fail to run without being wrong."""


class BenchmarkUnavailable(Exception):
    """What the benchmark needs cannot be had here; the message says what."""
