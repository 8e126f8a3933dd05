"""The way from one version of the tables to the next. `scripts/revision.py` writes a new step; store/upgrade.py walks them."""
