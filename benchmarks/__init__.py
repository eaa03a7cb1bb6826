"""Benchmarks of the bench: side by side with LangGraph alone, and against the targets of its design."""
