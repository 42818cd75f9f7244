"""Reports: pure functions of the dicts that analyses, plans and diffs save as JSON."""
