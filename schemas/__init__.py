"""What flows: the Arrow schemas of everything that enters and leaves, with units and meanings.

Suites, DuckDB comments, Parquet metadata and the reference pages are generated from here.
"""
