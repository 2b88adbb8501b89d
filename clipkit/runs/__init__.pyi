from .differences import RunDifference, compare_runs
from .index import load_runs
from .page import write_runs_page
from .query import RunFilter, best_run, parse_filter, select_runs
from .record import Best, RunRecord, read_run, write_run
from .scan import find_runs

__all__ = [
    "Best",
    "RunDifference",
    "RunFilter",
    "RunRecord",
    "best_run",
    "compare_runs",
    "find_runs",
    "load_runs",
    "parse_filter",
    "read_run",
    "select_runs",
    "write_run",
    "write_runs_page",
]
