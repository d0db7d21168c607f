"""What `pliant elastify` found out and decided, as `report.json` and as a page for people."""
