"""The long-running worker: the loop that turns batches into alerts, and all that an operator sees of it."""
