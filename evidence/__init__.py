"""What was measured on GPUs: results as JSON, one table, one runner a kind."""
