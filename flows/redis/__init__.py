"""Redis: where decisions and profiles are served from, and how processes share parameters.

Redis is a cache here. The topic and the state are the truth: Redis being down delays serving, and
never stops the flow or loses a decision. Keys and their encoding are public (`docs/redis.md`).
"""
