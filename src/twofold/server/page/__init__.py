"""The page at `/`: chat with live instruments, the results database, and predictions of plans.

Plain HTML, CSS and ES modules in `static/`, and the data that they show under `/api/`.
"""
