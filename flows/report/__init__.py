"""The report of a run: one HTML file that needs nothing else, made from plain numbers."""

from flows.report.data import (
    Accounting,
    DecisionSeries,
    Latency,
    Learned,
    ReportData,
    SegmentSeries,
    ShownContent,
    ShownSeries,
    Throughput,
)
from flows.report.page import render_report, write_report

__all__ = [
    "Accounting",
    "DecisionSeries",
    "Latency",
    "Learned",
    "ReportData",
    "SegmentSeries",
    "ShownContent",
    "ShownSeries",
    "Throughput",
    "render_report",
    "write_report",
]
