"""The contract: events, catalogue, policy, decisions, dead letters, metrics names.

Everything here is data and its validation. Nothing here knows the engine, Kafka, Redis, a clock or
chance; `operators` and `flows` import from here and never the other way round.
"""
