-- Paused executions whose deadline is over are looked for every second, however many wait for somebody.

CREATE INDEX executions_late ON executions (deadline) WHERE status = 'PAUSED' AND deadline IS NOT NULL;
