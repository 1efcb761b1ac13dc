"""Faults injected into workers and brokers while records flow, and a checker that reads what came of every record."""
