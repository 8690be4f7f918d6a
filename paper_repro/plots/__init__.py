"""From results to figures and tables: what is here reads records and draws. It starts no run and imports no torch."""
