"""A simulator of card payments with labelled fraud, an embedded broker, and the one-command tour."""
