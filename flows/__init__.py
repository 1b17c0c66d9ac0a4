"""The imperative shell: wiring, connectors, settings, telemetry and the command line.

Time, chance, the environment, Kafka, Redis and files are known here and nowhere else.
"""
