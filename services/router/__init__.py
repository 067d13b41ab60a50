"""The router: decides per question which path answers, and records what it did."""
