"""Stand-ins for what tests must not reach: each implements a port or a servicer, and ships like code."""
