"""The report: one HTML file on a run, with its plots drawn in."""

from training.report.page import FILE, write_report

__all__ = ["FILE", "write_report"]
