"""One file per thing a run can be turned into."""
