"""HTML reports and their plots, one look for training, evaluation and benchmarks; it needs the extra [report]."""

from tandem.report.page import write_data, write_page

__all__ = ["write_data", "write_page"]
