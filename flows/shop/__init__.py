"""The policy of the simulated shop, as package data."""
