"""Benchmarks of the bench: side by side with LangGraph alone, and against the targets of its design."""

import warnings

# From the embedded Postgres's package, in every process that it is imported in.
warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
