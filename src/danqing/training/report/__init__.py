"""The report of a run: one HTML file, made from what lies in the run folder alone."""
