"""The record of runs, in PostgreSQL. RunStore is its one door."""
