"""Rows to table, figures and text: the report of a sweep. No model, no GPU, neither torch nor Lightning.

naming      what a policy is called
points      rows with their seeds pooled
tables      policies by step budgets, on the terminal and in Markdown
figure      accuracy against denoiser evaluations
order_*     what orders cost in nats, their bounds, and when they unmask which position
orders      reading what runs hold of the first two
panels      what figures and tables of nats share
subproblems how hard tokens of each kind are, and which of them policies unmask
looks       colour and marker of every policy
style       how figures look
paired      tests on the same problems
markdown    the text
together    several denoisers in one panel
published   a paper's rows beside ours
runs        reading run directories, writing the files
"""

from lightning_mdm.report.figure import frontier_figure
from lightning_mdm.report.naming import display_name
from lightning_mdm.report.order_bounds import order_bounds_figure, order_bounds_table, report_order_bounds
from lightning_mdm.report.order_heatmap import HeatmapPanel, heatmap_figure
from lightning_mdm.report.order_nats import order_nats_figure, order_nats_table, report_order_nats
from lightning_mdm.report.runs import keep, keep_seeds, read_runs, report, show_report, write_report
from lightning_mdm.report.subproblems import report_subproblems, subproblem_figure, subproblem_table
from lightning_mdm.report.tables import frontier_table

__all__ = [
    "HeatmapPanel",
    "display_name",
    "frontier_figure",
    "frontier_table",
    "heatmap_figure",
    "keep",
    "keep_seeds",
    "order_bounds_figure",
    "order_bounds_table",
    "order_nats_figure",
    "order_nats_table",
    "read_runs",
    "report",
    "report_order_bounds",
    "report_order_nats",
    "report_subproblems",
    "show_report",
    "subproblem_figure",
    "subproblem_table",
    "write_report",
]
