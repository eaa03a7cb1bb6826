"""The audit: seals the event log and finds what was changed in it afterwards."""
