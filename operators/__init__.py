"""The stages of an event's life as pure functions and state machines.

Nothing here knows the engine, Kafka, Redis, a clock, chance or the environment: time, chance and
what was read are arguments, what happened is the return value. `tests/test_house_rules.py` holds
this, so that the core can be run, replayed and tested without the engine.
"""
