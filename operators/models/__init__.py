"""The online models that LEARN updates, one concept per file."""
