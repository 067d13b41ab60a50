"""Calibration: from labelled answers to a confidence, a certified threshold, a scope, and a report on all of them."""
